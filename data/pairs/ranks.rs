//! One build by several processes: rank 0 curates, all encode shards, rank 0 writes what is written once.
//!
//! They share the pair set's folder. Which rank encodes a shard changes nothing of it: every rank goes through the same
//! stream of documents, and a shard's bytes follow from its place in the stream.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use models::Space;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use torch_ext::World;
use torch_ext::c10d::Absence;

use super::build::BuildReport;
use super::curated::CuratedCorpora;
use super::encode::ShardState;
use crate::{Error, Result};

/// File of the working folder by which the other ranks know that it is rank 0's.
const TOKEN_FILE: &str = "processes.json";
/// How long a shared file system may take to show it.
const PATIENCE: Duration = Duration::from_secs(30);
/// What ranks wait for, in errors.
const CURATION: &str = "pairs build, curation";
const ENCODING: &str = "pairs build, encoding";
const MANIFEST: &str = "pairs build, manifest";

/// What rank 0 found to be done.
#[derive(Serialize, Deserialize)]
pub(super) enum Plan {
    /// Nothing: the pair set is there.
    Built(Box<BuildReport>),
    /// Shards to be encoded.
    Encode(Box<EncodePlan>),
}

/// What every rank encodes from.
#[derive(Serialize, Deserialize)]
pub(super) struct EncodePlan {
    pub(super) space: Space,
    /// What rank 0's encoder computes in, where it is known.
    dtype: Option<String>,
    pub(super) curated: CuratedCorpora,
    /// Shards that are complete, by number.
    pub(super) states: BTreeMap<usize, ShardState>,
    /// What the working folder's token says.
    token: String,
}

impl EncodePlan {
    /// The plan, and its token in the working folder where there are others to look for it.
    pub(super) fn new(
        world: &World,
        work: &Path,
        (space, dtype): (Space, Option<String>),
        curated: CuratedCorpora,
        states: BTreeMap<usize, ShardState>,
    ) -> Result<Self> {
        let token = if world.size() > 1 { write_token(work)? } else { String::new() };
        Ok(Self { space, dtype, curated, states, token })
    }

    /// Makes sure that this rank sees rank 0's working folder, and has its encoder, which computes in `dtype`.
    pub(super) fn check(&self, world: &World, work: &Path, space: &Space, dtype: Option<&str>) -> Result<()> {
        if world.is_first() {
            return Ok(());
        }
        self.space.require_same(space, "the encoder of rank 0", "the encoder of this rank")?;
        if let (Some(first), Some(own)) = (self.dtype.as_deref(), dtype)
            && first != own
        {
            return Err(Error::Setting {
                key: "encoder.dtype".into(),
                value: own.to_owned(),
                reason: format!("so it is on rank {}, and rank 0 encodes in {first}", world.rank()),
            });
        }
        let start = Instant::now();
        while models::files::read_json::<String>(&work.join(TOKEN_FILE)).ok().as_ref() != Some(&self.token) {
            if start.elapsed() > PATIENCE {
                return Err(Error::NotShared { folder: work.to_owned(), rank: world.rank() });
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

fn write_token(work: &Path) -> Result<String> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let token = format!("{}-{}", time.as_nanos(), std::process::id());
    models::files::write_json(&work.join(TOKEN_FILE), &token)?;
    Ok(token)
}

/// What rank 0 found to be done, on all ranks; the others wait for it.
pub(super) fn plan(world: &World, work: impl FnOnce() -> Result<Plan>) -> Result<Plan> {
    shared(world, CURATION, work)
}

/// What rank 0 says of the whole, on all ranks.
pub(super) fn report(world: &World, work: impl FnOnce() -> Result<BuildReport>) -> Result<BuildReport> {
    shared(world, MANIFEST, work)
}

/// Every rank's shards together with those that were there, when all ranks are done; `shards` is how many there are.
pub(super) fn gather(
    world: &World,
    mut states: BTreeMap<usize, ShardState>,
    own: BTreeMap<usize, ShardState>,
    shards: usize,
) -> Result<Vec<ShardState>> {
    world.patient_barrier(ENCODING)?;
    if world.size() == 1 {
        states.extend(own);
    } else {
        for bytes in world.gather_bytes(to_json(&own)?)? {
            states.extend(from_json::<BTreeMap<usize, ShardState>>(&bytes)?);
        }
    }
    match (0..shards).find(|index| !states.contains_key(index)) {
        Some(shard) => Err(Error::ShardWithoutRank { shard }),
        None => Ok(states.into_values().collect()),
    }
}

/// Whether a build on another rank has ended with an error or was stopped: then this one ends too.
pub(super) fn check(world: &World) -> Result<()> {
    world.check_others(ENCODING).map_err(Error::from)
}

/// Lets the other ranks know of an error. What another rank was asked is asked of all.
pub(super) fn tell<T>(world: &World, built: Result<T>) -> Result<T> {
    let Err(error) = built else { return built };
    world.tell_failure(&error.to_string());
    match error {
        Error::TorchExt(torch_ext::Error::Ranks(fault))
            if fault.how == Absence::Failed && fault.message == Error::Stopped.to_string() =>
        {
            Err(Error::Stopped)
        }
        error => Err(error),
    }
}

fn shared<T: Serialize + DeserializeOwned>(
    world: &World,
    op: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if world.size() == 1 {
        return work();
    }
    from_json(&world.first_does(op, || to_json(&work()?))?)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| Error::Json { path: TOKEN_FILE.into(), source })
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json { path: TOKEN_FILE.into(), source })
}
