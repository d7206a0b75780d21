//! Recipe -> what a training needs: pairs, vocabulary, tokens, the decoder's shape.

use std::path::Path;
use std::sync::Arc;

use data::Split;
use data::pairs::PairSet;
use models::vocabulary::{cut_from_encoder, cut_from_pretrained, train_bpe};
use models::{DecoderConfig, Pretrained, StartedFrom, Vocabulary};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::checkpoint::is_begun;
use crate::collate::Collator;
use crate::noise::Noise;
use crate::recipe::{Recipe, TokenizerKind};
use crate::tokens::Tokens;
use crate::{Error, Result};

/// What a training works with.
#[derive(Debug)]
pub struct Prepared {
    /// The pair set.
    pub pairs: Arc<PairSet>,
    /// What turns text into the decoder's tokens.
    pub vocabulary: Vocabulary,
    /// Shape of the decoder.
    pub config: DecoderConfig,
    /// What its weights begin with, where the recipe says so; `None` for a run that goes on, which has them.
    pub pretrained: Option<Pretrained>,
    /// Tokens of the training texts.
    pub train: Arc<Tokens>,
    /// Tokens of the dev texts that are evaluated on, in random order, a text's rows under several prompts together.
    pub dev: Arc<Tokens>,
    /// Noise on the vectors that are trained on.
    pub noise: Noise,
}

/// Texts that a BPE vocabulary is learnt from at most.
const BPE_TEXTS: usize = 1_000_000;

/// What rank 0 finds out for all ranks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Beginning {
    /// What is in `tokenizer.json`.
    tokenizer: String,
    config: DecoderConfig,
    /// Whether the run has begun, so that a pre-trained model is not read again.
    goes_on: bool,
}

/// Opens the pair set, makes a vocabulary, tokenizes, and shapes the decoder. Nothing is written.
///
/// # Errors
/// No pair set, or one without training pairs; a vocabulary or a shape that cannot be.
pub fn prepare(recipe: &Recipe) -> Result<Prepared> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    prepare_with(recipe, beginning(recipe, None)?, None, threads)
}

/// Makes a vocabulary and leaves it in the folder `run`, if any, or reads that of the run which goes on there; shapes the
/// decoder.
///
/// # Errors
/// No pair set, or one without training pairs; a vocabulary or a shape that cannot be.
pub fn beginning(recipe: &Recipe, run: Option<&Path>) -> Result<Beginning> {
    let pairs = PairSet::open(&recipe.pairs.dir)?;
    let begun = run.filter(|run| is_begun(run));
    let pretrained = pretrained(recipe, begun.is_some())?;
    let vocabulary = vocabulary(recipe, &pairs, run, pretrained.as_ref())?;
    let config = match begun.filter(|_| recipe.decoder.start_from.is_some()) {
        Some(run) => models::files::read_json(&run.join("decoder.json"))?,
        None => config(recipe, &pairs, &vocabulary, pretrained.as_ref())?,
    };
    let tokenizer = String::from_utf8_lossy(&vocabulary.to_json()?).into_owned();
    Ok(Beginning { tokenizer, config, goes_on: begun.is_some() })
}

/// As [`prepare`] with what rank 0 has found out, tokenizing on so many threads. `space.json` and `decoder.json` are left in
/// `run`, or held against those that lie there.
///
/// # Errors
/// As [`prepare`]; a space or a shape that does not fit what lies in `run`.
pub fn prepare_with(
    recipe: &Recipe,
    beginning: Beginning,
    run: Option<&Path>,
    threads: usize,
) -> Result<Prepared> {
    let Beginning { tokenizer, config, goes_on } = beginning;
    let pairs = Arc::new(PairSet::open(&recipe.pairs.dir)?);
    let vocabulary = Vocabulary::parse(tokenizer.as_bytes(), Path::new("tokenizer.json of rank 0"))?;
    let pretrained = pretrained(recipe, goes_on)?;
    let prepared = tokenized(recipe, pairs, vocabulary, config, pretrained, threads)?;
    if let Some(run) = run {
        leave(run, &prepared)?;
    }
    Ok(prepared)
}

/// The model that the recipe starts from. A run that goes on has all of it in its folder.
fn pretrained(recipe: &Recipe, goes_on: bool) -> Result<Option<Pretrained>> {
    let source = recipe.decoder.start_from.as_ref().filter(|_| !goes_on);
    Ok(source.map(|source| Pretrained::open(source)).transpose()?)
}

fn config(
    recipe: &Recipe,
    pairs: &PairSet,
    vocabulary: &Vocabulary,
    pretrained: Option<&Pretrained>,
) -> Result<DecoderConfig> {
    let [bos, eos, pad] = [vocabulary.bos, vocabulary.eos, vocabulary.pad].map(i64::from);
    let (dim, size) = (pairs.dim() as i64, vocabulary.size() as i64);
    let Some(model) = pretrained else {
        let config = recipe.decoder_config(dim, size, bos, eos, pad);
        config.validate()?;
        return Ok(config);
    };
    // whole, the table keeps rows behind its last token
    let rows = if recipe.tokenizer.cut { size } else { model.config().vocab };
    recipe.decoder_config_of(model.config(), dim, rows, [bos, eos, pad])
}

