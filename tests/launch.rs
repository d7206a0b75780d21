//! `launch` as a user meets it: what is refused, what is said of a process that failed, signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use predicates::str::contains;
use support::inverse_stella;

fn launch(arguments: &[&str]) -> Assert {
    inverse_stella().env_remove("RANK").arg("launch").args(arguments).assert()
}

#[test]
fn what_cannot_be_launched_is_refused() {
    launch(&["--processes", "0", "--", "train"]).code(2).stderr(contains("--processes"));
    launch(&["--processes", "2"]).code(2).stderr(contains("COMMAND"));
    launch(&["--processes", "2", "--"]).code(2).stderr(contains("COMMAND"));
    launch(&["--", "train"]).code(2).stderr(contains("--processes"));
    launch(&["--processes", "2", "--", "doctor"]).code(2).stderr(contains("\"doctor\" has no work to share"));
    launch(&["--processes", "2", "--", "pairs", "verify", "somewhere"])
        .code(2)
        .stderr(contains("\"pairs verify somewhere\" has no work to share").and(contains("hint:")));
    launch(&["--processes", "2", "--", "launch", "--processes", "2", "--", "train"]).code(2);
    launch(&["--processes", "2", "--", "train", "--recipe", "configs/demo.toml", "--dry-run"])
        .code(2)
        .stderr(contains("has no work to share"));
    launch(&["--processes", "2", "--", "bench", "train", "--steps", "1"])
        .code(2)
        .stderr(contains("has no work to share").and(contains("bench train --recipe")));
    // said once, and not by every process
    launch(&["--processes", "2", "--", "eval", "somewhere"])
        .code(2)
        .stderr(contains("--texts").and(contains("rank").not()));
}

#[test]
fn of_several_processes_one_tells_the_plan() {
    for (rank, tells) in [("0", true), ("1", false)] {
        let plan = ["train", "--recipe", "configs/1b.toml", "--dry-run", "--on-paper"];
        let place = [("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")];
        let done = inverse_stella().args(plan).envs(place).assert().success();
        assert_eq!(!done.get_output().stdout.is_empty(), tells, "rank {rank}");
    }
}

#[test]
fn a_launch_within_a_launch_is_refused() {
    inverse_stella()
        .env("RANK", "1")
        .args(["launch", "--processes", "2", "--", "train", "--recipe", "configs/demo.toml"])
        .assert()
        .code(2)
        .stderr(contains("RANK is set to 1").and(contains("hint:")));
}

#[test]
fn help_of_the_command_is_shown_once() {
    launch(&["--processes", "2", "--", "train", "--help"]).success().stdout(contains("--resume").count(2));
}

#[test]
fn processes_that_fail_give_their_status_and_are_named() {
    launch(&["--processes", "2", "--", "train", "--recipe", "configs/no-such.toml"])
        .code(1)
        .stdout("")
        .stderr(
            contains("[rank 1] error:")
                .and(contains("rank 1 ended with status 1"))
                .and(contains("rank 0 ended with status 1"))
                .and(contains("[rank 0]").not()),
        );
    launch(&["--processes", "2", "--", "train", "--recipe", "configs/demo.toml", "--set", "decoder.hiden=3"])
        .code(2);
}

/// The children of a process.
fn children_of(parent: u32) -> Vec<String> {
    let listed = Command::new("pgrep").args(["-P", &parent.to_string()]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_launch_that_is_killed_leaves_no_process_behind() {
    // a pipe that nobody writes to: the processes wait for its first line
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts");
    assert!(Command::new("mkfifo").arg(&texts).status().unwrap().success());
    let recipe = folder.path().join("recipe.toml");
    fs_err::os::unix::fs::symlink(&texts, &recipe).unwrap();
    let mut parent = Command::new(assert_cmd::cargo::cargo_bin("inverse-stella"))
        .args(["launch", "--processes", "2", "--", "train", "--recipe"])
        .arg(&recipe)
        .env_remove("RANK")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while children_of(parent.id()).len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(30), "the processes were never started");
        std::thread::sleep(Duration::from_millis(20));
    }
    let children = children_of(parent.id());
    // until they have heard who their parent is
    std::thread::sleep(Duration::from_secs(2));
    parent.kill().unwrap();
    parent.wait().unwrap();
    let alive =
        |id: &String| Command::new("kill").args(["-0", id]).stderr(Stdio::null()).status().unwrap().success();
    let start = Instant::now();
    while children.iter().any(alive) {
        assert!(start.elapsed() < Duration::from_secs(10), "a process has outlived its launch");
        std::thread::sleep(Duration::from_millis(50));
    }
}
