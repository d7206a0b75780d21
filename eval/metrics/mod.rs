//! The metrics, one file each.
//!
//! A metric is two functions: one that reduces a row (a reference and its hypothesis) to a few numbers, its
//! *sufficient statistics*, and one that computes the score of any set of rows from the sums of their statistics. For
//! corpus metrics (BLEU, chrF, length ratio) the statistics are counts; for the others they are the row's score, and
//! the score of a set is the mean. So the bootstrap of every metric is exact and adds numbers only.

pub mod bleu;
pub mod cer;
pub mod chrf;
pub mod cosine;
pub mod exact_match;
pub mod facts;
pub mod length_ratio;
pub(crate) mod ngrams;
pub mod rouge_l;
pub mod sentences;
pub mod token_f1;
pub mod treebank;
pub mod whitespace;

use std::fmt;

use rayon::prelude::*;
use regex::Regex;

/// What is measured. The order is that of tables and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Corpus BLEU, 0 to 100.
    Bleu,
    /// Mean of sentence BLEU with effective order, 0 to 100.
    SentenceBleu,
    /// Corpus chrF2, 0 to 100.
    Chrf,
    /// Mean F1 of the multisets of word tokens, 0 to 1.
    TokenF1,
    /// Mean F1 of the sets of word tokens (vec2text's), 0 to 1.
    TokenSetF1,
    /// Share of texts that came back byte for byte, 0 to 1.
    ExactMatch,
    /// Share of texts that came back but for Unicode form, white space and case, 0 to 1.
    ExactMatchNormalized,
    /// Mean ROUGE-L F-measure, 0 to 1.
    RougeL,
    /// Words in the hypotheses over words in the references.
    LengthRatio,
    /// Character error rate: edits over characters of the references, from 0 up.
    Cer,
    /// Share of the references' numbers that came back, 0 to 1.
    NumberRecall,
    /// Share of the references' names that came back, 0 to 1.
    NameRecall,
    /// Share of the references that deny something of which the hypothesis does too, 0 to 1.
    NegationRecall,
    /// Mean cosine between the input vector and the re-encoded hypothesis's, -1 to 1.
    Cosine,
}

/// Which values of a metric are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher the better.
    Higher,
    /// The lower the better.
    Lower,
    /// The nearer to 1 the better.
    NearerOne,
}

impl Metric {
    /// All metrics, in the order of tables and reports.
    pub const ALL: [Metric; 14] = [
        Metric::Bleu,
        Metric::SentenceBleu,
        Metric::Chrf,
        Metric::TokenF1,
        Metric::TokenSetF1,
        Metric::ExactMatch,
        Metric::ExactMatchNormalized,
        Metric::RougeL,
        Metric::LengthRatio,
        Metric::Cer,
        Metric::NumberRecall,
        Metric::NameRecall,
        Metric::NegationRecall,
        Metric::Cosine,
    ];

