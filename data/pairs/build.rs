//! Builds a pair set: corpora -> curated texts in partitions on disk -> vectors -> shards -> manifest.
//!
//! Each step leaves a file that says it is done, so that a build killed at any moment goes on after the last one.
//! What a shard holds depends on the curated texts and its own number only, never on where a process began.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use fs_err as fs;
use models::{Embed, Space};
use serde::{Deserialize, Serialize};
use torch_ext::World;

use super::config::{BuildConfig, Storage, WORK_FOLDER};
use super::encode::{self, ShardState};
use super::identity::{BUILD_FILE, Identity};
use super::inputs::{self, Inputs};
use super::lock::BuildLock;
use super::manifest::{CosineLoss, Counts, FORMAT, Flow, MANIFEST_FILE, Manifest, SPACE_FILE};
use super::progress::{BuildProgress, Watch};
use super::prompts::Encoders;
use super::ranks::{EncodePlan, Plan};
use super::{curated, files, near, ranks};
use crate::{Error, Result};

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Built from the start in this process.
    Built,
    /// An interrupted build was brought to its end.
    Resumed,
    /// The same pair set was there already; nothing was done.
    AlreadyBuilt,
}

/// What a build did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuildReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Shards found complete from an earlier process.
    pub resumed_shards: usize,
    /// Time it took in this process.
    pub elapsed: Duration,
    /// The manifest, as written.
    pub manifest: Manifest,
}

/// Builds the pair set of `config` in `config.dir`, or brings an interrupted build to its end. `encoders` are one encoder
/// under one prompt or several: every text gets a row under each, in their order.
///
/// # Errors
/// No encoder, two of one prompt, or encoders that differ in more than that.
/// A corpus, an evaluation file or the folder cannot be read or written; no text is left; the encoder fails or gives a
/// vector that is not finite; the folder holds another pair set, or one of files that have changed since, or another
/// process builds there. Complete shards stay, and the same call goes on after them.
pub fn build(
    config: &BuildConfig,
    encoders: &[&dyn Embed],
    progress: &mut dyn FnMut(BuildProgress),
) -> Result<BuildReport> {
    build_until(config, encoders, progress, &AtomicBool::new(false), &World::alone())
}

/// [`build`], which ends with [`Error::Stopped`] soon after `stop` was set; the same call goes on from there. Where `world`
/// has several ranks, all call it with the same recipe and encoders over one shared folder, and all get the report: rank 0
/// curates while the others wait, then each encodes its share of the shards. The bytes are those of one process.
///
/// # Errors
/// As [`build`]; [`Error::NotShared`] where a rank does not see rank 0's working folder. An error on one rank ends the
/// build on all, with its rank and message.
pub fn build_until(
    config: &BuildConfig,
    encoders: &[&dyn Embed],
    progress: &mut dyn FnMut(BuildProgress),
    stop: &AtomicBool,
    world: &World,
) -> Result<BuildReport> {
    let mut watch = Watch { progress, stop, world, asked: Instant::now() };
    ranks::tell(world, build_on(config, encoders, world, &mut watch))
}

fn build_on(
    config: &BuildConfig,
    encoders: &[&dyn Embed],
    world: &World,
    watch: &mut Watch<'_>,
) -> Result<BuildReport> {
    let start = Instant::now();
    config.validate()?;
    let (encoders, space) = Encoders::new(encoders)?;
    // rank 0 holds the lock to the end
    let mut claimed = None;
    let plan = ranks::plan(world, || {
        fs::create_dir_all(&config.dir)?;
        let lock = BuildLock::take(&config.dir)?;
        let (plan, claim) = begin(config, encoders, &space, watch, start)?;
        claimed = claim.map(|claim| (lock, claim));
        Ok(plan)
    })?;
    let plan = match plan {
        Plan::Built(report) => return Ok(*report),
        Plan::Encode(plan) => *plan,
    };
    let work = config.dir.join(WORK_FOLDER);
    plan.check(world, &work, &space, config.encoder_dtype.as_deref())?;
    let near = near::found(config, &work);
    let encoded = encode::encode(config, encoders, &plan, &near, watch)?;
    let EncodePlan { curated, states, .. } = plan;
    let resumed_shards = states.len();
    let states = ranks::gather(world, states, encoded.states, encoded.shards)?;
    ranks::report(world, || {
        // none but rank 0 is asked, which has claimed the folder or not come here
        let Some((_lock, (identity, resumed))) = claimed.take() else { return Err(Error::Stopped) };
        let manifest = finish(config, identity, curated.flow, states, encoded.duplicates)?;
        let outcome = if resumed { Outcome::Resumed } else { Outcome::Built };
        Ok(BuildReport { outcome, resumed_shards, elapsed: start.elapsed(), manifest })
    })
}

/// What is built, and whether it was begun by an earlier process.
type Claim = (Identity, bool);

