//! A process's place among the others, from the variables that torchrun sets.

use super::group::Network;
use super::store::Address;
use crate::error::{Error, Result};

/// Which of how many processes this is, and where they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Number of this process, from 0 (`RANK`).
    pub rank: usize,
    /// Number of processes (`WORLD_SIZE`).
    pub size: usize,
    /// Number of this process on its machine (`LOCAL_RANK`).
    pub local_rank: usize,
    /// Number of processes on its machine (`LOCAL_WORLD_SIZE`; as many as are known of where it is not set).
    pub local_size: usize,
    /// Where the store is (`MASTER_ADDR`, `MASTER_PORT`).
    pub address: Address,
    /// Whether rank 0 serves the store; otherwise the launcher does (`TORCHELASTIC_USE_AGENT_STORE`).
    pub serves: bool,
    /// How often the launcher has started the processes again (`TORCHELASTIC_RESTART_COUNT`): keys of one attempt are
    /// not those of another.
    pub attempt: u64,
    /// Over which network Gloo connects (`GLOO_SOCKET_IFNAME`; the loopback where the store is there).
    pub network: Network,
}

impl Place {
    /// Reads torchrun's variables through `variable`; `None` where neither `RANK` nor `WORLD_SIZE` is set.
    ///
    /// # Errors
    /// [`Error::LaunchVariable`] for one that is missing, no number or out of range.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        if variable("RANK").is_none() && variable("WORLD_SIZE").is_none() {
            return Ok(None);
        }
        let size = number(&variable, "WORLD_SIZE", None)?;
        let rank = number(&variable, "RANK", None)?;
        if size == 0 {
            return Err(wrong("WORLD_SIZE", "0", "must be at least 1"));
        }
        if rank >= size {
            return Err(wrong(
                "RANK",
                &rank.to_string(),
                &format!("WORLD_SIZE is {size}: ranks go to {}", size - 1),
            ));
        }
        let port = number(&variable, "MASTER_PORT", Some(29500))?;
        let port = u16::try_from(port)
            .map_err(|_| wrong("MASTER_PORT", &port.to_string(), "a port is at most 65535"))?;
        let host = match variable("MASTER_ADDR") {
            Some(host) if !host.is_empty() => host,
            _ if size == 1 => "127.0.0.1".to_owned(),
            _ => return Err(wrong("MASTER_ADDR", "", "the others cannot be found without it")),
        };
        let by_launcher = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let network = match variable("GLOO_SOCKET_IFNAME") {
            Some(name) if !name.is_empty() => Network::Interface(name),
            _ if ["localhost", "127.0.0.1", "::1"].contains(&host.as_str()) => Network::Host(host.clone()),
            _ => Network::Default,
        };
        let local_rank = number(&variable, "LOCAL_RANK", Some(0))?;
        let local_size = number(&variable, "LOCAL_WORLD_SIZE", Some(local_rank + 1))?;
        if local_rank >= local_size {
            let reason = format!("LOCAL_WORLD_SIZE is {local_size}: they count from 0");
            return Err(wrong("LOCAL_RANK", &local_rank.to_string(), &reason));
        }
        Ok(Some(Self {
            rank: rank as usize,
            size: size as usize,
            local_rank: local_rank as usize,
            local_size: local_size as usize,
            address: Address { host, port },
            serves: rank == 0 && !by_launcher,
            attempt: number(&variable, "TORCHELASTIC_RESTART_COUNT", Some(0))?,
            network,
        }))
    }
}

fn number(
    variable: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    default: Option<u64>,
) -> Result<u64> {
    match (variable(name), default) {
        (Some(value), _) => value.trim().parse().map_err(|_| wrong(name, &value, "is no number from 0 on")),
        (None, Some(default)) => Ok(default),
        (None, None) => Err(wrong(name, "", "is not set, though its companion is")),
    }
}

fn wrong(name: &'static str, value: &str, reason: &str) -> Error {
    Error::LaunchVariable { name, value: value.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Place>> {
        Place::read(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn torchruns_variables_give_a_place() {
        assert_eq!(read(&[("LOCAL_RANK", "3")]).unwrap(), None);
        let all = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node-a"),
            ("MASTER_PORT", "1234"),
        ];
        let place = read(&all).unwrap().unwrap();
        assert_eq!((place.rank, place.size, place.attempt), (5, 8, 0));
        assert_eq!((place.local_rank, place.local_size), (1, 2));
        assert_eq!((place.address.to_string().as_str(), place.serves), ("node-a:1234", false));
        assert_eq!(place.network, Network::Default);
        let alone = read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap().unwrap();
        assert!(alone.serves);
        assert_eq!(alone.network, Network::Host("127.0.0.1".into()));
    }

    #[test]
    fn a_store_of_the_launcher_is_not_served_again() {
        let place = [
            ("RANK", "0"),
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "a"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("GLOO_SOCKET_IFNAME", "eth7"),
        ];
        let place = read(&place).unwrap().unwrap();
        assert_eq!((place.serves, place.attempt), (false, 2));
        assert_eq!(place.network, Network::Interface("eth7".into()));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refusal = |variables: &[(&str, &str)]| read(variables).unwrap_err().to_string();
        assert!(refusal(&[("RANK", "0")]).contains("WORLD_SIZE"));
        assert!(refusal(&[("RANK", "one"), ("WORLD_SIZE", "2")]).contains("RANK"));
        assert!(refusal(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("ranks go to 1"));
        assert!(refusal(&[("RANK", "0"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR"));
        let local = [
            ("RANK", "0"),
            ("WORLD_SIZE", "4"),
            ("MASTER_ADDR", "a"),
            ("LOCAL_RANK", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
        ];
        assert!(refusal(&local).contains("LOCAL_WORLD_SIZE is 2"));
        let port = [("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_PORT", "70000")];
        assert!(refusal(&port).contains("65535"));
    }
}
