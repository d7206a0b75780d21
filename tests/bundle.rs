//! A bundle, packed here and run as on a machine that has nothing but Python and torch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use predicates::str::contains;
use serde_json::Value;
use support::small::Small;
use support::{inverse_stella, minilm, sentences, write_lines};

/// A bundle of the small recipe in parts of 10 MB.
struct Machine {
    small: Small,
    bundle: PathBuf,
    /// A PATH on which python3 is all there is.
    path: PathBuf,
}

impl Machine {
    fn new() -> Option<Self> {
        let encoder = minilm()?;
        let small = Small::new(&encoder);
        let held_out = small.path("held-out.txt");
        write_lines(&held_out, &sentences(640)[610..]);
        let bundle = small.path("bundle");
        let mut command = inverse_stella();
        command.args(["bundle", "--recipe"]).arg(&small.recipe).arg("--out").arg(&bundle);
        command.arg("--held-out").arg(&held_out).args(["--max-mb", "10"]);
        command.assert().success().stdout(contains("bash run.sh"));
        let path = small.path("path");
        fs_err::create_dir(&path).unwrap();
        fs_err::os::unix::fs::symlink(python(), path.join("python3")).unwrap();
        Some(Self { small, bundle, path })
    }

    fn run(&self, arguments: &[&str]) -> (Output, String) {
        let output = self.command(arguments).output().unwrap();
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (output, said.concat())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/bash");
        command.env_clear().env("PATH", &self.path).env("HOME", self.small.path("home"));
        command.env("LIBTORCH", libtorch()).env("RUN_GRACE_SECONDS", "2").arg(self.bundle.join("run.sh"));
        command.args(arguments).arg("--out").arg(self.out());
        command
    }

    fn out(&self) -> PathBuf {
        self.small.path("out")
    }

    /// A program of the same size, which is what is looked at before the unpacked is used again.
    fn put_in_place_of_the_program(&self, text: &str) {
        let program = self.bundle.join("unpacked/inverse-stella");
        let size = fs_err::metadata(&program).unwrap().len();
        fs_err::write(&program, text).unwrap();
        fs_err::OpenOptions::new().write(true).open(&program).unwrap().set_len(size).unwrap();
    }

    /// (learning rate, width) of the recipe.
    fn recipe(&self) -> (f64, f64) {
        let manifest = fs_err::read_to_string(self.bundle.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        (manifest["learning_rate"].as_f64().unwrap(), manifest["hidden"].as_f64().unwrap())
    }

    fn phase(&self, name: &str) -> Value {
        let file = self.out().join(format!("{name}.json"));
        serde_json::from_str(&fs_err::read_to_string(file).unwrap()).unwrap()
    }

    fn outcome(&self, phase: &str, step: &str) -> String {
        let phase = self.phase(phase);
        let found = phase["steps"].as_array().unwrap().iter().find(|found| found["step"] == step).unwrap();
        found["outcome"].as_str().unwrap().to_owned()
    }
}

/// The program itself, not what a PATH may lead to it by.
fn python() -> PathBuf {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    fs_err::canonicalize(String::from_utf8(output.stdout).unwrap().trim()).unwrap()
}

fn libtorch() -> PathBuf {
    std::env::var_os("LIBTORCH")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".libtorch"))
}

#[test]
fn a_bundle_runs_where_there_is_nothing_but_python() {
    // packed once: it takes a while
    let Some(machine) = Machine::new() else { return };
    unfit_machines_are_told_why(&machine);
    it_trains_and_goes_on(&machine);
    steps_that_fail_or_hang_do_not_stop_the_next(&machine);
    what_does_not_fit_the_memory_is_cut_in_parts(&machine);
    the_size_is_chosen_by_what_was_measured(&machine);
    what_is_damaged_there_is_unpacked_again(&machine);
    an_interrupted_training_is_kept(&machine);
}

