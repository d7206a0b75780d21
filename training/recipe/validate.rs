//! What types cannot say: numbers that fit together, folders that differ.

use models::DecoderConfig;

use super::node::Origin;
use super::resolve::Problem;
use super::sections::{DecoderSection, EncoderSection, InputNormalization, Recipe};

/// Collects problems; `need` notes one where a condition does not hold.
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn need(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.add(key.to_owned(), message());
        }
    }

    fn add(&mut self, key: String, message: String) {
        self.0.push(Problem {
            message: format!("`{key}` {message}"),
            key,
            origin: Origin::Default,
            hint: None,
        });
    }

    pub(super) fn at_least_one(&mut self, key: &str, value: usize) {
        self.need(value >= 1, key, || format!("is {value}; it must be at least 1"));
    }

    pub(super) fn positive(&mut self, key: &str, value: f64) {
        self.need(value.is_finite() && value > 0.0, key, || {
            format!("is {value}; it must be a positive number")
        });
    }

    fn within(&mut self, key: &str, value: f64, low: f64, high: f64) {
        self.need((low..high).contains(&value), key, || {
            format!("is {value}; it must be at least {low} and below {high}")
        });
    }
}

impl Recipe {
    /// Everything that is wrong with the recipe, in the order of its sections; empty where nothing is.
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.check_texts(&mut problems);
        check_decoder(&self.decoder, &mut problems);
        self.check_start(&mut problems);
        if problems.0.iter().all(|problem| !problem.key.starts_with("decoder.")) {
            // the decoder's own check has the last word; the vocabulary and the vectors are not known yet
            let vocab = i64::try_from(self.tokenizer.vocab).unwrap_or(i64::MAX);
            let config = self.own_shape().decoder_config(1, vocab.max(8), 1, 2, 0);
            match config.validate() {
                Err(models::Error::DecoderConfig { field, problem }) if field != "vocab" => {
                    problems.add(format!("decoder.{field}"), problem);
                }
                _ => {
                    let fits = weights(&config).is_some_and(|weights| weights <= MOST_WEIGHTS);
                    problems.need(fits, "decoder.hidden", || too_many_weights(&config));
                }
            }
        }
        self.check_training(&mut problems);
        self.check_optimizer(&mut problems);
        self.consistency.check(self, &mut problems);
        problems.0
    }

    /// With the default shape where a pre-trained model decides it: its own is checked once it is read.
    fn own_shape(&self) -> Self {
        let mut recipe = self.clone();
        if self.decoder.start_from.is_some() {
            let DecoderSection { prefix_tokens, projector_hidden, max_tokens, input_scale, .. } =
                self.decoder;
            recipe.decoder = DecoderSection {
                prefix_tokens,
                projector_hidden,
                max_tokens,
                input_scale,
                ..Default::default()
            };
        }
        recipe
    }

    fn check_start(&self, problems: &mut Problems) {
        let Some(source) = &self.decoder.start_from else {
            problems.need(!self.tokenizer.cut, "tokenizer.cut", || {
                "is true; only the tokens of `decoder.start_from` are cut, and that is not said".to_owned()
            });
            return;
        };
        problems.need(!source.trim().is_empty(), "decoder.start_from", || {
            "is empty; a folder or a hub name, or leave it out".to_owned()
        });
        for key in ["tokenizer.kind", "tokenizer.vocab"] {
            problems.need(!self.decoder.said.contains(key), key, || {
                "is said beside `decoder.start_from`, whose tokens the decoder has; leave it out".to_owned()
            });
        }
    }

    fn check_texts(&self, problems: &mut Problems) {
        let name_is_plain = !self.name.contains(['/', '\\', '\n']) && self.name != "..";
        problems.need(name_is_plain, "name", || {
            format!("is {:?}; it names folders, so it may hold no slash", self.name)
        });
        let encoder = &self.encoder;
        problems.need(!encoder.source.trim().is_empty(), "encoder.source", || {
            "is missing: a sentence-transformers folder or a hub name".to_owned()
        });
        check_prompts(encoder, problems);
        problems.at_least_one("encoder.batch_tokens", encoder.batch_tokens);
        if let Some(dim) = encoder.dim {
            problems.at_least_one("encoder.dim", dim);
        }
        if let Some(most) = encoder.max_tokens {
            problems.need(most >= 3, "encoder.max_tokens", || {
                format!("is {most}; two special tokens and one of text are the least")
            });
        }
        for (index, corpus) in self.corpus.iter().enumerate() {
            let mut setting = |result: data::Result<()>| {
                // data names a corpus by its name, a recipe by its number
                data_setting(problems, result, |key| {
                    let field = key.strip_prefix(&format!("corpus.{}.", corpus.name)).unwrap_or(key);
                    format!("corpus.{index}.{field}")
                });
            };
            setting(corpus.validate());
            let first = self.corpus.iter().position(|other| other.name == corpus.name);
            problems.need(first == Some(index), &format!("corpus.{index}.name"), || {
                format!("is {:?}, as another corpus is called already", corpus.name)
            });
        }
        data_setting(problems, self.curation.validate(), str::to_owned);
        data_setting(problems, self.split.validate(), |key| match key.contains(' ') {
            true => "split.dev".to_owned(),
            false => key.to_owned(),
        });
        problems.at_least_one("pairs.shard_rows", self.pairs.shard_rows);
        // 256 bytes, and the special tokens
        problems.need((260..1 << 31).contains(&self.tokenizer.vocab), "tokenizer.vocab", || {
            let vocab = self.tokenizer.vocab;
            format!("is {vocab}; bytes and special tokens alone are 260, and it must be below 2^31")
        });
        problems.need(self.pairs.dir != self.run.dir, "run.dir", || {
            format!("is {}, the folder of the pairs too; a run needs its own", self.run.dir.display())
        });
    }

    fn check_training(&self, problems: &mut Problems) {
        let training = &self.training;
        problems.at_least_one("training.batch_tokens", training.batch_tokens);
        problems.at_least_one("training.accumulate", training.accumulate);
        problems.at_least_one("training.keep_last", training.keep_last);
        if let Some(texts) = training.batch_texts {
            problems.at_least_one("training.batch_texts", texts);
        }
        if let Some(threads) = training.threads {
            problems.need((1..=1024).contains(&threads), "training.threads", || {
                format!("is {threads}; it must be at least 1 and at most 1024")
            });
        }
        let longest = usize::try_from(self.decoder.max_tokens).unwrap_or(0);
        problems.need(training.batch_tokens >= longest, "training.batch_tokens", || {
            format!(
                "is {}; the longest text, decoder.max_tokens = {longest}, must fit into a step",
                training.batch_tokens
            )
        });
        problems.need(
            training.max_steps.is_some() || training.max_minutes.is_some(),
            "training.max_steps",
            || "and `training.max_minutes` are both missing: one must say when to stop".to_owned(),
        );
        problems.need(training.max_steps != Some(0), "training.max_steps", || {
            "is 0; it must be at least 1".to_owned()
        });
        if let Some(minutes) = training.max_minutes {
            problems.need(minutes > 0.0 && minutes <= MOST_MINUTES, "training.max_minutes", || {
                format!(
                    "is {minutes}; it must be a positive number of at most {MOST_MINUTES}, which is a year"
                )
            });
        }
        problems
            .need(training.log_every >= 1, "training.log_every", || "is 0; it must be at least 1".to_owned());
        problems.need(
            training.clip_norm.is_finite() && training.clip_norm >= 0.0,
            "training.clip_norm",
            || format!("is {}; it must be 0 (no clipping) or a positive number", training.clip_norm),
        );
        problems.within("training.ema_decay", training.ema_decay, 0.0, 1.0);
        problems.within("training.label_smoothing", training.label_smoothing, 0.0, 1.0);
        for (key, share) in
            [("training.length_told", training.length_told), ("training.word_dropout", training.word_dropout)]
        {
            problems.need((0.0..=1.0).contains(&share), key, || {
                format!("is {share}; a share lies within 0 and 1")
            });
        }
        problems.need(training.dtype != models::Dtype::F16, "training.dtype", || {
            "is f16, which loses small gradients; choose bf16 or f32".to_owned()
        });
        problems.at_least_one("eval.batch", self.eval.batch);
        self.check_refinement(problems);
    }

    fn check_refinement(&self, problems: &mut Problems) {
        let refinement = &self.refinement;
        for (field, share) in [
            ("share", refinement.share),
            ("begin", refinement.begin),
            ("iterates", refinement.iterates),
            ("drawn", refinement.drawn),
            ("astray", refinement.astray),
        ] {
            problems.need((0.0..=1.0).contains(&share), &format!("refinement.{field}"), || {
                format!("is {share}; a share lies within 0 and 1")
            });
        }
        for (field, number) in [
            ("refresh_every", refinement.refresh_every as usize),
            ("set_texts", refinement.set_texts),
            ("keep_sets", refinement.keep_sets),
            ("batch", refinement.batch),
        ] {
            problems.at_least_one(&format!("refinement.{field}"), number);
        }
        problems.positive("refinement.temperature", refinement.temperature);
        let cosine = refinement.astray_cosine;
        problems.need(cosine > 0.0 && cosine <= 1.0, "refinement.astray_cosine", || {
            format!("{cosine} must be above 0 and at most 1")
        });
        let noise = &self.noise;
        for (field, share) in [("share", noise.share), ("withheld", noise.withheld)] {
            problems.need((0.0..=1.0).contains(&share), &format!("noise.{field}"), || {
                format!("is {share}; a share lies within 0 and 1")
            });
        }
        problems.positive("noise.lowest", noise.lowest);
        let is_above = noise.highest.is_finite() && noise.highest >= noise.lowest;
        problems.need(is_above, "noise.highest", || {
            format!("is {}; it must be at least `noise.lowest` = {}", noise.highest, noise.lowest)
        });
    }

    fn check_optimizer(&self, problems: &mut Problems) {
        let optimizer = &self.optimizer;
        problems.positive("optimizer.learning_rate", optimizer.learning_rate);
        problems.within("optimizer.beta1", optimizer.beta1, 0.0, 1.0);
        problems.within("optimizer.beta2", optimizer.beta2, 0.0, 1.0);
        problems.positive("optimizer.eps", optimizer.eps);
        problems.within("optimizer.momentum", optimizer.momentum, 0.0, 1.0);
        let iterations = optimizer.newton_schulz_iterations;
        problems.need((1..=20).contains(&iterations), "optimizer.newton_schulz_iterations", || {
            format!("is {iterations}; it must be at least 1 and at most 20")
        });
        let decay = optimizer.weight_decay;
        problems.need(decay.is_finite() && decay >= 0.0, "optimizer.weight_decay", || {
            format!("is {decay}; it must be 0 or a positive number")
        });
        let distributed = &self.distributed;
        let timeout = distributed.timeout_seconds;
        problems.need((1.0..=604_800.0).contains(&timeout), "distributed.timeout_seconds", || {
            format!("is {timeout}; it must be from 1 second to a week")
        });
        problems.positive("distributed.bucket_mib", distributed.bucket_mib);
        let last = self.schedule.final_fraction;
        problems.need((0.0..=1.0).contains(&last), "schedule.final_fraction", || {
            format!("is {last}; a share lies within 0 and 1")
        });
    }
}

