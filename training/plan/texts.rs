//! The texts of a plan: those of the pair set, or such as the recipe lets one expect.

use models::{DecoderConfig, Flops};

use super::cost::Texts;
use super::memory::Part;
use super::{PAIRS, PlanOptions, TOKENS_PER_TEXT};
use crate::batches::{Epoch, padding_percent};
use crate::prepare::Prepared;
use crate::recipe::Recipe;
use crate::setup::batch_options;

/// What the pair set says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) texts: usize,
    pub(super) too_long: usize,
    /// Target tokens of all texts.
    pub(super) tokens: u64,
    /// Steps of the first epoch.
    pub(super) steps: usize,
    pub(super) padding_percent: f64,
    /// FLOPs of the forward pass of all texts.
    pub(super) flops: Flops,
    /// The largest part of a step in the first epoch.
    pub(super) largest: Part,
}

impl Measured {
    /// Also gives the first epoch, which the plan's steps are taken from.
    pub(super) fn new(recipe: &Recipe, prepared: &Prepared, options: &PlanOptions) -> (Self, Epoch) {
        let lengths = prepared.train.lengths();
        let epoch = Epoch::new(&lengths, 0, batch_options(recipe));
        let of_text = |&length: &u32| flops_of_text(recipe, &prepared.config, f64::from(length));
        let measured = Self {
            texts: lengths.len(),
            too_long: prepared.train.too_long,
            tokens: prepared.train.total(),
            steps: epoch.len(),
            padding_percent: padding_percent(&epoch, &lengths),
            flops: lengths.iter().map(of_text).fold(Flops::default(), |sum, flops| sum + flops),
            largest: largest(recipe, options, &epoch, &lengths),
        };
        (measured, epoch)
    }
}

/// Parts that a step is computed in, by all processes.
fn parts_of(recipe: &Recipe, options: &PlanOptions) -> usize {
    recipe.training.accumulate.max(1) * options.processes.max(1)
}

/// FLOPs of the forward pass of a text in the mean of the steps: those that refine have a prefix three times as long and
/// a hypothesis, taken to be as long as the text.
fn flops_of_text(recipe: &Recipe, config: &DecoderConfig, tokens: f64) -> Flops {
    let refining = refining_share(recipe);
    config.flops(tokens) * (1.0 - refining) + config.refinement_flops(tokens, tokens) * refining
}

/// Share of the steps that refine.
pub(super) fn refining_share(recipe: &Recipe) -> f64 {
    recipe.refinement.share * (1.0 - recipe.refinement.begin)
}

/// Positions of a text of so many target tokens, in the steps that have the most.
fn width(recipe: &Recipe, tokens: u64) -> u64 {
    let prefix = recipe.decoder.prefix_tokens as u64;
    if recipe.refinement.share > 0.0 { 3 * prefix + 2 * tokens } else { prefix + tokens }
}

/// The part with the most positions. A batch is cut into parts of equal numbers of texts, as the collator does it; the
/// processes' shares, which are of about as many tokens, are taken as such parts too.
fn largest(recipe: &Recipe, options: &PlanOptions, epoch: &Epoch, lengths: &[u32]) -> Part {
    let part = |rows: &[u32]| {
        let longest = rows.iter().map(|&row| u64::from(lengths[row as usize])).max().unwrap_or(0);
        Part { texts: rows.len() as u64, width: width(recipe, longest) }
    };
    let batches = (0..epoch.len()).filter_map(|number| epoch.batch(number));
    let count = parts_of(recipe, options);
    let parts = batches.flat_map(|rows| rows.chunks(rows.len().div_ceil(count).max(1)));
    parts.map(part).max_by_key(|part| part.positions()).unwrap_or(Part { texts: 0, width: width(recipe, 0) })
}

