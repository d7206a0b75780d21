//! One training by several processes: the same losses as by one, whatever happens to a process on the way.
//!
//! A test starts this same program again, once a rank; the processes run `member` and print one line each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../run/small.rs"]
#[allow(dead_code)]
mod small;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use small::{Small, bytes};
use torch_ext::World;
use training::{NullSink, TrainOptions, train};

/// What all the trainings here have in common.
const SETS: &[&str] = &[
    "training.max_steps=40",
    "training.batch_tokens=1500",
    "training.eval_every=10",
    "decoder.hidden=32",
    "distributed.timeout_seconds=60",
    // several buckets, so that some are sent before the backward pass ends
    "distributed.bucket_mib=0.01",
];

/// Starts one process a rank on the run `run`.
fn start(small: &Small, run: &str, sets: &[&str], processes: usize, resume: bool) -> Vec<Child> {
    let dir = format!("run.dir={}", small.run(run).display());
    let sets = [SETS, sets, &[&dir]].concat().join("\n");
    start_each(small, &vec![sets; processes], resume)
}

/// Starts one process for each list of settings, a line each.
fn start_each(small: &Small, sets: &[String], resume: bool) -> Vec<Child> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let size = sets.len();
    let process = |(rank, sets): (usize, &String)| {
        Command::new(std::env::current_exe().unwrap())
            .args(["member", "--exact", "--ignored", "--nocapture"])
            .env("RECIPE", small.path("small.toml"))
            .env("SETS", sets)
            .env("RESUME", resume.to_string())
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", &port)
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    sets.iter().enumerate().map(process).collect()
}

/// What the processes said when they had ended, by rank.
fn said(children: Vec<Child>) -> Vec<String> {
    let line_of = |child: Child| {
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        output.lines().find_map(|line| line.split_once("said: ")).map(|(_, said)| said.to_owned())
    };
    children.into_iter().map(|child| line_of(child).unwrap_or_default()).collect()
}

#[test]
#[ignore = "one of the processes that the other tests start"]
fn member() {
    let Ok(recipe) = std::env::var("RECIPE") else { return };
    tch::set_num_threads(1);
    let sets: Vec<String> = std::env::var("SETS").unwrap().lines().map(str::to_owned).collect();
    let resolved = training::recipe::load(recipe, &sets).unwrap();
    let timeout = Duration::from_secs_f64(resolved.recipe.distributed.timeout_seconds);
    let trained = World::from_env(timeout).map_err(training::Error::from).and_then(|world| {
        let resume = std::env::var("RESUME").unwrap() == "true";
        let options = TrainOptions { resume, world: Arc::new(world), ..TrainOptions::default() };
        train(&resolved, &options, &mut NullSink)
    });
    match trained {
        Ok(outcome) => println!("said: step {} tokens {}", outcome.steps, outcome.tokens),
        Err(error) => println!("said: {error}; hint: {}", error.hint().unwrap_or_default()),
    }
}

/// Trains to the end on so many processes; gives (step, loss) and (step, dev loss) from the run's records.
fn curve(small: &Small, run: &str, sets: &[&str], processes: usize, resume: bool) -> Curve {
    let said = said(start(small, run, sets, processes, resume));
    assert!(said.iter().all(|line| line.starts_with("step 40 tokens")), "{said:?}");
    assert!(said.iter().all(|line| line == &said[0]), "{said:?}");
    Curve::of(small, run)
}

#[derive(Debug, PartialEq)]
struct Curve {
    losses: Vec<(u64, f64)>,
    dev: Vec<(u64, f64)>,
    norms: Vec<f64>,
}

