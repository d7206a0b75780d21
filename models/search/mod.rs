//! Search by encoding again: candidate texts are turned back into vectors, ranked by their cosine to the target, and
//! the best of them refined.
//!
//! Each round decodes for all texts at once: first guesses in the first, then refinements of each text's best
//! hypotheses that have not been refined yet (best-first search, as in vec2text's sequence beam, arXiv 2310.06816, but
//! over all candidates ever seen), and guesses whose errors add up (`feedback.rs`). Then what the candidates of a text
//! have in them is put together anew, without the decoder (`recombine.rs`); and the best one's neighbours, a token away,
//! are tried (`neighbours.rs`). A text ends by itself: when its best cosine is near 1, when it has not risen for some
//! rounds, or when its budget of encodings is used up. What is returned is the best candidate ever seen: the nearest, or
//! of the nearest the one that the decoder would write (`prior.rs`).
#![allow(non_snake_case)]

mod candidates;
mod edits;
mod feedback;
mod neighbours;
mod options;
mod prior;
mod propose;
mod recombine;

use candidates::Candidates;
use feedback::Trail;
pub use options::{Decodes, SearchOptions};
use propose::{Fresh, Round};
use recombine::{Known, recombine};
use tch::{Device, Kind, Tensor};

use crate::inverter::{Inverted, Inverter};
use crate::{Embed, Error, Result};

/// Searches with one decoder and one encoder.
pub struct Search<'a> {
    inverter: &'a Inverter,
    encoder: &'a dyn Embed,
    options: &'a SearchOptions,
}

impl<'a> Search<'a> {
    /// Puts decoder and encoder together.
    ///
    /// # Errors
    /// [`Error::SpaceMismatch`] for an encoder of another space, [`Error::GenerateOption`] for options that cannot be,
    /// [`Error::DoesNotRefine`] for rounds of refinement with a decoder that has not learnt it.
    pub fn new(inverter: &'a Inverter, encoder: &'a dyn Embed, options: &'a SearchOptions) -> Result<Self> {
        encoder.space().require_within(&inverter.space, "the encoder", "the decoder")?;
        options.check()?;
        if options.rounds > 0 && options.each.beam + options.each.samples > 0 && !inverter.config.refines {
            return Err(Error::DoesNotRefine);
        }
        Ok(Self { inverter, encoder, options })
    }

    /// The best texts for vectors (N, dim), in order. `first` is the number of the first vector: what is drawn follows
    /// from a vector's number. `progress` is told of the texts that have ended.
    ///
    /// # Errors
    /// Those of [`Inverter::invert_from`] and [`Embed::embed`].
    pub fn run(&self, v_ND: &Tensor, first: u64, progress: &mut dyn FnMut(usize)) -> Result<Vec<Inverted>> {
        let mut texts: Vec<Text> = (0..v_ND.size()[0]).map(|_| Text::default()).collect();
        let targets = rows_of(v_ND)?;
        for round in 0..=self.options.rounds {
            let open: Vec<usize> = (0..texts.len()).filter(|&text| !texts[text].ended).collect();
            if open.is_empty() {
                break;
            }
            let decodes = self.decodes(&texts, &open, round);
            let mut fresh = match round {
                0 => self.guess(v_ND, &decodes, first)?,
                _ => self.improve(&Round { v_ND, texts: &texts, round, first }, &decodes)?,
            };
            if round > 0 {
                self.feedback(&targets, &mut texts, &open, &mut fresh)?;
            }
            self.encode(v_ND, &mut texts, fresh)?;
            if self.options.recombined > 0 {
                let mixed = self.recombine(&targets, &texts, &open)?;
                self.encode(v_ND, &mut texts, mixed)?;
            }
            for decode in &decodes {
                if let Some(parent) = decode.parent {
                    texts[decode.text].candidates.mark_refined(parent);
                }
            }
            for &text in &open {
                texts[text].end_round(self.options);
            }
            progress(texts.iter().filter(|text| text.ended).count());
        }
        if self.options.prior > 0.0 {
            self.choose(v_ND, &mut texts)?;
        }
        progress(texts.len());
        Ok(texts.into_iter().map(Text::found).collect())
    }