/// What rank 0 does before anything is encoded: looks at what is there, curates, finds near duplicates.
fn begin(
    config: &BuildConfig,
    encoders: Encoders<'_>,
    space: &Space,
    watch: &mut Watch<'_>,
    start: Instant,
) -> Result<(Plan, Option<Claim>)> {
    let work = config.dir.join(WORK_FOLDER);
    let config = &inputs::pinned(config, &work.join(BUILD_FILE))?;
    let inputs = Inputs::of(config);
    let identity = Identity::of(config, space)?;
    if config.dir.join(MANIFEST_FILE).exists() {
        let manifest = built_before(config, &identity.with_files_at_hand(inputs))?;
        remove_folder(&work)?;
        let resumed_shards = manifest.shards.len();
        let (outcome, elapsed) = (Outcome::AlreadyBuilt, start.elapsed());
        let report = BuildReport { outcome, resumed_shards, elapsed, manifest };
        return Ok((Plan::Built(Box::new(report)), None));
    }
    files::remove_temporary(&config.dir)?;
    let (identity, resumed) = claim(&config.dir, &work, identity, inputs)?;
    let curated = match curated::finished(&work)? {
        Some(curated) => curated,
        None => curated::curate(config, encoders, &work, watch)?,
    };
    require_strict(config, &curated.flow)?;
    near::find(config, &curated, &work, watch)?;
    let states = encode::complete_shards(&config.dir, &work)?;
    let (space, dtype) = (identity.space.clone(), config.encoder_dtype.clone());
    let plan = EncodePlan::new(watch.world, &work, (space, dtype), curated, states)?;
    Ok((Plan::Encode(Box::new(plan)), Some((identity, resumed))))
}

/// The manifest of a pair set that is finished, if it is the one wanted.
fn built_before(config: &BuildConfig, wanted: &Identity) -> Result<Manifest> {
    let manifest = Manifest::read(&config.dir)?;
    let there = Identity {
        format: manifest.format,
        recipe: manifest.recipe.clone(),
        space: manifest.space.clone(),
        encoder_dtype: manifest.encoder_dtype.clone(),
        inputs: Inputs::read(&config.dir)?,
    };
    there.require_same(wanted, &config.dir)?;
    require_strict(config, &manifest.flow)?;
    if let Some((there, now)) = there.other_dtype(wanted) {
        // nothing is encoded any more, and `auto` is another one on another machine
        let dir = config.dir.display();
        tracing::warn!("the pairs in {dir} were encoded in {there}, not in {now}; they stay as they are");
    }
    Ok(manifest)
}

/// Writes what makes a folder of shards a pair set.
fn finish(
    config: &BuildConfig,
    identity: Identity,
    flow: Flow,
    states: Vec<ShardState>,
    duplicates: encode::Duplicates,
) -> Result<Manifest> {
    if let Some(inputs) = &identity.inputs {
        inputs.write(&config.dir)?;
    }
    let manifest = manifest_of(config, identity, flow, states, duplicates);
    manifest.space.write(&config.dir.join(SPACE_FILE))?;
    manifest.write(&config.dir)?;
    remove_folder(&config.dir.join(WORK_FOLDER))?;
    Ok(manifest)
}

/// Refuses rows that were skipped by a build that was not yet `strict`.
fn require_strict(config: &BuildConfig, flow: &Flow) -> Result<()> {
    for (corpus, flow) in config.corpora.iter().zip(&flow.corpora) {
        if corpus.strict && flow.rows.malformed > 0 {
            return Err(Error::MalformedRows {
                corpus: corpus.name.clone(),
                malformed: flow.rows.malformed,
                example: flow.rows.examples.first().cloned().unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// Makes the working folder say what is built, or checks that it says the same: then that is what the build goes on
/// with, so that a mere label (the encoder's folder name, say) does not change in its middle.
fn claim(
    dir: &Path,
    work: &Path,
    mut identity: Identity,
    inputs: Result<Inputs>,
) -> Result<(Identity, bool)> {
    let path = work.join(BUILD_FILE);
    if path.exists() {
        let there: Identity = models::files::read_json(&path)?;
        let wanted = identity.with_files_at_hand(inputs);
        there.require_same(&wanted, dir)?;
        there.require_dtype(&wanted, dir)?;
        return Ok((there, true));
    }
    identity.inputs = Some(inputs?);
    // shards of nobody knows what would be taken for this set's by whoever reads `*.arrow`
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "arrow") {
            return Err(Error::ForeignShard { path });
        }
    }
    fs::create_dir_all(work)?;
    models::files::write_json(&path, &identity)?;
    Ok((identity, false))
}

fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn manifest_of(
    config: &BuildConfig,
    identity: Identity,
    mut flow: Flow,
    states: Vec<ShardState>,
    duplicates: encode::Duplicates,
) -> Manifest {
    let mut counts = Counts::default();
    let (mut pairs, mut loss_sum, mut loss_max) = (0, 0.0, 0.0f64);
    for state in &states {
        counts.merge(&state.counts);
        pairs += state.record.rows;
        loss_sum += state.cosine_loss.mean * state.record.rows as f64;
        loss_max = loss_max.max(state.cosine_loss.max);
    }
    duplicates.add_to(&mut flow.drops);
    let cosine_loss = (config.storage == Storage::F16)
        .then(|| CosineLoss { mean: loss_sum / (pairs as f64).max(1.0), max: loss_max });
    Manifest {
        format: FORMAT,
        pairs,
        dim: identity.space.dim,
        storage: config.storage,
        cosine_loss,
        counts,
        flow,
        space: identity.space,
        encoder_dtype: identity.encoder_dtype,
        recipe: identity.recipe,
        shards: states.into_iter().map(|state| state.record).collect(),
    }
}