/// A longer training than this is a slip of the pen.
const MOST_MINUTES: f64 = 525_600.0;

/// A larger decoder than this is a slip of the pen: its masters, gradients and moments would be 1.6 TB.
const MOST_WEIGHTS: i64 = 100_000_000_000;

/// Numbers in the matrices of a decoder; `None` where they cannot be counted.
fn weights(c: &DecoderConfig) -> Option<i64> {
    let product =
        |factors: &[i64]| factors.iter().try_fold(1i64, |product, &factor| product.checked_mul(factor));
    let parts = [
        product(&[2, c.layers, c.hidden, c.heads, c.head_dim]),
        product(&[2, c.layers, c.hidden, c.kv_heads, c.head_dim]),
        product(&[3, c.layers, c.hidden, c.ffn]),
        product(&[if c.tie_embeddings { 1 } else { 2 }, c.vocab, c.hidden]),
        product(&[c.projector_hidden, c.prefix_tokens, c.hidden]),
    ];
    parts.into_iter().try_fold(0i64, |sum, part| sum.checked_add(part?))
}

fn too_many_weights(c: &DecoderConfig) -> String {
    format!(
        "is {}; with layers {}, heads {} of {}, ffn {}, prefix_tokens {} and tokenizer.vocab {} the decoder would have \
         more than {MOST_WEIGHTS} weights",
        c.hidden, c.layers, c.heads, c.head_dim, c.ffn, c.prefix_tokens, c.vocab
    )
}

