//! One vector on its way to its texts: its rows in the batch, and where their positions lie.

use super::beam::Search;
use super::in_flight::Plan;
use super::sample::{stream, uniform};
use super::{Generated, Strategy, best_first};
use rand_chacha::ChaCha8Rng;

/// A vector that is being decoded.
#[derive(Debug)]
pub(super) struct TextInFlight {
    index: usize,
    /// Positions before its first token.
    begun: usize,
    /// Its own, one for each row that it can have; what stands before the text lies in the first.
    slots: Vec<i32>,
    /// None before its beginning is computed.
    rows: Vec<Row>,
    length: usize,
    course: Course,
}

/// A row of the batch: the next token, and the slots in which the positions before it lie.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) slot: i32,
    pub(super) token: i64,
    pub(super) table: Vec<i32>,
    /// Which of the vector's texts it is.
    text: usize,
}

#[derive(Debug)]
enum Course {
    /// Greedy (one) or samples; these have a random stream each.
    Texts(Vec<Generated>, Vec<ChaCha8Rng>),
    Beams(Search),
}

impl TextInFlight {
    /// The vector of place `index` in the worker's part, with `begun` positions before its first token; what is drawn
    /// for it follows from its `number`.
    pub(super) fn new(index: usize, begun: usize, number: u64, slots: Vec<i32>, plan: &Plan) -> Self {
        let course = match plan.strategy {
            Strategy::Beam { .. } => Course::Beams(Search::new()),
            Strategy::Greedy => Course::Texts(vec![Generated::empty()], Vec::new()),
            Strategy::Sample { seed, samples, .. } => {
                let streams = (0..samples as u64).map(|sample| stream(seed, number, sample));
                Course::Texts(vec![Generated::empty(); samples], streams.collect())
            }
        };
        Self { index, begun, slots, rows: Vec::new(), length: 0, course }
    }

    /// Its place in the worker's part.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Where what stands before the text lies.
    pub(super) fn slot(&self) -> i32 {
        self.slots[0]
    }

    /// Position of its last token, or of BOS before there is one.
    pub(super) fn position(&self) -> usize {
        self.begun - 1 + self.length
    }

    /// Tokens so far.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Its rows in the next step.
    pub(super) fn rows(&mut self) -> &mut [Row] {
        &mut self.rows
    }

    /// Choices that it takes from a step: one a row, or before its first token one a text.
    pub(super) fn draws(&self) -> usize {
        match &self.course {
            _ if self.length > 0 => self.rows.len(),
            Course::Texts(texts, _) => texts.len(),
            Course::Beams(_) => 1,
        }
    }

    /// A random number in [0, 1) for each draw.
    pub(super) fn uniforms(&mut self) -> Vec<f64> {
        let Course::Texts(_, streams) = &mut self.course else { return Vec::new() };
        if self.length == 0 {
            return streams.iter_mut().map(uniform).collect();
        }
        self.rows.iter().map(|row| uniform(&mut streams[row.text])).collect()
    }

    /// Takes the choices of a step. False when it has ended.
    pub(super) fn advance(&mut self, choices: &[Vec<(i64, f32)>], plan: &Plan, capacity: usize) -> bool {
        self.length += 1;
        let begun = vec![self.slots[0]; capacity];
        match &mut self.course {
            Course::Texts(texts, _) => {
                if self.length == 1 {
                    let row = |text| Row { slot: self.slots[text], token: 0, table: begun.clone(), text };
                    self.rows = (0..texts.len()).map(row).collect();
                }
                for (row, choice) in self.rows.iter_mut().zip(choices) {
                    let Some(&(token, log_prob)) = choice.first() else { continue };
                    texts[row.text].add(token, log_prob.into(), plan.rules.eos);
                    row.token = token;
                }
                self.rows.retain(|row| !texts[row.text].finished);
                !self.rows.is_empty() && self.length < plan.rules.limit
            }
            Course::Beams(search) => {
                let candidates = search.best(choices.iter().map(Vec::as_slice), &plan.rules);
                let Some(parents) = search.advance(&candidates, self.length, &plan.rules) else {
                    return false;
                };
                let table = |parent: usize| match self.rows.get(parent) {
                    Some(row) => row.table.clone(),
                    None => begun.clone(),
                };
                let next = parents.iter().zip(search.last_tokens()).zip(&self.slots).enumerate();
                let row = |(text, ((&parent, token), &slot))| Row { slot, token, table: table(parent), text };
                self.rows = next.map(row).collect();
                true
            }
        }
    }

    /// Its place, the slots that it gives back, and its texts, best first.
    pub(super) fn end(self) -> (usize, Vec<i32>, Vec<Generated>) {
        let texts = match self.course {
            Course::Texts(texts, _) => best_first(texts),
            Course::Beams(search) => search.texts(),
        };
        (self.index, self.slots, texts)
    }
}
