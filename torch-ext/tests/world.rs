//! Real processes that join each other: what the collectives give, and what is said when one is missing.
//!
//! A test starts this same program again, once a rank; the processes run `member` and print one line each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use torch_ext::{Error, Reduce, World};

/// Starts rank `rank` of `size` in a scenario.
fn start(scenario: &str, rank: usize, size: usize, port: u16, timeout: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["member", "--exact", "--ignored", "--nocapture"])
        .env("SCENARIO", scenario)
        .env("TIMEOUT", timeout.to_string())
        .env("RANK", rank.to_string())
        .env("WORLD_SIZE", size.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What each of the processes said, by rank.
fn said(children: Vec<Child>) -> Vec<String> {
    let line_of = |child: Child| {
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        output.lines().find_map(|line| line.split_once("said: ")).map(|(_, said)| said.to_owned())
    };
    children.into_iter().map(|child| line_of(child).unwrap_or_default()).collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(scenario: &str, size: usize, timeout: u64) -> Vec<String> {
    let port = free_port();
    said((0..size).map(|rank| start(scenario, rank, size, port, timeout)).collect())
}

#[test]
#[ignore = "one of the processes that the other tests start"]
fn member() {
    let Ok(scenario) = std::env::var("SCENARIO") else { return };
    let timeout = Duration::from_secs(std::env::var("TIMEOUT").unwrap().parse().unwrap());
    let said = World::from_env(timeout).and_then(|world| play(&scenario, &world));
    println!(
        "said: {}",
        said.unwrap_or_else(|error| format!("{error} hint: {}", error.hint().unwrap_or_default()))
    );
}

fn play(scenario: &str, world: &World) -> Result<String, Error> {
    let rank = world.rank() as f32;
    match scenario {
        "collectives" => collectives(world),
        "rank 2 dies" | "rank 0 dies" => {
            world.barrier()?;
            if scenario.contains(&format!("rank {} dies", world.rank())) {
                std::process::abort();
            }
            let numbers = Tensor::from_slice(&[rank]);
            world.all_reduce(&numbers, Reduce::Sum)?;
            world.barrier()?;
            Ok("all went well".to_owned())
        }
        "rank 1 is late" => {
            world.barrier()?;
            if world.rank() == 1 {
                std::thread::sleep(world.timeout() * 4);
                return Ok("slept".to_owned());
            }
            world.all_reduce(&Tensor::from_slice(&[rank]), Reduce::Sum)?;
            Ok("all went well".to_owned())
        }
        "no GPU" => {
            world.barrier()?;
            let refusal = world.attach_cuda(Device::Cuda(0)).unwrap_err();
            assert!(matches!(refusal, Error::NoCuda { .. }), "{refusal}");
            // the CPU's collectives go on
            let sum = Tensor::from_slice(&[rank]);
            world.all_reduce(&sum, Reduce::Sum)?;
            Ok(format!("{}, and the sum is {}", refusal.hint().unwrap_or_default(), sum.double_value(&[0])))
        }
        "a long work" => {
            let work = || {
                std::thread::sleep(world.timeout() * 2);
                Ok::<_, Error>(b"the plan".to_vec())
            };
            let word = world.first_does("planning", work)?;
            // some take longer than others
            std::thread::sleep(world.timeout() * world.rank() as u32);
            world.check_others("working")?;
            world.patient_barrier("working")?;
            Ok(String::from_utf8_lossy(&word).into_owned())
        }
        "the first fails" => {
            let work =
                || Err::<Vec<u8>, _>(Error::Argument { op: "planning", message: "no plan".to_owned() });
            world.first_does("planning", work).map(|_| String::new())
        }
        "rank 1 fails" => {
            world.first_does("planning", || Ok::<_, Error>(Vec::new()))?;
            if world.rank() == 1 {
                world.tell_failure("no paper");
                return Ok("failed".to_owned());
            }
            let told =
                world.patient_barrier("working").inspect_err(|error| world.tell_failure(&error.to_string()));
            told.map(|()| "all went well".to_owned())
        }
        "rank 0 refuses" | "rank 1 refuses" => {
            if scenario.contains(&format!("rank {} refuses", world.rank())) {
                let start = Instant::now();
                world.tell_failure("the disk is full");
                let first = start.elapsed();
                world.tell_failure("and nothing else");
                return Ok(format!("told once: {}", start.elapsed() - first < Duration::from_millis(200)));
            }
            let told = world
                .all_reduce(&Tensor::from_slice(&[rank]), Reduce::Sum)
                .inspect_err(|error| world.tell_failure(&error.to_string()));
            told.map(|()| "all went well".to_owned())
        }
        "the first dies at work" => world
            .first_does("planning", || -> Result<_, Error> { std::process::abort() })
            .map(|_: Vec<u8>| String::new()),
        other => panic!("no scenario {other}"),
    }
}

fn collectives(world: &World) -> Result<String, Error> {
    let rank = world.rank() as f32;
    let sum = Tensor::from_slice(&[rank, 10.0 * rank]);
    world.all_reduce(&sum, Reduce::Sum)?;
    let most = Tensor::from_slice(&[rank, 1.0 - rank]).to_kind(Kind::BFloat16);
    world.all_reduce(&most, Reduce::Max)?;
    let shared = Tensor::full([2, 2], f64::from(rank) + 7.0, (Kind::Float, Device::Cpu));
    world.broadcast(&shared)?;
    let all = Tensor::zeros([world.size() as i64, 1], (Kind::Float, Device::Cpu));
    world.all_gather(&all, &Tensor::from_slice(&[rank * rank]))?;
    let text = world.broadcast_bytes(format!("from {}", world.rank()).into_bytes())?;
    let texts = world.gather_bytes(vec![b'a' + world.rank() as u8; world.rank()])?;
    let [least] = world.reduce_numbers([f64::from(rank) + 0.5], Reduce::Min)?;
    // several at once, waited for in another order
    let parts: Vec<Tensor> = (0..3).map(|i| Tensor::full([100_000], i, (Kind::Float, Device::Cpu))).collect();
    let mut begun = Vec::new();
    for part in &parts {
        begun.push(world.begin_all_reduce(part, Reduce::Sum)?);
    }
    begun.reverse();
    begun.into_iter().try_for_each(|pending| world.finish(pending))?;
    world.barrier()?;
    let turned = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).transpose(0, 1);
    let refused = world.all_reduce(&turned, Reduce::Sum).unwrap_err();
    let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).view([-1])).unwrap();
    let texts: Vec<_> = texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    Ok(format!(
        "{:?} {:?} {:?} {:?} {} {texts:?} {least} {:?} {refused}",
        values(&sum),
        values(&most),
        values(&shared),
        values(&all),
        String::from_utf8_lossy(&text),
        parts.iter().map(|part| part.double_value(&[99_999])).collect::<Vec<_>>(),
    ))
}