fn check_prompts(encoder: &EncoderSection, problems: &mut Problems) {
    let Some(prompts) = &encoder.prompts else { return };
    let key = "encoder.prompts";
    problems.need(encoder.prompt.is_none(), key, || {
        let prompt = encoder.prompt.as_deref().unwrap_or_default();
        format!("and `encoder.prompt` ({prompt:?}) are both said; leave one of them out")
    });
    problems.need(!prompts.is_empty(), key, || {
        "is empty; a text needs one at least, and \"none\" is one".to_owned()
    });
    for (index, name) in prompts.iter().enumerate() {
        if prompts[..index].contains(name) && !prompts[index + 1..].contains(name) {
            problems.add(key.to_owned(), format!("names {name:?} more than once"));
        }
    }
}

fn check_decoder(decoder: &DecoderSection, problems: &mut Problems) {
    let sizes = [
        ("hidden", Some(decoder.hidden)),
        ("layers", Some(decoder.layers)),
        ("heads", Some(decoder.heads)),
        ("kv_heads", decoder.kv_heads),
        ("head_dim", decoder.head_dim),
        ("ffn", Some(decoder.ffn)),
        ("prefix_tokens", Some(decoder.prefix_tokens)),
        ("projector_hidden", decoder.projector_hidden),
        ("max_tokens", Some(decoder.max_tokens)),
    ];
    let normalized = decoder.input_normalization != InputNormalization::None;
    problems.need(!normalized || decoder.input_scale.is_none(), "decoder.input_scale", || {
        "and `decoder.input_normalization` are both said; leave one of them out".to_owned()
    });
    let mut sound = true;
    for (key, value) in sizes {
        if let Some(value) = value.filter(|value| !(1..1 << 31).contains(value)) {
            sound = false;
            problems
                .add(format!("decoder.{key}"), format!("is {value}; it must be at least 1 and below 2^31"));
        }
    }
    if sound && decoder.head_dim.is_none() && decoder.start_from.is_none() {
        let DecoderSection { hidden, heads, .. } = decoder;
        problems.need(hidden % heads == 0, "decoder.heads", || {
            format!(
                "is {heads}; it must divide `decoder.hidden` = {hidden}, or `decoder.head_dim` must be said"
            )
        });
    }
}

/// Notes what `data` refuses; `key` gives the recipe's key for the one it names.
fn data_setting(problems: &mut Problems, result: data::Result<()>, key: impl Fn(&str) -> String) {
    match result {
        Ok(()) => {}
        Err(data::Error::Setting { key: named, value, reason }) => {
            problems.add(key(&named), format!("is {value}: {reason}"));
        }
        Err(other) => problems.add(key(""), other.to_string()),
    }
}