impl Curve {
    fn of(small: &Small, run: &str) -> Self {
        let text = fs_err::read_to_string(small.run(run).join("metrics.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |key: &str| -> Vec<(u64, f64)> {
            let point = |line: &serde_json::Value| Some((line["step"].as_u64()?, line.get(key)?.as_f64()?));
            lines.iter().filter_map(point).collect()
        };
        let norms = of("grad_norm").into_iter().map(|(_, norm)| norm).collect();
        Self { losses: of("loss"), dev: of("dev_loss"), norms }
    }

    /// The largest relative difference between two curves over the same steps.
    fn farthest(&self, other: &Self) -> f64 {
        let pairs = [(&self.losses, &other.losses), (&self.dev, &other.dev)];
        let mut most = 0.0f64;
        for (one, two) in pairs {
            let steps = |points: &[(u64, f64)]| points.iter().map(|point| point.0).collect::<Vec<_>>();
            assert_eq!(steps(one), steps(two));
            assert!(!one.is_empty());
            for ((_, a), (_, b)) in one.iter().zip(two.iter()) {
                most = most.max((a - b).abs() / a.abs());
            }
        }
        most
    }
}

#[test]
fn the_losses_are_those_of_one_process() {
    let small = Small::new();
    let one = curve(&small, "one", &[], 1, false);
    assert_eq!(one.losses.len(), 40);
    assert!(one.losses[39].1 < 0.9 * one.losses[0].1, "it learns: {:?}", one.losses);
    for (processes, accumulate) in [(2, 1), (4, 1), (2, 3)] {
        let run = format!("by-{processes}-in-{accumulate}");
        let set = format!("training.accumulate={accumulate}");
        let several = curve(&small, &run, &[&set], processes, false);
        let farthest = one.farthest(&several);
        println!("{processes} processes, {accumulate} parts: losses differ by {farthest:.1e} at most");
        assert!(farthest < 1e-5, "{processes} processes in {accumulate} parts: {farthest}");
        assert!(one.norms.iter().zip(&several.norms).all(|(a, b)| (a - b).abs() < 1e-3 * a));
    }
}

#[test]
fn processes_start_from_one_pretrained_model() {
    let small = Small::new();
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tests/golden/pretrained");
    let sets = [format!("decoder.start_from={models}/qwen2"), "tokenizer.cut=true".to_owned()];
    let sets = sets.each_ref().map(String::as_str);
    let one = curve(&small, "one", &sets, 1, false);
    assert!(one.losses[39].1 < 0.8 * one.losses[0].1, "it learns: {:?}", one.losses);
    let farthest = one.farthest(&curve(&small, "two", &sets, 2, false));
    assert!(farthest < 1e-5, "{farthest}");

    let other = format!("decoder.start_from={models}/llama");
    let run = format!("run.dir={}", small.run("differing").display());
    let said = said(start_each(&small, &[format!("{run}\n{}", sets[0]), format!("{run}\n{other}")], false));
    assert!(said.iter().all(|line| line.contains("another recipe")), "{said:?}");
}

#[test]
fn a_consistency_loss_is_that_of_one_process() {
    let small = Small::encoded("bert", "none");
    let soft = [
        "tokenizer.kind=encoder",
        "consistency.kind=soft",
        "consistency.begin=0.1",
        // of four processes one has no text of it at least
        "consistency.texts=3",
        "consistency.weight=20",
        // texts of different processes are not compared
        "consistency.similarity_weight=0",
    ];
    let of = |run: &str, sets: &[&str], processes| {
        let curve = curve(&small, run, sets, processes, false);
        let text = fs_err::read_to_string(small.run(run).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let found: Vec<f64> = lines.filter_map(|line| line.get("consistency_loss")?.as_f64()).collect();
        // every second step from number 6 (from 0) on
        assert_eq!(found.len(), 17);
        (curve, found)
    };
    let (one, found) = of("one", &soft, 1);
    for processes in [2, 4] {
        let (several, others) = of(&format!("by-{processes}"), &soft, processes);
        assert!(one.farthest(&several) < 1e-4, "{processes}: {}", one.farthest(&several));
        for (a, b) in found.iter().zip(&others) {
            assert!((a - b).abs() < 1e-3 * a.abs(), "{processes} processes: {a} and {b}");
        }
    }
    // the draws are others, but none waits for ever
    let sampled = ["consistency.kind=sampled", "consistency.begin=0.1", "consistency.texts=3"];
    of("sampled", &sampled, 4);
}

#[test]
fn a_sharded_optimizer_changes_nothing() {
    let small = Small::new();
    for kind in ["adamw", "muon"] {
        let optimizer = format!("optimizer.kind={kind}");
        let sets = [optimizer.as_str(), "decoder.input_normalization=standard"];
        let [whole, sharded] = ["whole", "sharded"].map(|name| format!("{kind}-{name}"));
        let of_whole = curve(&small, &whole, &sets, 2, false);
        let shared = [sets[0], sets[1], "distributed.shard_optimizer=true"];
        assert_eq!(of_whole, curve(&small, &sharded, &shared, 2, false));
        for name in ["model.safetensors", "optimizer.safetensors"] {
            let [whole, sharded] = [&whole, &sharded].map(|run| bytes(&small.run(run), 40, name));
            assert!(whole == sharded, "{kind}: {name}");
        }
    }
}

#[test]
fn a_process_that_dies_is_named_and_the_run_goes_on_with_another_number() {
    let small = Small::new();
    let whole = curve(&small, "whole", &[], 1, false);
    for (sets, resumed_by) in [(&["distributed.shard_optimizer=true"][..], 3), (&[], 1)] {
        let run = format!("resumed-by-{resumed_by}");
        let mut children = start(&small, &run, sets, 2, false);
        let begun = Instant::now();
        while !small.run(&run).join("checkpoints/latest").exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint came");
            std::thread::sleep(Duration::from_millis(2));
        }
        children[1].kill().unwrap();
        let killed = Instant::now();
        let said = said(children);
        assert!(said[0].contains("rank 1 of 2 is gone"), "{said:?}");
        assert!(said[0].contains("--resume"), "{said:?}");
        assert!(killed.elapsed() < Duration::from_secs(60), "within the time-out");
        let farthest = whole.farthest(&curve(&small, &run, sets, resumed_by, true));
        assert!(farthest < 1e-5, "{farthest}");
    }
}

#[test]
fn ranks_of_other_recipes_or_pairs_do_not_train_together() {
    let (small, other) = (Small::new(), Small::under(&["none", "query"]));
    let run = format!("run.dir={}", small.run("differing").display());
    let pairs = format!("pairs.dir={}", other.path("pairs").display());
    let said = said(start_each(&small, &[run.clone(), format!("{run}\n{pairs}")], false));
    for line in &said {
        assert!(line.contains("rank 1 has another recipe than rank 0"), "{said:?}");
    }
}

#[test]
fn what_the_first_refuses_the_others_hear_in_its_words() {
    let small = Small::new();
    let sets = ["training.max_steps=2"];
    said(start(&small, "there", &sets, 1, false));
    let start_time = Instant::now();
    let said = said(start(&small, "there", &sets, 3, false));
    assert!(said[0].contains("holds a run already"), "{said:?}");
    for rank in [1, 2] {
        let wanted = "rank 0 of 3 ended with an error of its own";
        assert!(said[rank].contains(wanted) && said[rank].contains("holds a run already"), "{said:?}");
    }
    assert!(start_time.elapsed() < Duration::from_secs(40), "well before the time-out");
}

#[test]
fn a_long_preparation_of_the_first_is_waited_for_beyond_the_time_out() {
    let small = Small::new();
    let sets = ["training.max_steps=4", "training.checkpoint_every=2", "distributed.timeout_seconds=5"];
    let first = said(start(&small, "slow", &sets, 1, false));
    assert!(first[0].starts_with("step 4"), "{first:?}");
    // the vocabulary of a run that goes on comes from a pipe, which somebody fills at last (opened for both ways, it is
    // not waited for where nobody reads)
    let path = small.run("slow").join("tokenizer.json");
    let (kept, written) = (small.path("tokenizer.json"), fs_err::read(&path).unwrap());
    fs_err::rename(&path, &kept).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let children = start(&small, "slow", &["training.max_steps=6", sets[1], sets[2]], 2, true);
    std::thread::sleep(Duration::from_secs(12));
    let mut pipe = fs_err::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fs_err::rename(&kept, &path).unwrap();
    std::io::Write::write_all(&mut pipe, &written).unwrap();
    drop(pipe);
    let said = said(children);
    assert!(said.iter().all(|line| line.starts_with("step 6")), "{said:?}");
}