#[test]
fn collectives_give_all_ranks_the_same() {
    let said = run("collectives", 3, 60);
    let expected = "[3.0, 30.0] [2.0, 1.0] [7.0, 7.0, 7.0, 7.0] [0.0, 1.0, 4.0] from 0 [\"\", \"b\", \"cc\"] 0.5 \
                    [0.0, 3.0, 6.0] all_reduce: the tensor is not contiguous";
    assert_eq!(said, [expected; 3]);
}

#[test]
fn alone_everything_is_there_at_once() {
    let said = collectives_alone();
    assert_eq!(said, "[5.0] [5.0] own [[111]] 0.5");
}

fn collectives_alone() -> String {
    let world = World::alone();
    let sum = Tensor::from_slice(&[5.0f32]);
    world.attach_cuda(Device::Cuda(0)).unwrap();
    world.all_reduce(&sum, Reduce::Sum).unwrap();
    world.broadcast(&sum).unwrap();
    world.barrier().unwrap();
    let all = Tensor::zeros([1, 1], (Kind::Float, Device::Cpu));
    world.all_gather(&all, &sum).unwrap();
    let text = world.broadcast_bytes(b"own".to_vec()).unwrap();
    let texts = world.gather_bytes(b"o".to_vec()).unwrap();
    let [least] = world.reduce_numbers([0.5], Reduce::Min).unwrap();
    let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).view([-1])).unwrap();
    format!("{:?} {:?} {} {texts:?} {least}", values(&sum), values(&all), String::from_utf8_lossy(&text))
}