    /// The name in results, tables and file columns.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Bleu => "bleu",
            Metric::SentenceBleu => "sentence_bleu",
            Metric::Chrf => "chrf",
            Metric::TokenF1 => "token_f1",
            Metric::TokenSetF1 => "token_set_f1",
            Metric::ExactMatch => "exact_match",
            Metric::ExactMatchNormalized => "exact_match_normalized",
            Metric::RougeL => "rouge_l",
            Metric::LengthRatio => "length_ratio",
            Metric::Cer => "cer",
            Metric::NumberRecall => "number_recall",
            Metric::NameRecall => "name_recall",
            Metric::NegationRecall => "negation_recall",
            Metric::Cosine => "cosine",
        }
    }

    /// Which values are good.
    pub fn better(self) -> Better {
        match self {
            Metric::LengthRatio => Better::NearerOne,
            Metric::Cer => Better::Lower,
            _ => Better::Higher,
        }
    }

    /// The same as a sign behind its name.
    pub fn arrow(self) -> &'static str {
        match self.better() {
            Better::Higher => "↑",
            Better::Lower => "↓",
            Better::NearerOne => "→1",
        }
    }

    /// How many facts of the references a recall is of, from the sums that [`Metric::value`] takes; none for other metrics.
    pub fn facts(self, sums: &[f64]) -> Option<usize> {
        let recall = matches!(self, Metric::NumberRecall | Metric::NameRecall | Metric::NegationRecall);
        recall.then(|| facts::there(&sums[self.offset()..self.offset() + self.columns()]))
    }

    /// Columns of the metric's sufficient statistics.
    const fn columns(self) -> usize {
        match self {
            Metric::Bleu => bleu::COLUMNS,
            Metric::Chrf => chrf::COLUMNS,
            Metric::LengthRatio => length_ratio::COLUMNS,
            Metric::Cer => cer::COLUMNS,
            Metric::NumberRecall | Metric::NameRecall | Metric::NegationRecall => facts::COLUMNS,
            _ => 1,
        }
    }

    /// The first of the metric's columns.
    const fn offset(self) -> usize {
        let mut offset = 0;
        let mut i = 0;
        while i < self as usize {
            offset += Metric::ALL[i].columns();
            i += 1;
        }
        offset
    }

    /// The score of a set of rows, from the sums of their statistics (all columns) and their number.
    pub fn value(self, sums: &[f64], rows: usize) -> f64 {
        let own = &sums[self.offset()..self.offset() + self.columns()];
        match self {
            Metric::Bleu => bleu::bleu(own, false),
            Metric::Chrf => chrf::chrf(own),
            Metric::LengthRatio => length_ratio::length_ratio(own),
            Metric::Cer => cer::cer(own),
            Metric::NumberRecall | Metric::NameRecall | Metric::NegationRecall => facts::recall(own),
            _ => own[0] / rows.max(1) as f64,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sufficient statistics of many rows, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    values: Vec<f64>,
    has_cosine: bool,
}

impl Statistics {
    /// Numbers per row.
    pub const COLUMNS: usize = Metric::Cosine.offset() + Metric::Cosine.columns();

    /// The statistics of each pair of texts, in parallel. `references` and `hypotheses` are of one length, and so are
    /// `cosines` where they are given; without them the cosine is no metric of the result.
    pub fn of(references: &[String], hypotheses: &[String], cosines: Option<&[f64]>) -> Statistics {
        let mut values: Vec<f64> = references
            .par_iter()
            .zip(hypotheses)
            .flat_map_iter(|(reference, hypothesis)| row(reference, hypothesis))
            .collect();
        if let Some(cosines) = cosines {
            for (row, &cosine) in values.chunks_exact_mut(Self::COLUMNS).zip(cosines) {
                row[Metric::Cosine.offset()] = cosine;
            }
        }
        Statistics { values, has_cosine: cosines.is_some() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / Self::COLUMNS
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The metrics that these rows have: all, or all but the cosine.
    pub fn metrics(&self) -> &'static [Metric] {
        const WITHOUT_COSINE: &[Metric] = Metric::ALL.split_at(Metric::ALL.len() - 1).0;
        if self.has_cosine { &Metric::ALL } else { WITHOUT_COSINE }
    }

    /// The statistics of one row.
    pub fn row(&self, index: usize) -> &[f64] {
        &self.values[index * Self::COLUMNS..(index + 1) * Self::COLUMNS]
    }

    /// The sums over some rows; a row may be named more than once.
    pub fn sums(&self, rows: impl IntoIterator<Item = usize>) -> [f64; Self::COLUMNS] {
        let mut sums = [0.0; Self::COLUMNS];
        for index in rows {
            for (sum, value) in sums.iter_mut().zip(self.row(index)) {
                *sum += value;
            }
        }
        sums
    }

    /// The statistics of some of the rows alone.
    pub fn select(&self, rows: &[usize]) -> Statistics {
        let values = rows.iter().flat_map(|&index| self.row(index).iter().copied()).collect();
        Statistics { values, has_cosine: self.has_cosine }
    }

    /// The scores of all rows together, in the order of [`Statistics::metrics`].
    pub fn scores(&self) -> Vec<f64> {
        let sums = self.sums(0..self.len());
        self.metrics().iter().map(|metric| metric.value(&sums, self.len())).collect()
    }
}

/// All columns of one row, the cosine still 0.
fn row(reference: &str, hypothesis: &str) -> [f64; Statistics::COLUMNS] {
    let mut row = [0.0; Statistics::COLUMNS];
    let mut put = |metric: Metric, values: &[f64]| {
        row[metric.offset()..metric.offset() + values.len()].copy_from_slice(values);
    };
    let counts = bleu::statistics(reference, hypothesis);
    put(Metric::Bleu, &counts);
    put(Metric::SentenceBleu, &[bleu::bleu(&counts, true)]);
    put(Metric::Chrf, &chrf::statistics(reference, hypothesis));
    let [token_f1, token_set_f1] = token_f1::token_f1(reference, hypothesis);
    put(Metric::TokenF1, &[token_f1]);
    put(Metric::TokenSetF1, &[token_set_f1]);
    let [exact, normalised] = exact_match::exact_match(reference, hypothesis);
    put(Metric::ExactMatch, &[exact]);
    put(Metric::ExactMatchNormalized, &[normalised]);
    put(Metric::RougeL, &[rouge_l::rouge_l(reference, hypothesis)]);
    put(Metric::LengthRatio, &length_ratio::statistics(reference, hypothesis));
    put(Metric::Cer, &cer::statistics(reference, hypothesis));
    let [numbers, names, negations] = facts::statistics(reference, hypothesis);
    put(Metric::NumberRecall, &numbers);
    put(Metric::NameRecall, &names);
    put(Metric::NegationRecall, &negations);
    row
}

/// A regular expression that is part of the program.
#[allow(clippy::expect_used, reason = "a constant pattern, compiled by the tests")]
pub(crate) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of the program compiles")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_do_not_overlap() {
        let mut next = 0;
        for (i, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, i);
            assert_eq!(metric.offset(), next);
            next += metric.columns();
        }
        assert_eq!(next, Statistics::COLUMNS);
    }

    #[test]
    fn one_row_alone_scores_as_in_the_row() {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let statistics = Statistics::of(&texts(&["a b c d e"]), &texts(&["a b c d e"]), Some(&[0.5]));
        let scores = statistics.scores();
        let none = f64::NAN;
        let want = [100.0, 100.0, 100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, none, none, none, 0.5];
        let equal = |(a, b): (&f64, f64)| (a - b).abs() < 1e-9 || (a.is_nan() && b.is_nan());
        assert!(scores.iter().zip(want).all(equal), "{scores:?}");
        assert_eq!(Statistics::of(&texts(&["a"]), &texts(&["a"]), None).metrics().len(), 13);
    }
}