/// The largest part of a step that a recipe allows: of the shortest texts, since each brings its prefix along. A word
/// is a token at least.
pub(super) fn largest_on_paper(recipe: &Recipe, options: &PlanOptions) -> Part {
    let training = &recipe.training;
    let shortest = recipe.curation.min_words.max(1) + 1;
    let texts = (training.batch_tokens / shortest).min(training.batch_texts.unwrap_or(usize::MAX)).max(1);
    Part {
        texts: texts.div_ceil(parts_of(recipe, options)) as u64,
        width: width(recipe, training.batch_tokens.div_ceil(texts) as u64),
    }
}

/// The texts that work and time are reckoned for: the options', else the pair set's, else the defaults.
pub(super) fn assumed(
    recipe: &Recipe,
    config: &DecoderConfig,
    measured: Option<&Measured>,
    options: &PlanOptions,
) -> Texts {
    let count = measured.map(|m| m.texts.max(1) as f64);
    let mean = measured.zip(count).map(|(m, count)| m.tokens as f64 / count);
    let default = TOKENS_PER_TEXT.min(config.max_tokens as f64);
    let tokens_per_text = options.tokens_per_text.or(mean).unwrap_or(default);
    let flops = match (measured.zip(count), options.tokens_per_text) {
        (Some((m, count)), None) => m.flops / count,
        _ => flops_of_text(recipe, config, tokens_per_text),
    };
    let batch_tokens = recipe.training.batch_tokens as f64;
    let most = recipe.training.batch_texts.map_or(f64::INFINITY, |texts| texts as f64 * tokens_per_text);
    let tokens_per_step = match (measured, options.tokens_per_text) {
        (Some(m), None) => m.tokens as f64 / m.steps.max(1) as f64,
        _ => batch_tokens.min(most),
    };
    Texts {
        pairs: options.pairs.or(measured.map(|m| m.texts as u64)).unwrap_or(PAIRS),
        tokens_per_text,
        flops,
        tokens_per_step,
        padding_percent: measured.map_or(0.0, |m| m.padding_percent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let mut recipe = Recipe::default();
        recipe.decoder.prefix_tokens = 4;
        recipe.training.batch_tokens = 20;
        recipe.training.accumulate = 2;
        recipe
    }

    #[test]
    fn the_largest_part_is_that_of_the_shortest_texts() {
        let lengths = [2u32, 2, 2, 2, 2, 2, 2, 2, 2, 2, 10, 10];
        let recipe = recipe();
        let epoch = Epoch::new(&lengths, 0, batch_options(&recipe));
        // ten texts of 2 tokens in two parts, each text with its prefix
        let (alone, two) = (PlanOptions::default(), PlanOptions { processes: 2, ..PlanOptions::default() });
        assert_eq!(largest(&recipe, &alone, &epoch, &lengths), Part { texts: 5, width: 6 });
        assert_eq!(largest(&recipe, &two, &epoch, &lengths), Part { texts: 3, width: 6 });
    }

    #[test]
    fn a_refinement_has_a_longer_prefix_and_a_hypothesis() {
        let mut recipe = recipe();
        recipe.refinement.share = 0.5;
        recipe.refinement.begin = 0.4;
        assert_eq!(width(&recipe, 10), 12 + 20);
        let config = recipe.decoder_config(8, 300, 1, 2, 0);
        let (first, refined) = (config.flops(10.0), config.refinement_flops(10.0, 10.0));
        assert!((refined.blocks / first.blocks - 32.0 / 14.0).abs() < 1e-12);
        assert_eq!(refined.head, first.head);
        assert_eq!(refined.projector, 3.0 * first.projector);
        // three steps in ten refine
        let mean = flops_of_text(&recipe, &config, 10.0);
        assert!((mean.forward() - 0.7 * first.forward() - 0.3 * refined.forward()).abs() < 1e-3);
    }

    #[test]
    fn on_paper_batch_texts_bounds_it() {
        let mut recipe = recipe();
        recipe.curation.min_words = 3;
        // 5 texts of 4 tokens in parts of 3 and 2
        assert_eq!(largest_on_paper(&recipe, &PlanOptions::default()), Part { texts: 3, width: 8 });
        recipe.training.batch_texts = Some(2);
        assert_eq!(largest_on_paper(&recipe, &PlanOptions::default()), Part { texts: 1, width: 14 });
    }
}
