//! The round trip over several ranks: the result of one, and errors that name the rank.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::result_large_err, non_snake_case)]

use std::net::TcpListener;
use std::time::Duration;

use eval::result::DecoderRecord;
use eval::{Invert, RoundTrip, RoundTripOptions, Spread, round_trip};
use models::generate::{GenerateOptions, Strategy};
use models::inverter::Inverted;
use models::{Embed, Error, Pooling, Prompt, Space};
use tch::Tensor;
use tokenizers::Tokenizer;
use tokenizers::models::wordlevel::WordLevel;
use torch_ext::World;
use torch_ext::c10d::{Address, Network, Place};

const DIM: usize = 3;

/// A text's vector is its length, its first byte and one; the text of a vector tells these, and its place in the call
/// where it is drawn.
struct Toy {
    space: Space,
    tokenizer: Tokenizer,
    fails: bool,
}

impl Toy {
    fn new(fails: bool) -> Toy {
        let words =
            WordLevel::builder().vocab([("[UNK]".to_owned(), 0)].into()).unk_token("[UNK]".to_owned());
        let space = Space {
            encoder: "toy".to_owned(),
            revision: None,
            weights_digest: "blake3:toy".to_owned(),
            prompt: Prompt::none(),
            other_prompts: vec![],
            special_tokens: None,
            attention: models::space::Attention::Bidirectional,
            pooling: Pooling::Mean,
            dense: None,
            dim: DIM,
            normalize: false,
            max_tokens: 100,
        };
        Toy { space, tokenizer: Tokenizer::new(words.build().unwrap()), fails }
    }
}

impl Embed for Toy {
    fn space(&self) -> &Space {
        &self.space
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_tokens(&self) -> usize {
        self.space.max_tokens
    }

    fn embed(&self, texts: &[&str]) -> models::Result<Tensor> {
        assert!(!texts.is_empty(), "a call without texts");
        let row = |text: &&str| [text.len() as f32 / 7.0, f32::from(text.as_bytes()[0]), 1.0];
        let numbers: Vec<f32> = texts.iter().flat_map(row).collect();
        Ok(Tensor::from_slice(&numbers).view([texts.len() as i64, DIM as i64]))
    }
}

impl Invert for Toy {
    fn space(&self) -> &Space {
        &self.space
    }

    fn invert(&self, v_ND: &Tensor, first: u64, options: &GenerateOptions) -> models::Result<Vec<Inverted>> {
        if self.fails {
            return Err(Error::Tokenize("no words".to_owned()));
        }
        let drawn = matches!(options.strategy, Strategy::Sample { .. });
        let text = |at: i64| {
            let number = |i: i64| v_ND.double_value(&[at, i]);
            let place = if drawn { format!(" at {}", first + at as u64) } else { String::new() };
            let text = format!("{:.3} letters after {}{place}", number(0) * 7.0, number(1));
            let (log_prob, tokens) = (Some(f64::NEG_INFINITY), at as usize);
            Inverted { text, log_prob, tokens, finished: true, encodings: 0, course: Vec::new() }
        };
        Ok((0..v_ND.size()[0]).map(text).collect())
    }

    fn record(&self) -> DecoderRecord {
        DecoderRecord {
            kind: "toy".into(),
            path: "toy".into(),
            step: None,
            device: "cpu".into(),
            max_tokens: 64,
        }
    }

    fn dtype(&self) -> String {
        "f32".to_owned()
    }
}

fn texts(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{}{}", ["red", "dog", "a long way"][i % 3], "!".repeat(i % 11))).collect()
}

/// The round trip of `n` texts as `size` ranks, a thread each.
fn trips(size: usize, n: usize, strategy: &Strategy, fails: Option<usize>) -> Vec<eval::Result<RoundTrip>> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let generate = GenerateOptions { strategy: strategy.clone(), batch: 4, ..GenerateOptions::default() };
    let options = RoundTripOptions { generate, bootstrap: 20, ..RoundTripOptions::default() };
    let member = |rank: usize| {
        let address = Address { host: "127.0.0.1".to_owned(), port };
        let network = Network::Host(address.host.clone());
        let place = Place {
            rank,
            size,
            local_rank: rank,
            local_size: size,
            address,
            serves: rank == 0,
            attempt: 0,
            network,
        };
        let world = World::join(&place, Duration::from_secs(60)).unwrap();
        let toy = Toy::new(fails == Some(rank));
        let (inverter, encoder) = (Spread::new(&toy, &world), Spread::new(&toy as &dyn Embed, &world));
        let done = round_trip(&inverter, &encoder, &texts(n), None, &options, &mut |_, _, _| {});
        world.barrier().unwrap();
        done
    };
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size).map(|rank| scope.spawn(move || member(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The texts and scores; what a rank counts within its own call (the toy's `tokens`) is none of them.
fn said(result: &RoundTrip) -> String {
    serde_json::to_string(&(&result.summary, &result.rows)).unwrap()
}

#[test]
fn any_number_of_ranks_comes_to_one_result() {
    // fewer texts than ranks, no multiple of them, and many batches
    for (size, n) in [(2, 1), (3, 2), (3, 50)] {
        let alone = said(&trips(1, n, &Strategy::Greedy, None).remove(0).unwrap());
        for result in trips(size, n, &Strategy::Greedy, None) {
            assert_eq!(said(&result.unwrap()), alone, "{size} ranks, {n} texts");
        }
    }
}

#[test]
fn what_is_drawn_goes_by_the_place_among_all() {
    let strategy =
        Strategy::Sample { temperature: 1.0, top_k: None, top_p: None, min_p: None, seed: 1, samples: 1 };
    let alone = said(&trips(1, 20, &strategy, None).remove(0).unwrap());
    assert!(alone.contains(" at 19"), "{alone}");
    for result in trips(3, 20, &strategy, None) {
        assert_eq!(said(&result.unwrap()), alone);
    }
}

#[test]
fn an_error_on_one_rank_is_named_on_all() {
    for (rank, result) in trips(3, 20, &Strategy::Greedy, Some(1)).into_iter().enumerate() {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("no words"), "rank {rank}: {error}");
        assert_eq!(
            error.contains("rank 1 of 3 ended with an error of its own"),
            rank != 1,
            "rank {rank}: {error}"
        );
    }
}