fn tokenized(
    recipe: &Recipe,
    pairs: Arc<PairSet>,
    vocabulary: Vocabulary,
    config: DecoderConfig,
    pretrained: Option<Pretrained>,
    threads: usize,
) -> Result<Prepared> {
    let train_rows = pairs.indices(Split::Train)?;
    let most = config.max_tokens as usize;
    let train = Tokens::new(&pairs, &train_rows, &vocabulary, most, threads)?;
    if train.is_empty() {
        return Err(Error::NoTrainingPairs {
            dir: recipe.pairs.dir.clone(),
            rows: train_rows.len(),
            too_long: train.too_long,
        });
    }
    let dev = Tokens::new(&pairs, &dev_rows(recipe, &pairs)?, &vocabulary, most, threads)?;
    let noise = Noise::new(&recipe.noise, &recipe.training, pairs.space().normalize);
    let (train, dev) = (Arc::new(train), Arc::new(dev));
    Ok(Prepared { pairs, vocabulary, config, pretrained, train, dev, noise })
}

impl Prepared {
    /// What puts batches of `tokens` together.
    pub fn collator(&self, tokens: &Arc<Tokens>) -> Collator {
        Collator {
            pairs: Arc::clone(&self.pairs),
            tokens: Arc::clone(tokens),
            bos: self.config.bos_token_id,
            pad: self.config.pad_token_id,
            noise: self.noise.clone(),
        }
    }

    /// `blake3:HEX` over the digests of the pair set's shards.
    pub fn pairs_digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for shard in &self.pairs.manifest().shards {
            hasher.update(shard.digest.as_bytes());
        }
        format!("blake3:{}", hasher.finalize().to_hex())
    }
}

/// Dev rows in random order, those of one text together: enough for the loss, which is over the rows of all prompts, and
/// for the round trip, which is over those of one.
fn dev_rows(recipe: &Recipe, pairs: &PairSet) -> Result<Vec<u32>> {
    let rows = pairs.indices(Split::Dev)?;
    let prompts = pairs.space().prompts().count();
    let mut texts: Vec<&[u32]> = rows.chunks(prompts).collect();
    texts.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.training.seed));
    let mut rows = texts.concat();
    rows.truncate(recipe.training.eval_texts.max(recipe.eval.texts * prompts));
    Ok(rows)
}

fn vocabulary(
    recipe: &Recipe,
    pairs: &PairSet,
    run: Option<&Path>,
    pretrained: Option<&Pretrained>,
) -> Result<Vocabulary> {
    let saved = run.map(|run| run.join("tokenizer.json"));
    // one that lies there without a checkpoint is of a training that never began, maybe of another recipe
    let goes_on = run.is_some_and(is_begun);
    if let Some(path) = saved.as_ref().filter(|path| goes_on && path.exists()) {
        return Ok(Vocabulary::open(path)?);
    }
    // the rows of one prompt have all the texts
    let rows = pairs.indices_under(Split::Train, &pairs.space().prompt)?;
    // an even sample where the corpus is larger than what is learnt from
    let stride = rows.len().div_ceil(BPE_TEXTS).max(1);
    let texts = || rows.iter().map(|&row| pairs.text(row as usize).to_owned());
    let vocabulary = match (pretrained, recipe.tokenizer.kind) {
        (Some(model), _) if recipe.tokenizer.cut => cut_from_pretrained(model.vocabulary()?, texts())?,
        (Some(model), _) => model.vocabulary()?.clone(),
        (None, TokenizerKind::Bpe) => {
            let texts: Vec<String> =
                rows.iter().step_by(stride).map(|&row| pairs.text(row as usize).to_owned()).collect();
            train_bpe(texts.into_iter(), recipe.tokenizer.vocab)?
        }
        (None, TokenizerKind::Encoder) => {
            let encoder = recipe.open_encoder()?;
            cut_from_encoder(models::Embed::tokenizer(&encoder), texts())?
        }
    };
    if let Some(path) = saved {
        vocabulary.save(&path)?;
    }
    Ok(vocabulary)
}

/// Leaves the space, the decoder's shape and what it starts from in the run folder, or checks that they are those that
/// lie there.
fn leave(run: &Path, prepared: &Prepared) -> Result<()> {
    let Prepared { pairs, config, pretrained, .. } = prepared;
    let (space, decoder) = (run.join("space.json"), run.join("decoder.json"));
    if is_begun(run) {
        pairs.space().require_same(&models::Space::read(&space)?, "the pair set", "the run")?;
        if models::files::read_json::<DecoderConfig>(&decoder)? != *config {
            let differences = vec!["the decoder's shape is not that of decoder.json".to_owned()];
            return Err(Error::OtherRecipe { dir: run.to_owned(), differences });
        }
        return Ok(());
    }
    pairs.space().write(&space)?;
    let started_from = run.join(StartedFrom::FILE);
    match pretrained {
        Some(model) => models::files::write_json(&started_from, &model.started_from()?)?,
        // of a training that never began
        None if started_from.exists() => fs_err::remove_file(&started_from)?,
        None => {}
    }
    Ok(models::files::write_json(&decoder, config)?)
}
