//! How fast text becomes batches, on generated sentences: texts to tokens, texts to the order of an epoch, tokens and
//! vectors to tensors.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

#[path = "../tests/run/small.rs"]
mod small;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use models::vocabulary::train_bpe;
use small::{Small, sentences};
use training::batches::{BatchOptions, Epoch};
use training::prepare::prepare;

/// The order of an epoch of a million texts of 8 to 31 tokens.
fn order(c: &mut Criterion) {
    let lengths: Vec<u32> =
        (0..1_000_000u32).map(|i| 8 + (i.wrapping_mul(2_654_435_761) >> 24) % 24).collect();
    let options = BatchOptions { tokens: 16_384, texts: None, seed: 1 };
    let mut group = c.benchmark_group("order");
    group.sample_size(10).throughput(Throughput::Elements(lengths.len() as u64));
    let mut epoch = 0;
    group.bench_function("epoch of a million texts", |bench| {
        bench.iter(|| {
            epoch += 1;
            black_box(Epoch::new(&lengths, epoch, options))
        });
    });
    group.finish();
}

/// Batches of an epoch, one after another.
fn collate(c: &mut Criterion) {
    let small = Small::new();
    let prepared = prepare(&small.recipe("bench", &[]).recipe).unwrap();
    let collator = prepared.collator(&prepared.train);
    let lengths = prepared.train.lengths();
    let epoch = Epoch::new(&lengths, 0, BatchOptions { tokens: 4096, texts: None, seed: 1 });
    let mut group = c.benchmark_group("collate");
    group.throughput(Throughput::Elements(prepared.train.total()));
    group.bench_function("tokens of an epoch", |bench| {
        bench.iter(|| {
            for number in 0..epoch.len() {
                black_box(collator.collate(epoch.batch(number).unwrap()).unwrap());
            }
        });
    });
    group.finish();
}

/// Texts to tokens on one core.
fn tokenize(c: &mut Criterion) {
    let text = sentences(800);
    let texts: Vec<&str> = text.lines().collect();
    let vocabulary =
        train_bpe(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>().into_iter(), 600).unwrap();
    let encode = |vocabulary: &models::Vocabulary| -> usize {
        texts.iter().map(|text| vocabulary.encode(text).unwrap().len()).sum()
    };
    let mut group = c.benchmark_group("tokenize");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("sentences", |bench| bench.iter(|| black_box(encode(&vocabulary))));
    group.finish();
}

criterion_group!(benches, order, collate, tokenize);
criterion_main!(benches);
