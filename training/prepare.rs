//! Recipe -> what a training needs: pairs, vocabulary, tokens, the decoder's shape.

use std::path::Path;
use std::sync::Arc;

use data::Split;
use data::pairs::PairSet;
use models::vocabulary::{cut_from_encoder, train_bpe};
use models::{DecoderConfig, Vocabulary};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

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
    /// Tokens of the training texts.
    pub train: Arc<Tokens>,
    /// Tokens of the dev texts that are evaluated on, in random order, a text's rows under several prompts together.
    pub dev: Arc<Tokens>,
    /// Noise on the vectors that are trained on.
    pub noise: Noise,
}

/// Texts that a BPE vocabulary is learnt from at most.
const BPE_TEXTS: usize = 1_000_000;

/// Opens the pair set, makes a vocabulary, tokenizes, and shapes the decoder. Nothing is written.
///
/// # Errors
/// No pair set, or one without training pairs; a vocabulary or a shape that cannot be.
pub fn prepare(recipe: &Recipe) -> Result<Prepared> {
    let pairs = Arc::new(PairSet::open(&recipe.pairs.dir)?);
    let vocabulary = vocabulary(recipe, &pairs, None)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    with_vocabulary(recipe, pairs, vocabulary, threads)
}

/// Makes a vocabulary and leaves it in the folder `run`, if any, or reads that of the run which goes on there; gives what is
/// in its `tokenizer.json`.
///
/// # Errors
/// No pair set, or one without training pairs; a vocabulary that cannot be.
pub fn first_vocabulary(recipe: &Recipe, run: Option<&Path>) -> Result<Vec<u8>> {
    let pairs = PairSet::open(&recipe.pairs.dir)?;
    Ok(vocabulary(recipe, &pairs, run)?.to_json()?)
}

/// As [`prepare`] with a vocabulary that is known, tokenizing on so many threads. `space.json` and `decoder.json` are left
/// in `run`, or held against those that lie there.
///
/// # Errors
/// As [`prepare`]; a space or a shape that does not fit what lies in `run`.
pub fn prepare_with(
    recipe: &Recipe,
    vocabulary: Vocabulary,
    run: Option<&Path>,
    threads: usize,
) -> Result<Prepared> {
    let pairs = Arc::new(PairSet::open(&recipe.pairs.dir)?);
    let prepared = with_vocabulary(recipe, pairs, vocabulary, threads)?;
    if let Some(run) = run {
        leave(run, &prepared.pairs, &prepared.config)?;
    }
    Ok(prepared)
}

fn with_vocabulary(
    recipe: &Recipe,
    pairs: Arc<PairSet>,
    vocabulary: Vocabulary,
    threads: usize,
) -> Result<Prepared> {
    let train_rows = pairs.indices(Split::Train)?;
    let [bos, eos, pad] = [vocabulary.bos, vocabulary.eos, vocabulary.pad].map(i64::from);
    let config = recipe.decoder_config(pairs.dim() as i64, vocabulary.size() as i64, bos, eos, pad);
    config.validate()?;
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
    let noise =
        Noise::new(&recipe.noise, recipe.training.length_told, recipe.training.seed, pairs.space().normalize);
    Ok(Prepared { pairs, vocabulary, config, train: Arc::new(train), dev: Arc::new(dev), noise })
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

    /// The space of hypotheses: that of the pairs under the first prompt alone.
    pub fn hypothesis_space(&self) -> models::Space {
        models::Space { other_prompts: Vec::new(), ..self.pairs.space().clone() }
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

fn vocabulary(recipe: &Recipe, pairs: &PairSet, run: Option<&Path>) -> Result<Vocabulary> {
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
    let vocabulary = match recipe.tokenizer.kind {
        TokenizerKind::Bpe => {
            let texts: Vec<String> =
                rows.iter().step_by(stride).map(|&row| pairs.text(row as usize).to_owned()).collect();
            train_bpe(texts.into_iter(), recipe.tokenizer.vocab)?
        }
        TokenizerKind::Encoder => {
            let encoder = recipe.open_encoder()?;
            let texts = rows.iter().map(|&row| pairs.text(row as usize).to_owned());
            cut_from_encoder(models::Embed::tokenizer(&encoder), texts)?
        }
    };
    if let Some(path) = saved {
        vocabulary.save(&path)?;
    }
    Ok(vocabulary)
}

/// Leaves the space and the decoder's shape in the run folder, or checks that they are those that lie there.
fn leave(run: &Path, pairs: &PairSet, config: &DecoderConfig) -> Result<()> {
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
    Ok(models::files::write_json(&decoder, config)?)
}