fn it_trains_and_goes_on(machine: &Machine) {
    let manifest: Value =
        serde_json::from_str(&fs_err::read_to_string(machine.bundle.join("manifest.json")).unwrap()).unwrap();
    let parts = manifest["parts"].as_array().unwrap();
    assert!(parts.len() > 1 && parts.iter().all(|part| part["bytes"].as_u64().unwrap() <= 10_000_000));
    assert!(manifest["encoder"]["cosine_lowest"].as_f64().unwrap() > 0.99999, "{}", manifest["encoder"]);

    // a part that is damaged, and one that is not there
    let _ = fs_err::remove_dir_all(machine.bundle.join("unpacked"));
    let (first, second) = (machine.bundle.join("payload.001"), machine.bundle.join("payload.002"));
    let whole = fs_err::read(&first).unwrap();
    let mut damaged = whole.clone();
    damaged[1000] ^= 1;
    fs_err::write(&first, &damaged).unwrap();
    fs_err::rename(&second, machine.small.path("aside")).unwrap();
    let (output, said) = machine.run(&["doctor", "--tiny"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("payload.001 is damaged") && said.contains("payload.002 is missing"), "{said}");
    fs_err::write(&first, &whole).unwrap();
    fs_err::rename(machine.small.path("aside"), &second).unwrap();

    let (output, said) = machine.run(&["--tiny", "--minutes", "8", "--tokens-per-parameter", "0.001"]);
    assert!(output.status.success(), "{said}");
    for phase in ["doctor", "parity", "bench", "gpus", "train", "eval", "report"] {
        let found = machine.phase(phase);
        assert!(!found["steps"].as_array().unwrap().is_empty(), "{phase}");
        assert!(machine.out().join(format!("{phase}.md")).is_file());
    }
    assert!(machine.phase("parity")["steps"][0]["found"]["ok"].as_bool().unwrap());
    for step in ["processes-1", "processes-2"] {
        assert_eq!(machine.outcome("gpus", step), "ok", "{said}");
    }
    assert_eq!(machine.outcome("bench", "stella"), "ok");
    let bench = fs_err::read_to_string(machine.out().join("bench.md")).unwrap();
    assert!(bench.contains("A step of 25m, looked into") && bench.contains("| `te_"), "{bench}");
    assert!(machine.out().join("bench/profile-25m.trace.json.gz").is_file());
    assert!(said.contains("plan: 60m"), "both tiny sizes see that many tokens in seconds: {said}");
    assert!(machine.out().join("page/report.html").is_file());
    let report = fs_err::read_to_string(machine.out().join("summary.md")).unwrap();
    assert!(report.contains("## bench") && report.contains("| greedy | 16 |"), "{report}");
    for file in walk(&machine.out()) {
        assert!(fs_err::metadata(&file).unwrap().len() <= 16_000_000, "{}", file.display());
    }

    let before = machine.phase("train");
    // what was measured stays, and a run that is kept goes on on another machine
    fs_err::remove_dir_all(machine.bundle.join("unpacked")).unwrap();
    let (output, said) = machine.run(&["bench", "train", "--tiny", "--minutes", "2"]);
    assert!(output.status.success() && said.contains("going on with the run kept"), "{said}");
    let steps = |phase: Value| {
        let steps = phase["steps"].as_array().unwrap().clone();
        steps.iter().find(|step| step["step"] == "train").unwrap()["found"]["steps"].as_u64().unwrap()
    };
    assert!(steps(machine.phase("train")) > steps(before), "it did not train on: {said}");
    assert!(!said.contains("train-25m"), "it was measured already: {said}");
    let decoder = machine.small.path("decoder");
    let joined = Command::new(python())
        .arg(machine.bundle.join("survivors.py"))
        .args([&machine.out().join("export"), &decoder])
        .status()
        .unwrap();
    assert!(joined.success());
    inverse_stella()
        .args(["roundtrip", "Two dogs run.", "--decoder"])
        .arg(&decoder)
        .arg("--encoder")
        .arg(minilm().unwrap())
        .assert()
        .success();
}

fn steps_that_fail_or_hang_do_not_stop_the_next(machine: &Machine) {
    // a program that fails, hangs or answers, as it is asked
    let answers = r#"#!/bin/bash
case "$*" in
parity*) echo 'error: nothing is as it was' >&2; exit 1 ;;
"bench train --hidden 32"*) trap '' TERM; while :; do :; done ;;
"bench train"*) echo '{"parameters": 1000, "tokens_per_s": 5}' ;;
*) echo '{}' ;;
esac
exit 0
"#;
    machine.put_in_place_of_the_program(answers);
    let begun = std::time::Instant::now();
    // a peer that answers, one that has not learnt that flag, and one that is not there
    let peers = machine.small.path("peers");
    fs_err::create_dir(&peers).unwrap();
    // a GPU that ours is not to take, it does not see
    let peer = "import os, sys\nassert '--compile' not in sys.argv and os.environ['CUDA_VISIBLE_DEVICES'] == ''\n\
                print('{\"tokens_per_s\": 7}')\n";
    fs_err::write(peers.join("train_torch.py"), peer).unwrap();
    let arguments =
        ["parity", "bench", "--tiny", "--minutes", "0.6", "--device", "cpu", "--again", "--peers"];
    let (output, said) = machine.run(&[&arguments[..], &[peers.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(begun.elapsed().as_secs() < 60, "{said}");
    assert_eq!(machine.outcome("parity", "parity"), "failed (1): nothing is as it was");
    assert_eq!(machine.outcome("bench", "train-25m"), "out of time");
    assert_eq!(machine.outcome("bench", "train-60m"), "ok");
    assert_eq!(machine.outcome("bench", "train-60m-torch"), "ok");
    assert_eq!(machine.outcome("bench", "train-60m-compile"), "failed (1): AssertionError");
    assert!(machine.outcome("bench", "encode-bf16-peer").starts_with("failed (2): "));
    let bench = fs_err::read_to_string(machine.out().join("bench.md")).unwrap();
    assert!(bench.contains("| train-60m-torch |"), "{bench}");
    assert!(said.contains("failed: "), "{said}");
}

fn what_does_not_fit_the_memory_is_cut_in_parts(machine: &Machine) {
    // by the reckoning it fits in four parts, and the GPU says that it takes eight
    let answers = r#"#!/bin/bash
case "$*" in
doctor*) echo '{"checks": [{"name": "CUDA devices", "found": "1", "data": {"memory": [{"free": 1000, "total": 2000}]}}]}' ;;
*accumulate=4\ *--dry-run\ --on-paper*) echo '{"memory": {"total": 800}}' ;;
*--dry-run\ --on-paper*) echo '{"memory": {"total": 950}}' ;;
*--dry-run*) echo 'error: it would take steps' >&2; exit 1 ;;
"train --recipe"*accumulate=4\ *) echo 'error: libtorch refused mm
  caused by: CUDA out of memory' >&2; exit 1 ;;