#[test]
fn without_a_gpu_the_processes_stay_on_the_cpu() {
    if torch_ext::load_cuda().is_loaded() {
        return;
    }
    let said = run("no GPU", 2, 30);
    let hint = if cfg!(feature = "cuda") { "doctor" } else { "make build-cuda" };
    for line in said {
        assert!(line.contains(hint) && line.ends_with("the sum is 1"), "{line}");
    }
}

#[test]
fn a_rank_that_dies_is_named_by_the_others() {
    let start = Instant::now();
    let said = run("rank 2 dies", 4, 30);
    assert!(start.elapsed() < Duration::from_secs(30), "well before the time-out");
    assert_eq!(said[2], "");
    for rank in [0, 1, 3] {
        assert!(said[rank].contains("rank 2 of 4 is gone"), "rank {rank}: {}", said[rank]);
        assert!(said[rank].contains("--resume"), "{}", said[rank]);
    }
}

#[test]
fn the_rank_that_serves_the_store_is_named_too() {
    let said = run("rank 0 dies", 3, 30);
    for rank in [1, 2] {
        assert!(said[rank].contains("rank 0 of 3 is gone"), "rank {rank}: {}", said[rank]);
    }
}

#[test]
fn a_rank_that_is_late_is_named_when_the_time_is_over() {
    let said = run("rank 1 is late", 3, 5);
    for rank in [0, 2] {
        assert!(said[rank].contains("rank 1 of 3 did not come to it within"), "rank {rank}: {}", said[rank]);
        assert!(said[rank].contains("still lives"), "{}", said[rank]);
    }
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let port = free_port();
    let said = said([0, 2].map(|rank| start("collectives", rank, 3, port, 3)).into_iter().collect());
    for line in &said {
        assert!(line.contains("rank 1 of 3 did not come to 127.0.0.1:"), "{line}");
    }
}

#[test]
fn without_a_store_the_address_is_named() {
    let said = said(vec![start("collectives", 1, 2, free_port(), 2)]);
    assert!(
        said[0].contains("the store at 127.0.0.1:") && said[0].contains("hint: rank 0 serves it"),
        "{}",
        said[0]
    );
}

#[test]
fn a_long_work_is_waited_for_beyond_the_time_out() {
    assert_eq!(run("a long work", 3, 3), ["the plan"; 3]);
}

#[test]
fn a_failure_outside_a_collective_is_told_with_its_message() {
    let said = run("the first fails", 3, 30);
    assert!(said[0].starts_with("planning: no plan"), "{}", said[0]);
    for rank in [1, 2] {
        let wanted = "planning 1: rank 0 of 3 ended with an error of its own (planning: no plan)";
        assert!(said[rank].contains(wanted), "rank {rank}: {}", said[rank]);
    }
    let said = run("rank 1 fails", 3, 30);
    assert_eq!(said[1], "failed");
    for rank in [0, 2] {
        let wanted = "working 2: rank 1 of 3 ended with an error of its own (no paper)";
        assert!(said[rank].contains(wanted), "rank {rank}: {}", said[rank]);
    }
}

#[test]
fn a_rank_that_refuses_is_heard_by_those_that_wait_in_a_collective() {
    for refuses in [0, 1] {
        let start = Instant::now();
        let said = run(&format!("rank {refuses} refuses"), 3, 60);
        assert!(start.elapsed() < Duration::from_secs(30), "well before the time-out: {:?}", start.elapsed());
        for (rank, said) in said.iter().enumerate() {
            let wanted = if rank == refuses {
                "told once: true".to_owned()
            } else {
                format!("all_reduce 1: rank {refuses} of 3 ended with an error of its own (the disk is full)")
            };
            assert!(said.contains(&wanted), "rank {rank}: {said}");
        }
    }
}

#[test]
fn the_first_that_dies_at_work_is_named() {
    let start = Instant::now();
    let said = run("the first dies at work", 3, 60);
    assert!(start.elapsed() < Duration::from_secs(50), "well before the time-out");
    for rank in [1, 2] {
        assert!(said[rank].contains("planning 1: rank 0 of 3 is gone"), "rank {rank}: {}", said[rank]);
    }
}
