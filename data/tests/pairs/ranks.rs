//! Several processes over one folder: the same bytes whatever their number, however they were interrupted.

use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use data::Error;
use data::pairs::{BuildConfig, BuildReport, Outcome, build_until};
use fs_err as fs;
use torch_ext::World;
use torch_ext::c10d::{Address, Network, Place};

use crate::build::{DIM, config, contents, run};
use crate::encoder::{Fault, HashEncoder};

/// Builds as `size` ranks, a thread each; `config` and `fault` say what each of them has.
fn build_as(
    size: usize,
    config: impl Fn(usize) -> BuildConfig + Sync,
    fault: impl Fn(usize) -> Fault + Sync,
) -> Vec<data::Result<BuildReport>> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let member = |rank: usize| {
        let host = "127.0.0.1".to_owned();
        let place = Place {
            rank,
            size,
            local_rank: rank,
            local_size: size,
            address: Address { host: host.clone(), port },
            serves: rank == 0,
            attempt: 0,
            network: Network::Host(host),
        };
        let world = World::join(&place, Duration::from_secs(60))?;
        let encoder = HashEncoder::with_fault(DIM, fault(rank));
        build_until(&config(rank), &[&encoder], &mut |_| {}, &AtomicBool::new(false), &world)
    };
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size).map(|rank| scope.spawn(move || member(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn any_number_of_ranks_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = config(folder.path(), "whole", 730);
    let alone = run(&whole, &HashEncoder::new(DIM)).unwrap();
    for size in [2, 3] {
        let shared = config(folder.path(), &format!("by-{size}"), 730);
        for report in build_as(size, |_| shared.clone(), |_| Fault::None) {
            let report = report.unwrap();
            assert_eq!((report.outcome, report.resumed_shards), (Outcome::Built, 0));
            assert_eq!(report.manifest, alone.manifest);
        }
        assert_eq!(contents(&shared.dir), contents(&whole.dir));
        // nothing is left to do for any of them
        for report in build_as(size, |_| shared.clone(), |_| Fault::Fail(0)) {
            assert_eq!(report.unwrap().outcome, Outcome::AlreadyBuilt);
        }
    }
}

#[test]
fn near_duplicates_and_duplicates_are_the_same_on_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let with_twins = |name: &str| {
        let mut config = config(folder.path(), name, 430);
        config.corpora.push(config.corpora[0].clone());
        config.corpora[1].name = "again".into();
        config.curation.near_duplicates = Some(serde_json::from_str("{}").unwrap());
        config
    };
    let alone = run(&with_twins("whole"), &HashEncoder::new(DIM)).unwrap();
    let shared = with_twins("shared");
    let reports = build_as(3, |_| shared.clone(), |_| Fault::None);
    assert!(alone.manifest.flow.drops.to_string().contains("430"), "{}", alone.manifest.flow.drops);
    reports.into_iter().for_each(|report| assert_eq!(report.unwrap().manifest, alone.manifest));
    assert_eq!(contents(&shared.dir), contents(&with_twins("whole").dir));
}

#[test]
fn one_that_fails_ends_all_and_is_named_and_another_number_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let whole = config(folder.path(), "whole", 1530);
    run(&whole, &HashEncoder::new(DIM)).unwrap();
    for (first, then) in [(3, 2), (2, 1), (2, 3)] {
        let broken = config(folder.path(), &format!("{first}-{then}"), 1530);
        let fault = |rank| if rank == 1 { Fault::Fail(2) } else { Fault::None };
        let errors = build_as(first, |_| broken.clone(), fault).into_iter().map(Result::unwrap_err);
        for (rank, error) in errors.enumerate() {
            assert!(error.to_string().contains("the encoder broke"), "rank {rank}: {error}");
            assert_eq!(error.to_string().contains("rank 1 of"), rank != 1, "rank {rank}: {error}");
        }
        let complete = fs::read_dir(broken.dir.join(".build")).unwrap();
        let complete = complete
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("shard-"));
        let complete = complete.count();
        let third = broken.dir.join(format!("shard-{:05}.arrow", 1 + 2 * first));
        assert!(!third.exists(), "rank 1 has made its third shard");
        for report in build_as(then, |_| broken.clone(), |_| Fault::None) {
            let report = report.unwrap();
            assert_eq!((report.outcome, report.resumed_shards), (Outcome::Resumed, complete));
        }
        assert_eq!(contents(&broken.dir), contents(&whole.dir));
    }
}

#[test]
fn what_is_complete_behind_a_gap_is_not_encoded_again() {
    let folder = tempfile::tempdir().unwrap();
    let whole = config(folder.path(), "whole", 730);
    run(&whole, &HashEncoder::new(DIM)).unwrap();
    let broken = config(folder.path(), "broken", 730);
    run(&broken, &HashEncoder::with_fault(DIM, Fault::Fail(7))).unwrap_err();
    for gap in [1, 4] {
        fs::remove_file(broken.dir.join(format!(".build/shard-{gap:05}.json"))).unwrap();
    }
    let encoder = HashEncoder::new(DIM);
    let report = run(&broken, &encoder).unwrap();
    // shards 1, 4 and 7
    assert_eq!((report.resumed_shards, encoder.calls.get()), (5, 3));
    assert_eq!(contents(&broken.dir), contents(&whole.dir));
}

#[test]
fn an_error_of_the_curation_reaches_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "pairs", 130);
    config.corpora[0].path = folder.path().join("no-such.txt").display().to_string().into();
    let errors: Vec<_> =
        build_as(2, |_| config.clone(), |_| Fault::None).into_iter().map(Result::unwrap_err).collect();
    assert!(matches!(&errors[0], Error::Missing { .. }), "{}", errors[0]);
    let told = errors[1].to_string();
    assert!(told.contains("rank 0 of 2") && told.contains("no-such.txt"), "{told}");
}

#[test]
fn a_folder_that_is_not_shared_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let own = |rank: usize| config(folder.path(), &format!("of-{rank}"), 130);
    let errors: Vec<_> = build_as(2, own, |_| Fault::None).into_iter().map(Result::unwrap_err).collect();
    assert!(matches!(&errors[1], Error::NotShared { rank: 1, .. }), "{}", errors[1]);
    assert!(errors[0].to_string().contains("rank 1 does not see"), "{}", errors[0]);
}

#[test]
fn a_rank_that_encodes_in_another_number_format_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let own = |rank: usize| BuildConfig {
        encoder_dtype: Some(["bf16", "f32"][rank].to_owned()),
        ..config(folder.path(), "pairs", 130)
    };
    let errors: Vec<_> = build_as(2, own, |_| Fault::None).into_iter().map(Result::unwrap_err).collect();
    let told = errors[1].to_string();
    assert!(told.contains("encoder.dtype = f32") && told.contains("rank 0 encodes in bf16"), "{told}");
    assert!(errors[0].to_string().contains("rank 1"), "{}", errors[0]);
}
