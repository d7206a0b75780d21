//! How to reach a hub: given settings, and the environment for what is not given.

use std::path::PathBuf;
use std::time::Duration;

use super::patience::Patience;
use super::progress::{self, ProgressHandler};

/// The hub that is asked where none is named.
const ENDPOINT: &str = "https://huggingface.co";

/// How to reach the hub. What is `None` comes from the environment.
#[derive(Debug, Clone, Default)]
pub struct HubSettings {
    /// Root address of the hub (`HF_ENDPOINT`).
    pub endpoint: Option<String>,
    /// Folder of the cache (`HF_HUB_CACHE`, `HF_HOME`).
    pub cache: Option<PathBuf>,
    /// Access token (`HF_TOKEN`, `HF_TOKEN_PATH`).
    pub token: Option<String>,
    /// Use the cache alone.
    pub offline: bool,
    /// A connection that says nothing for so long is given up (`HF_HUB_DOWNLOAD_TIMEOUT`, in seconds); else 30 s.
    pub timeout: Option<Duration>,
    /// How often a request is made before its failure is an error, 1 at least; else 5.
    pub tries: Option<u32>,
    /// Pause before the second try, doubled before each further one; else 0.5 s.
    pub pause: Option<Duration>,
    /// Is told how far each fetched file is; else nobody is.
    pub progress: Option<ProgressHandler>,
}

impl HubSettings {
    /// Everything from the environment; progress goes to the process's handler ([`on_progress`](super::on_progress)).
    pub fn from_env() -> Self {
        Self {
            offline: is_on(variable("HF_HUB_OFFLINE").as_deref()),
            progress: progress::of_process(),
            ..Self::default()
        }
    }

    /// Root address of the hub that is asked.
    pub fn endpoint(&self) -> String {
        let given = self.endpoint.clone().or_else(|| variable("HF_ENDPOINT"));
        given.unwrap_or_else(|| ENDPOINT.to_owned())
    }

    /// Folder of the cache.
    pub fn cache(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(hf_hub::resolve_cache_dir)
    }

    pub(super) fn token(&self) -> Option<String> {
        self.token_and_place().map(|(token, _)| token)
    }

    /// Where the token comes from: a variable, or the path of a file; never the token.
    pub fn token_place(&self) -> Option<String> {
        self.token_and_place().map(|(_, place)| place)
    }

    /// As `huggingface_hub` finds it: the variable, the file that a variable names, the file of `huggingface-cli login`.
    fn token_and_place(&self) -> Option<(String, String)> {
        let (token, place) = match (&self.token, variable("HF_TOKEN")) {
            (Some(token), _) => (token.clone(), "given".to_owned()),
            _ if is_on(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").as_deref()) => return None,
            (None, Some(token)) => (token, "HF_TOKEN".to_owned()),
            (None, None) => {
                let named = variable("HF_TOKEN_PATH").map(PathBuf::from);
                let file = named.unwrap_or_else(|| hf_hub::hf_home().join("token"));
                (fs_err::read_to_string(&file).ok()?, file.display().to_string())
            }
        };
        let token = token.trim();
        (!token.is_empty()).then(|| (token.to_owned(), place))
    }

    pub(super) fn patience(&self) -> Patience {
        let seconds = || variable("HF_HUB_DOWNLOAD_TIMEOUT")?.trim().parse().ok().filter(|&s: &u64| s > 0);
        let usual = Patience::default();
        Patience {
            timeout: self.timeout.or_else(|| seconds().map(Duration::from_secs)).unwrap_or(usual.timeout),
            tries: self.tries.unwrap_or(usual.tries).max(1),
            pause: self.pause.unwrap_or(usual.pause),
        }
    }
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// huggingface_hub's reading of a switch (`constants._is_true`).
fn is_on(value: Option<&str>) -> bool {
    value.is_some_and(|word| matches!(word.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_is_read_as_huggingface_hub_reads_it() {
        assert!(["1", "true", "YES", "On"].into_iter().all(|word| is_on(Some(word))));
        assert!(![Some("0"), Some(""), Some("no"), None].into_iter().any(is_on));
    }
}
