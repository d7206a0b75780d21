//! Time of the metrics and of their bootstrap on a thousand pairs of texts.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use eval::Bootstrap;
use eval::metrics::Statistics;
use eval::metrics::treebank::word_tokenize;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Texts of `words` words out of a small vocabulary, so that n-grams match now and then.
fn texts(count: usize, words: usize, seed: u64) -> Vec<String> {
    let vocabulary =
        ["the", "man's", "quick", "fox,", "don't", "3.14", "jumps", "over.", "a", "dog", "(very)", "lazy"];
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut word = || vocabulary[generator.next_u64() as usize % vocabulary.len()];
    (0..count).map(|_| (0..words).map(|_| word()).collect::<Vec<_>>().join(" ")).collect()
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    group.sample_size(10);
    let (references, hypotheses) = (texts(1000, 30, 1), texts(1000, 30, 2));
    group.bench_function("statistics of 1000 texts of 30 words", |bencher| {
        bencher.iter(|| Statistics::of(black_box(&references), black_box(&hypotheses), None));
    });
    let statistics = Statistics::of(&references, &hypotheses, None);
    group.bench_function("1000 resamples of 1000 texts", |bencher| {
        bencher.iter(|| Bootstrap::default().intervals(black_box(&statistics)));
    });
    group.bench_function("word tokens of 1000 texts", |bencher| {
        bencher.iter(|| references.iter().map(|text| word_tokenize(black_box(text)).len()).sum::<usize>());
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
