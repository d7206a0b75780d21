//! How fast pairs are read, from a warm page cache, on one core: in order, at random, into a tensor; and how fast a
//! set of ten million pairs is opened. 384 numbers in half precision.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use data::curation::Split;
use data::pairs::manifest::{Counts, FORMAT, Flow, Manifest};
use data::pairs::pair::Pair;
use data::pairs::shard_writer::{ShardWriter, shard_file};
use data::pairs::{PairSet, Storage, default_shard_rows};
use models::Space;
use models::space::{Pooling, Prompt};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 384;
const SHARDS: usize = 24;
const BATCH: usize = 1024;

fn space() -> Space {
    Space {
        encoder: "bench".into(),
        revision: None,
        weights_digest: "blake3:0".into(),
        prompt: Prompt { name: "none".into(), text: String::new() },
        other_prompts: vec![],
        special_tokens: None,
        attention: models::space::Attention::Bidirectional,
        pooling: Pooling::Mean,
        dense: None,
        dim: DIM,
        normalize: true,
        max_tokens: 256,
    }
}

/// Writes one shard of random pairs, and a manifest that says it is there `shards` times: as copies, or, to save the
/// disk, as links to one file.
fn write_set(dir: &Path, shards: usize, link: bool) -> PairSet {
    let rows = default_shard_rows();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut counts = Counts::default();
    let mut writer = ShardWriter::new(&space(), Storage::F16).unwrap();
    for row in 0..rows {
        let vector: Vec<f32> = (0..DIM).map(|_| rng.random_range(-0.1..0.1)).collect();
        let split = if row % 100 == 0 { "dev" } else { "train" };
        let text = format!("Two people in row {row} stand beside a red car and wait for the rain to end");
        let (source, domain, prompt) = ("captions", "captions", "none");
        let pair = Pair { vector: &vector, text: &text, source, domain, split, prompt };
        writer.push(&pair).unwrap();
        counts.add(&pair, 16);
    }
    let first = dir.join(shard_file(0));
    let mut records = vec![writer.write(&first).unwrap()];
    for index in 1..shards {
        let file = shard_file(index);
        if link {
            fs_err::hard_link(&first, dir.join(&file)).unwrap();
        } else {
            fs_err::copy(&first, dir.join(&file)).unwrap();
        }
        let mut record = records[0].clone();
        record.file = file;
        records.push(record);
    }
    let manifest = Manifest {
        format: FORMAT,
        pairs: (rows * shards) as u64,
        dim: DIM,
        storage: Storage::F16,
        cosine_loss: None,
        counts,
        flow: Flow::default(),
        space: space(),
        encoder_dtype: None,
        recipe: serde_json::Value::Null,
        shards: records,
    };
    manifest.write(dir).unwrap();
    PairSet::open(dir).unwrap()
}

fn read(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let set = write_set(folder.path(), SHARDS, false);
    set.verify().unwrap();
    tch::set_num_threads(1);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut next = 0;
    let mut sequential = || -> Vec<usize> {
        next = (next + BATCH) % (set.len() - BATCH);
        (next..next + BATCH).collect()
    };
    let mut random = || -> Vec<u32> { (0..BATCH).map(|_| rng.random_range(0..set.len() as u32)).collect() };
    let mut numbers = vec![0.0f32; BATCH * DIM];

    let mut group = criterion.benchmark_group("pairs");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("sequential, vector and text", |bench| {
        bench.iter_batched_ref(
            &mut sequential,
            |rows| {
                set.vectors_into(rows, &mut numbers);
                black_box(rows.iter().map(|&row| set.text(row).len()).sum::<usize>())
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("random, vector and text", |bench| {
        bench.iter_batched_ref(
            &mut random,
            |rows| {
                set.vectors_into(rows, &mut numbers);
                black_box(rows.iter().map(|&row| set.text(row as usize).len()).sum::<usize>())
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("random, tensor", |bench| {
        bench.iter_batched_ref(&mut random, |rows| black_box(set.vectors(rows)), BatchSize::SmallInput);
    });
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let shards = 10_000_000usize.div_ceil(default_shard_rows());
    write_set(folder.path(), shards, true);
    let mut group = criterion.benchmark_group("ten million pairs");
    group.sample_size(10);
    group.bench_function("open", |bench| bench.iter(|| PairSet::open(folder.path()).unwrap()));
    group.bench_function("open, rows of the training split, first batch", |bench| {
        bench.iter(|| {
            let set = PairSet::open(folder.path()).unwrap();
            let rows = set.indices(Split::Train).unwrap();
            set.vectors(&rows[..256])
        });
    });
    group.finish();
}

criterion_group!(benches, read, open);
criterion_main!(benches);
