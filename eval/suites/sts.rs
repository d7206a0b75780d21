//! Semantic textual similarity after the round trip: do cosines still rank pairs of sentences as people do?
//!
//! The score of originals is MTEB's (`abstasks/sts.py`: Spearman's correlation of cosines with people's scores). That of
//! round-tripped pairs is defined here, as no paper reports one: the same correlation with
//! cos(E(D(e1)), E(D(e2))), both sides read back, or with cos(E(D(e1)), e2), the first side alone.
#![allow(non_snake_case)]

use std::path::{Path, PathBuf};

use data::corpus::{StsPair, read_sts};
use models::Embed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::journey::Traveller;
use super::scored::{Scored, scored};
use crate::bootstrap::Bootstrap;
use crate::correlation::{pearson, spearman};
use crate::round_trip::{ENCODE_CHUNK, Progress, embed};
use crate::score::cosines;
use crate::{Error, Result};

/// A set of scored pairs.
#[derive(Debug, Clone)]
pub struct StsTask {
    /// What it is called in reports.
    pub name: String,
    /// The pairs that have a score.
    pub pairs: Vec<StsPair>,
    /// Pairs without one, left out.
    pub unscored: usize,
}

impl StsTask {
    /// Reads a file, or all files of a folder that are STS files, one after the other, as MTEB joins the parts of a year.
    ///
    /// # Errors
    /// [`Error::NoTexts`] where no pair has a score; what reading fails with.
    pub fn read(name: &str, path: &Path) -> Result<Self> {
        let mut pairs = Vec::new();
        for file in files(path)? {
            pairs.extend(read_sts(&file)?);
        }
        let all = pairs.len();
        pairs.retain(|pair| pair.score.is_some());
        if pairs.is_empty() {
            return Err(Error::NoTexts { what: format!("the STS set {}", path.display()) });
        }
        Ok(Self { name: name.to_owned(), unscored: all - pairs.len(), pairs })
    }

    /// What the scores depend on.
    pub(super) fn content(&self) -> Vec<(&str, &str, Option<f64>)> {
        self.pairs.iter().map(|pair| (pair.a.as_str(), pair.b.as_str(), pair.score)).collect()
    }

    /// `limit` pairs alone, spread evenly over the set: its files, one behind the other, are of different kinds.
    pub fn limited(mut self, limit: Option<usize>) -> Self {
        self.pairs = evenly(&self.pairs, limit.unwrap_or(usize::MAX)).cloned().collect();
        self
    }
}

/// At most `count` of a list, evenly spread over it.
pub(crate) fn evenly<T>(list: &[T], count: usize) -> impl Iterator<Item = &T> {
    let count = count.min(list.len());
    (0..count).map(move |place| &list[place * list.len() / count.max(1)])
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs_err::read_dir(path).map_err(data::Error::from)?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(data::Error::from)?.path();
        if file.is_file() {
            match data::corpus::is_sts(&file)? {
                true => files.push(file),
                false => tracing::info!("{} is no STS file and is passed over", file.display()),
            }
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(Error::NoTexts { what: format!("the folder {} (no STS file)", path.display()) }),
        false => Ok(files),
    }
}

/// Spearman's and Pearson's correlation with people's scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Correlations {
    /// The main score.
    pub spearman: Scored,
    /// Pearson's.
    pub pearson: Scored,
}

/// Originals against what came back, for one encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StsScores {
    /// Of the original sentences.
    pub originals: Correlations,
    /// Of both sentences read back.
    pub both: Correlations,
    /// Of the first sentence read back with the second as it was.
    pub one_side: Correlations,
    /// `both` - `originals`, Spearman.
    pub delta: Scored,
    /// `both` / `originals`, Spearman.
    pub preservation: Scored,
    /// Mean |change of the cosine of a pair|, both sides read back.
    pub mean_change: Scored,
}

/// What an STS set says of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StsResult {
    /// The set.
    pub name: String,
    /// Pairs.
    pub n: usize,
    /// Pairs without a score, left out.
    pub unscored: usize,
    /// By the encoder that the decoder was made for.
    pub scores: StsScores,
    /// The same sentences and texts by another encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<StsScores>,
    /// `[people's score, cosine before, cosine after]` of each pair, for a scatter plot.
    pub pairs: Vec<[f64; 3]>,
    /// Re-encodings a sentence.
    pub encodings: f64,
    /// Seconds that the decoding took.
    pub seconds: f64,
}

