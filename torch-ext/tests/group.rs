//! Waiting for a collective from the CPU with an end of its own, which is how NCCL's are waited for; here over Gloo.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use tch::Tensor;
use torch_ext::c10d::{Address, Network, ProcessGroup, Store};
use torch_ext::{Error, Reduce};

const LONG: Duration = Duration::from_secs(60);

/// Two groups in this process, rank 0 and rank 1, each in a thread of its own.
fn pair(play: impl Fn(usize, ProcessGroup) + Sync) {
    let here = Address { host: "127.0.0.1".to_owned(), port: 0 };
    let store = Store::open(&here, true, "group", LONG).unwrap();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            let (store, play) = (store.another().unwrap(), &play);
            scope.spawn(move || {
                let network = Network::Host("127.0.0.1".to_owned());
                play(rank, ProcessGroup::gloo(&store, rank, 2, &network, LONG).unwrap());
            });
        }
    });
}

#[test]
fn what_ends_in_time_is_whole() {
    pair(|rank, group| {
        let numbers = Tensor::full([300_000], rank as i64 + 1, (tch::Kind::Float, tch::Device::Cpu));
        group.all_reduce(&numbers, Reduce::Sum).unwrap().wait_at_most(LONG).unwrap();
        assert_eq!((numbers.double_value(&[0]), numbers.double_value(&[299_999])), (3.0, 3.0));
    });
}

#[test]
fn what_does_not_ends_with_an_error_at_the_time_that_was_given() {
    let short = Duration::from_millis(300);
    pair(|rank, group| {
        if rank == 1 {
            std::thread::sleep(4 * short);
            return;
        }
        let start = Instant::now();
        let work = group.all_reduce(&Tensor::from_slice(&[1.0f32]), Reduce::Sum).unwrap();
        let error = work.wait_at_most(short).unwrap_err();
        assert!(matches!(error, Error::Torch { op: "all_reduce", .. }), "{error}");
        assert!((short..3 * short).contains(&start.elapsed()), "{:?}", start.elapsed());
    });
}