*) echo '{}' ;;
esac
exit 0
"#;
    machine.put_in_place_of_the_program(answers);
    for folder in [machine.bundle.join("unpacked/work"), machine.out().join("run")] {
        fs_err::remove_dir_all(folder).unwrap();
    }
    let (_, said) =
        machine.run(&["doctor", "train", "--tiny", "--minutes", "1", "--size", "25m", "--processes", "1"]);
    assert!(said.contains("25m in 4 parts a step, for the memory of 0 GB"), "{said}");
    assert!(said.contains("the memory was too small, so 8 parts a step"), "{said}");
    assert_eq!(machine.outcome("train", "train"), "ok");
    let plan = fs_err::read_to_string(machine.out().join("plan.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&plan).unwrap()["parts"], 8);
}

fn unfit_machines_are_told_why(machine: &Machine) {
    let edit = |key: &str, value: &str| {
        let path = machine.bundle.join("manifest.json");
        let mut manifest: Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
        let before = std::mem::replace(&mut manifest[key], value.into());
        fs_err::write(&path, serde_json::to_string(&manifest).unwrap()).unwrap();
        before.as_str().unwrap().to_owned()
    };
    let refused = |arguments: &[&str], word: &str| {
        let (output, said) = machine.run(arguments);
        assert!(output.status.code() == Some(1) && said.contains(word) && said.contains("hint: "), "{said}");
    };
    let glibc = edit("glibc", "9.99");
    refused(&["doctor"], "needs glibc 9.99, and here is glibc 2.");
    edit("glibc", &glibc);
    let torch = edit("torch", "9.9.9");
    refused(&["doctor"], "torch 9.9.9 is needed: ");
    edit("torch", &torch);
    refused(&["doctor", "--minutes", "0"], "is no time");
    refused(&["doctor", "--minutes", "nan"], "is no time");
    refused(&["doctor", "--device", "gpu"], "--device gpu");
    refused(&["bench", "--set", "training.batch_tokenz=4"], "training.batch_tokenz");
    let (steps, aside) = (machine.bundle.join("steps.py"), machine.small.path("steps.py"));
    fs_err::rename(&steps, &aside).unwrap();
    refused(&["doctor"], "steps.py is missing");
    fs_err::rename(&aside, &steps).unwrap();
    if !tch::Cuda::is_available() {
        refused(&["parity", "--device", "cuda"], "there is no GPU here");
    }
    // a training without time is no training, and the next phase has its turn
    let (output, said) = machine.run(&["train", "report", "--minutes", "0.15"]);
    // where it is slow, the pairs take it all
    let told = said.contains("no time was left") || said.contains("out of time");
    assert!(output.status.code() == Some(1) && told, "{said}");
    assert!(said.contains("== report: "), "{said}");
    fs_err::remove_dir_all(machine.out()).unwrap();
    // a phase that has no place does not stop the next
    fs_err::create_dir(machine.out()).unwrap();
    fs_err::write(machine.out().join("parity"), "in the way").unwrap();
    let (output, said) = machine.run(&["parity", "report", "--tiny"]);
    assert!(output.status.code() == Some(1) && said.contains("failed: parity"), "{said}");
    assert!(machine.out().join("report.md").is_file(), "{said}");
    refused(&["train", "--size", "5m"], "--size 5m");
    refused(&["train", "--processes", "0"], "--processes 0");
    refused(&["bench", "--peers", "/nowhere"], "there is no such folder");
    fs_err::remove_dir_all(machine.out()).unwrap();
    fs_err::write(machine.out(), "a file").unwrap();
    refused(&["doctor"], "nothing can be written");
    fs_err::remove_file(machine.out()).unwrap();
}

fn the_size_is_chosen_by_what_was_measured(machine: &Machine) {
    let answers = r#"#!/bin/bash
case "$*" in
"bench train"*"--hidden 384"*) echo '{"parameters": 25000000, "tokens_per_s": 5000000}' ;;
"bench train"*"--hidden 640"*) echo '{"parameters": 64000000, "tokens_per_s": 2000000}' ;;
"bench train"*"--hidden 768"*) echo '{"parameters": 100000000, "tokens_per_s": 1200000}' ;;
"bench train"*"--hidden 1024"*) echo '{"parameters": 300000000, "tokens_per_s": 400000}' ;;
"bench train"*"--hidden 2048"*) echo 'error: CUDA out of memory' >&2; exit 1 ;;
*) echo '{}' ;;
esac
exit 0
"#;
    machine.put_in_place_of_the_program(answers);
    fs_err::remove_dir_all(machine.out()).unwrap();
    let (_, said) = machine.run(&["bench", "train", "--minutes", "5", "--processes", "1"]);
    assert!(said.contains("plan: 100m, "), "{said}");
    assert!(said.contains("failed here: 1b") && said.contains(" M in about "), "{said}");
    let plan: Value =
        serde_json::from_str(&fs_err::read_to_string(machine.out().join("plan.json")).unwrap()).unwrap();
    // a minute of 1.2 million tokens a second, 16384 a step
    assert_eq!(plan["every"], 4395);
    let train = machine.phase("train")["steps"].to_string();
    assert!(train.contains("training.eval_every=4395"), "{train}");
    let rate = train.split("optimizer.learning_rate=").nth(1).unwrap().split_whitespace().next().unwrap();
    let (own, width) = machine.recipe();
    let expected = own * width / 768.0;
    assert!((rate.parse::<f64>().unwrap() / expected - 1.0).abs() < 0.01, "{rate} for {expected}");
}