/// Takes both sides of all pairs there and back and correlates.
///
/// # Errors
/// What the encoder, the decoder or the judge says.
pub fn sts(
    traveller: &Traveller<'_>,
    judge: Option<&dyn Embed>,
    task: &StsTask,
    bootstrap: &Bootstrap,
    progress: &mut Progress<'_>,
) -> Result<StsResult> {
    let sides = |side: fn(&StsPair) -> &String| task.pairs.iter().map(side).cloned().collect::<Vec<_>>();
    let (a, b) = (sides(|pair| &pair.a), sides(|pair| &pair.b));
    let gold: Vec<f64> = task.pairs.iter().filter_map(|pair| pair.score).collect();
    let n = gold.len() as i64;
    let way = traveller.travel(&[a.as_slice(), &b].concat(), progress)?;
    let half =
        |v: &tch::Tensor| -> Result<[tch::Tensor; 2]> { Ok([v.f_narrow(0, 0, n)?, v.f_narrow(0, n, n)?]) };
    let measured = Cosines::new(&half(&way.from_ND)?, &half(&way.to_ND)?)?;
    let judged = match judge {
        Some(judge) => {
            let mut of = |texts: &[String]| embed(judge, texts, ENCODE_CHUNK, "judge", progress);
            let originals = [of(&a)?, of(&b)?];
            let (back_a, back_b) = way.texts.split_at(gold.len());
            Some(Cosines::new(&originals, &[of(back_a)?, of(back_b)?])?)
        }
        None => None,
    };
    let pairs = (0..gold.len()).map(|at| [gold[at], measured.originals[at], measured.both[at]]).collect();
    Ok(StsResult {
        name: task.name.clone(),
        n: gold.len(),
        unscored: task.unscored,
        scores: measured.scores(&gold, bootstrap),
        judge: judged.map(|cosines| cosines.scores(&gold, bootstrap)),
        pairs,
        encodings: way.encodings,
        seconds: way.seconds,
    })
}

/// Cosines of the pairs, before and after.
struct Cosines {
    originals: Vec<f64>,
    both: Vec<f64>,
    one_side: Vec<f64>,
}

impl Cosines {
    fn new(before: &[tch::Tensor; 2], after: &[tch::Tensor; 2]) -> Result<Self> {
        Ok(Self {
            originals: cosines(&before[0], &before[1])?,
            both: cosines(&after[0], &after[1])?,
            one_side: cosines(&after[0], &before[1])?,
        })
    }

    fn scores(&self, gold: &[f64], bootstrap: &Bootstrap) -> StsScores {
        let lists = [&self.originals, &self.both, &self.one_side];
        let of = |rows: &[usize]| -> [f64; 9] {
            let chosen = |list: &[f64]| rows.iter().map(|&row| list[row]).collect::<Vec<f64>>();
            let gold = chosen(gold);
            let lists = lists.map(|list| chosen(list));
            let rank = |list: &Vec<f64>| spearman(&gold, list).unwrap_or(f64::NAN);
            let linear = |list: &Vec<f64>| pearson(&gold, list).unwrap_or(f64::NAN);
            let [before, both, one] = [0, 1, 2].map(|at| rank(&lists[at]));
            let [p_before, p_both, p_one] = [0, 1, 2].map(|at| linear(&lists[at]));
            let changes: f64 = lists[0].iter().zip(&lists[1]).map(|(x, y)| (x - y).abs()).sum();
            let change = changes / rows.len().max(1) as f64;
            [before, p_before, both, p_both, one, p_one, both - before, both / before, change]
        };
        let [s0, p0, s1, p1, s2, p2, delta, preservation, mean_change] = scored(gold.len(), bootstrap, of);
        StsScores {
            originals: Correlations { spearman: s0, pearson: p0 },
            both: Correlations { spearman: s1, pearson: p1 },
            one_side: Correlations { spearman: s2, pearson: p2 },
            delta,
            preservation,
            mean_change,
        }
    }
}
