//! Scores of parts of the rows: by length of the reference and by domain.

use std::collections::BTreeMap;

use crate::bootstrap::Bootstrap;
use crate::metrics::Statistics;
use crate::result::{Bucket, Buckets, Scores};

/// Upper ends of the length buckets, in tokens of the encoder without prompt and special tokens. A bucket begins
/// above the end of the one before it; one more bucket holds what is longer than all.
pub const LENGTHS: [usize; 7] = [8, 16, 32, 64, 128, 256, 512];

/// The scores of each part that has rows. `tokens` and `domains` have one entry a row.
pub fn buckets(
    statistics: &Statistics,
    tokens: &[usize],
    domains: Option<&[String]>,
    bootstrap: &Bootstrap,
) -> Buckets {
    let lengths = tokens.iter().map(|&tokens| LENGTHS.partition_point(|&end| end < tokens));
    let length = parts(statistics, lengths, bootstrap, |&bucket| length_name(bucket));
    let domain = match domains {
        Some(domains) => parts(statistics, domains.iter(), bootstrap, |domain| (*domain).clone()),
        None => Vec::new(),
    };
    Buckets { length, domain }
}

/// `<=8`, ..., `<=512`, `>512`.
fn length_name(bucket: usize) -> String {
    match LENGTHS.get(bucket) {
        Some(end) => format!("<={end}"),
        None => format!(">{}", LENGTHS[LENGTHS.len() - 1]),
    }
}

fn parts<K: Ord>(
    statistics: &Statistics,
    keys: impl Iterator<Item = K>,
    bootstrap: &Bootstrap,
    name: impl Fn(&K) -> String,
) -> Vec<Bucket> {
    let mut rows = BTreeMap::<K, Vec<usize>>::new();
    for (row, key) in keys.enumerate() {
        rows.entry(key).or_default().push(row);
    }
    rows.into_iter()
        .map(|(key, rows)| Bucket {
            name: name(&key),
            scores: Scores::of(&statistics.select(&rows), bootstrap),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_belong_to_the_bucket_they_name() {
        let texts = vec!["a b".to_owned(); 6];
        let statistics = Statistics::of(&texts, &texts, None);
        let domains = ["b", "a", "b", "b", "a", "c"].map(str::to_owned);
        let quick = Bootstrap { resamples: 2, ..Bootstrap::default() };
        let buckets = buckets(&statistics, &[0, 8, 9, 512, 513, 16], Some(&domains), &quick);
        let shape = |list: &[Bucket]| list.iter().map(|b| (b.name.clone(), b.scores.n)).collect::<Vec<_>>();
        let named = |list: &[(&str, usize)]| list.iter().map(|&(s, n)| (s.to_owned(), n)).collect::<Vec<_>>();
        assert_eq!(shape(&buckets.length), named(&[("<=8", 2), ("<=16", 2), ("<=512", 1), (">512", 1)]));
        assert_eq!(shape(&buckets.domain), named(&[("a", 2), ("b", 3), ("c", 1)]));
    }
}
