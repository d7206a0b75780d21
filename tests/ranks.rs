//! The main job's parts under `launch`, with the real encoder: what several processes make is what one makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::files;
use support::minilm;
use support::small::Small;

/// `launch --processes N -- VERB --recipe small.toml --set ...`.
fn launched(small: &Small, processes: usize, verb: &[&str], sets: &[String]) -> Command {
    let n = processes.to_string();
    let words: Vec<&str> = [&["launch", "--processes", &n, "--"], verb].concat();
    let mut command = small.start(&words, sets);
    command.env_remove("RANK").env_remove("WORLD_SIZE");
    command
}

/// Its stdout, once it has ended well.
fn done(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a pair set holds, the lock aside.
fn pair_set(folder: &Path) -> Vec<(String, Vec<u8>)> {
    files(folder, |name| name.ends_with(".lock"))
}

#[test]
fn pairs_of_several_processes_have_the_bytes_of_one_and_survive_a_kill() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    let whole = small.path("whole");
    let into = |dir: &Path| [format!("pairs.dir={}", dir.display())];
    small.done(&["pairs", "build"], &into(&whole));

    let broken = small.path("broken");
    let mut child = launched(&small, 3, &["pairs", "build"], &into(&broken)).spawn().unwrap();
    let start = Instant::now();
    while !broken.join("shard-00001.arrow").exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "no shard was ever written");
        std::thread::sleep(Duration::from_millis(5));
    }
    let victims = Command::new("pgrep").args(["-P", &child.id().to_string()]).output().unwrap();
    let victims = String::from_utf8(victims.stdout).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for id in victims.lines() {
        Command::new("kill").args(["-KILL", id]).stderr(Stdio::null()).status().unwrap();
    }
    assert!(!broken.join("manifest.json").exists(), "the build was over before it was killed");
    // until the last of them has let go of the lock
    std::thread::sleep(Duration::from_millis(500));
    let report: Value =
        serde_json::from_str(&done(launched(&small, 2, &["pairs", "build", "--json"], &into(&broken))))
            .unwrap();
    assert_eq!(report["outcome"], "resumed");
    assert!(report["resumed_shards"].as_u64().unwrap() >= 1, "{report}");
    let (whole, broken) = (pair_set(&whole), pair_set(&broken));
    let names = |found: &[(String, Vec<u8>)]| found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&whole), names(&broken));
    for ((name, a), (_, b)) in whole.iter().zip(&broken) {
        assert!(a == b, "{name} differs between one process and several");
    }
}

#[test]
fn an_evaluation_by_several_processes_is_that_of_one() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[]);
    small.done(&["train"], &[]);
    let eval = |launch: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("inverse-stella"));
        command.args(launch).arg("eval").arg(small.path("run")).arg("--pairs").arg(small.path("pairs"));
        command.args(["--split", "dev", "--json", "--bootstrap", "50", "--encoder"]).arg(&encoder);
        command.env_remove("RANK").env_remove("WORLD_SIZE");
        serde_json::from_str::<Value>(&done(command)).unwrap()
    };
    let (alone, shared) = (eval(&[]), eval(&["launch", "--processes", "3", "--"]));
    for key in ["n", "bleu", "chrf", "token_f1", "rouge_l"] {
        assert_eq!(alone[key], shared[key], "{key}");
    }
    let cosine = |result: &Value| result["cosine"].as_f64().unwrap();
    assert!((cosine(&alone) - cosine(&shared)).abs() < 1e-5, "{} {}", cosine(&alone), cosine(&shared));
}

#[test]
fn a_measured_training_is_shared_and_told_once() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[]);
    let sets = ["distributed.shard_optimizer=true".to_owned()];
    let verb = ["bench", "train", "--steps", "3", "--warmup", "1", "--json"];
    let measured = |processes: usize| -> Value {
        serde_json::from_str(&done(launched(&small, processes, &verb, &sets))).unwrap()
    };
    let (alone, shared) = (measured(1), measured(2));
    assert_eq!((&alone["processes"], &shared["processes"]), (&1.into(), &2.into()));
    for key in ["tokens", "steps", "parameters"] {
        assert_eq!(alone[key], shared[key], "{key}: the same steps, shared");
    }
    let loss = |found: &Value| found["loss"].as_f64().unwrap();
    assert!((loss(&alone) - loss(&shared)).abs() < 1e-4 * loss(&alone), "{alone} {shared}");
    assert!(shared["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(!small.path("run").exists(), "nothing is written");
}

#[test]
fn ctrl_c_stops_all_processes_in_order() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    let pairs = small.path("pairs");
    let mut child = launched(&small, 2, &["pairs", "build"], &[]).spawn().unwrap();
    let start = Instant::now();
    while !pairs.join("shard-00000.arrow").exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "no shard was ever written");
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success(), "an orderly end is no failure");
    assert!(!pairs.join("manifest.json").exists(), "the build was over before it was stopped");
    done(launched(&small, 1, &["pairs", "build"], &[]));
    assert!(pairs.join("manifest.json").exists());
}

#[test]
fn a_process_that_is_killed_is_named_and_the_others_end() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    for victim in [0, 1] {
        let pairs = small.path(&format!("pairs-{victim}"));
        let sets = [format!("pairs.dir={}", pairs.display()), "pairs.shard_rows=20".to_owned()];
        let child = launched(&small, 3, &["pairs", "build"], &sets).spawn().unwrap();
        let start = Instant::now();
        while !pairs.join("shard-00001.arrow").exists() {
            assert!(start.elapsed() < Duration::from_secs(120), "no shard was ever written");
            std::thread::sleep(Duration::from_millis(2));
        }
        // started in the order of their ranks
        let listed = Command::new("pgrep").args(["-P", &child.id().to_string()]).output().unwrap();
        let id = String::from_utf8(listed.stdout).unwrap().lines().nth(victim).unwrap().to_owned();
        Command::new("kill").args(["-KILL", &id]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&format!("rank {victim} was ended by signal 9 (SIGKILL)")), "{stderr}");
        // the store is gone with rank 0, and the others see it by themselves
        assert!(victim != 0 || stderr.contains("rank 0 of 3 is gone"), "{stderr}");
        assert!(!stderr.contains("frame #"), "{stderr}");
        assert!(!pairs.join("manifest.json").exists());
    }
}