    /// New texts from what the candidates of each open text have in them.
    fn recombine(&self, targets: &[Vec<f32>], texts: &[Text], open: &[usize]) -> Result<Fresh> {
        let mut fresh = Fresh::new();
        for &text in open {
            let candidates = &texts[text].candidates;
            let best = candidates.best(RECOMBINED_FROM);
            let known: Vec<Known<'_>> = best
                .into_iter()
                .map(|number| candidates.get(number))
                .map(|(vector, text)| Known { text, vector })
                .collect();
            let Some((&base, others)) = known.split_first() else { continue };
            let seen = |text: &str| candidates.has(text);
            let made = recombine(base, others, &targets[text], self.options.recombined, seen)?;
            let inverted = |text: String| -> Result<Inverted> {
                let tokens = self.inverter.vocabulary.encode(&text)?.len();
                Ok(Inverted { text, tokens, finished: true, ..Inverted::nothing() })
            };
            fresh.insert(text, made.into_iter().map(inverted).collect::<Result<_>>()?);
        }
        Ok(fresh)
    }

    /// Encodes what each text has not had yet, as far as its budget goes.
    fn encode(&self, v_ND: &Tensor, texts: &mut [Text], fresh: Fresh) -> Result<()> {
        let mut waiting: Vec<(usize, Inverted)> = Vec::new();
        for (number, candidates) in fresh {
            let text = &mut texts[number];
            let mut left = self.options.budget.map_or(usize::MAX, |budget| budget - text.encodings);
            for candidate in candidates {
                if left > 0 && text.candidates.is_new(&candidate.text) {
                    left -= 1;
                    text.encodings += 1;
                    waiting.push((number, candidate));
                }
            }
        }
        for chunk in waiting.chunks(ENCODED_TOGETHER) {
            let borrowed: Vec<&str> = chunk.iter().map(|(_, candidate)| candidate.text.as_str()).collect();
            let vectors_ND = self.encoder.embed(&borrowed)?;
            let rows: Vec<i64> = chunk.iter().map(|(number, _)| *number as i64).collect();
            let targets_ND =
                v_ND.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(v_ND.device())?)?;
            let double = |x_ND: &Tensor| x_ND.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double);
            // 0 where a text has no length
            let cosine_N =
                Tensor::f_cosine_similarity(&double(&targets_ND)?, &double(&vectors_ND)?, 1, 1e-12)?;
            let cosines = Vec::<f64>::try_from(cosine_N)?;
            for (row, ((number, candidate), cosine)) in chunk.iter().zip(cosines).enumerate() {
                let vector = Vec::<f32>::try_from(vectors_ND.f_get(row as i64)?)?;
                texts[*number].candidates.push(candidate.clone(), vector, cosine);
            }
        }
        Ok(())
    }
}

/// The candidates of a text that are recombined: its best.
const RECOMBINED_FROM: usize = 64;

fn rows_of(v_ND: &Tensor) -> Result<Vec<Vec<f32>>> {
    let v_ND = v_ND.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    (0..v_ND.size()[0]).map(|row| Ok(Vec::try_from(v_ND.f_get(row)?)?)).collect()
}

/// Candidates whose vectors are in memory at a time before they are handed to their texts.
const ENCODED_TOGETHER: usize = 4096;

/// A text that is searched for.
#[derive(Debug, Default)]
struct Text {
    candidates: Candidates,
    trails: Vec<Trail>,
    encodings: usize,
    course: Vec<f64>,
    ended: bool,
}

impl Text {
    fn end_round(&mut self, options: &SearchOptions) {
        let best = self.candidates.best_cosine();
        self.course.push(best);
        let stalls = self.course.len() > options.patience
            && best <= self.course[self.course.len() - 1 - options.patience];
        let spent = options.budget.is_some_and(|budget| self.encodings >= budget);
        self.ended = best >= 1.0 - options.epsilon || stalls || spent;
    }

    fn found(self) -> Inverted {
        let (encodings, course) = (self.encodings, self.course);
        Inverted { encodings, course, ..self.candidates.into_best() }
    }
}