fn what_is_damaged_there_is_unpacked_again(machine: &Machine) {
    let (program, work) =
        (machine.bundle.join("unpacked/inverse-stella"), machine.bundle.join("unpacked/work"));
    fs_err::write(&program, "cut short").unwrap();
    let (output, said) = machine.run(&["doctor", "--tiny"]);
    assert!(output.status.success() && said.contains("bundle unpacked to"), "{said}");
    assert!(work.is_dir(), "what was made with it stays");
    fs_err::remove_dir_all(work).unwrap();
}

/// A signal to all that a terminal sees, as by ctrl-c (which is not heard where a shell started this in the background): the
/// training saves, and what it saved is with the results, as is what it had saved before.
fn an_interrupted_training_is_kept(machine: &Machine) {
    let _ = fs_err::remove_dir_all(machine.out());
    let arguments = ["train", "--tiny", "--minutes", "3", "--train-minutes", "2", "--size", "25m"];
    let mut running = machine.command(&arguments);
    running.args(["--set", "training.checkpoint_every=2"]).env("RUN_KEEP_SECONDS", "1").process_group(0);
    let running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let group = rustix::process::Pid::from_child(&running);
    let (index, begun) = (machine.out().join("run/index.json"), std::time::Instant::now());
    while !index.is_file() && begun.elapsed().as_secs() < 100 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // the same folders, while they are in use
    let (output, said) = machine.run(&["doctor", "--tiny"]);
    assert!(output.status.code() == Some(1) && said.contains("another run.sh is at work in"), "{said}");
    rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.code() == Some(130) && said.contains("kept meanwhile: the run as of step-"),
        "{said}"
    );
    let index = fs_err::read_to_string(index).unwrap();
    assert!(index.contains("checkpoints/latest"), "{index}");
    fs_err::remove_dir_all(machine.bundle.join("unpacked/work/tiny")).unwrap();
    let (output, said) = machine.run(&["train", "--tiny", "--minutes", "1"]);
    assert!(output.status.success() && said.contains("as the run that goes on"), "{said}");
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    let bundle = |sets: &[&str]| {
        let mut command = inverse_stella();
        command.args(["bundle", "--recipe"]).arg(&small.recipe).arg("--out").arg(small.path("b"));
        for set in sets {
            command.args(["--set", set]);
        }
        command
    };
    bundle(&["corpus.0.hub=some/set", "corpus.0.path=texts.txt"])
        .assert()
        .code(2)
        .stderr(contains("lies on the hub (some/set)"));
    bundle(&["corpus.0.path=/nowhere.txt"]).assert().code(1).stderr(contains("/nowhere.txt"));
    assert!(!small.path("b/staging").exists());
    fs_err::create_dir_all(small.path("b")).unwrap();
    fs_err::write(small.path("b/other"), "mine").unwrap();
    bundle(&[]).assert().code(1).stderr(contains("is not empty"));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
