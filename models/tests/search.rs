//! Search by encoding again, with a random decoder and an encoder of letter counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, non_snake_case)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use models::generate::{GenerateOptions, Source, read};
use models::vocabulary::train_bpe;
use models::{
    Decoder, DecoderConfig, Decodes, Embed, Error, Inverted, Inverter, Origin, OriginKind, ParamStore,
    Pooling, Prompt, Search, SearchOptions, Space,
};
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

const DIM: usize = 8;

fn space() -> Space {
    Space {
        encoder: "letters".into(),
        revision: None,
        weights_digest: "blake3:00".into(),
        prompt: Prompt::none(),
        other_prompts: vec![],
        special_tokens: None,
        attention: models::space::Attention::Bidirectional,
        pooling: Pooling::Mean,
        dense: None,
        dim: DIM,
        normalize: true,
        max_tokens: 64,
    }
}

/// Counts letters, and remembers what it was given.
struct Letters {
    space: Space,
    tokenizer: Tokenizer,
    seen: RefCell<Vec<String>>,
}

impl Letters {
    fn new() -> Self {
        let model = tokenizers::models::wordlevel::WordLevel::default();
        Self { space: space(), tokenizer: Tokenizer::new(model), seen: RefCell::default() }
    }
}

impl Embed for Letters {
    fn space(&self) -> &Space {
        &self.space
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_tokens(&self) -> usize {
        64
    }

    fn embed(&self, texts: &[&str]) -> models::Result<Tensor> {
        self.seen.borrow_mut().extend(texts.iter().map(|text| (*text).to_owned()));
        let mut numbers = Vec::new();
        for text in texts {
            let mut counts = [0.1f32; DIM];
            text.bytes()
                .enumerate()
                .for_each(|(at, byte)| counts[byte as usize % DIM] += 1.0 + at as f32 * 0.01);
            numbers.extend(counts);
        }
        Ok(Tensor::from_slice(&numbers).view([texts.len() as i64, DIM as i64]))
    }
}

fn inverter(refines: bool) -> Inverter {
    let texts = ["A man is playing a guitar.", "Two dogs run through the snow near a house."];
    let vocabulary = train_bpe(texts.into_iter().cycle().take(100).map(str::to_owned), 300).unwrap();
    let config: DecoderConfig = serde_json::from_value(serde_json::json!({
        "dim": DIM, "hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 48,
        "vocab": vocabulary.size(), "prefix_tokens": 3, "projector_hidden": 16, "max_tokens": 10, "rope_theta": 1e4,
        "rms_norm_eps": 1e-6, "tie_embeddings": false, "bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos,
        "pad_token_id": vocabulary.pad, "input_scale": 2.8, "refines": refines}))
    .unwrap();
    let mut store = ParamStore::train(Device::Cpu, Kind::Float, 4);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    tch::no_grad(|| {
        for param in store.params().iter().filter(|param| param.master.dim() > 1) {
            let _ = param.master.shallow_clone().g_mul_scalar_(12.0);
        }
    });
    let origin = Origin { kind: OriginKind::Run, path: PathBuf::from("made here"), step: None };
    Inverter { decoder, config, vocabulary, space: space(), origin, store }
}

fn vectors(count: i64) -> Tensor {
    (Tensor::arange(count * DIM as i64, (Kind::Float, Device::Cpu)) * 1.7)
        .sin()
        .abs()
        .view([count, DIM as i64])
}

fn options() -> SearchOptions {
    SearchOptions {
        first: Decodes { beam: 3, samples: 2 },
        rounds: 4,
        parents: 2,
        each: Decodes { beam: 2, samples: 1 },
        beyond: 1,
        feedback: 2,
        neighbours: 2,
        recombined: 2,
        patience: 5,
        temperature: 1.0,
        ..SearchOptions::default()
    }
}

fn search(encoder: &Letters, options: &SearchOptions, v_ND: &Tensor, first: u64) -> Vec<Inverted> {
    Search::new(&inverter(true), encoder, options).unwrap().run(v_ND, first, &mut |_| {}).unwrap()
}

/// Mean cosine of what is found for vectors by a decoder that refines, or by one that does not.
fn mean_found(refines: bool, options: &SearchOptions, v_ND: &Tensor) -> f64 {
    let encoder = Letters::new();
    let inverter = inverter(refines);
    let found = Search::new(&inverter, &encoder, options).unwrap().run(v_ND, 0, &mut |_| {}).unwrap();
    cosines(&found, v_ND).iter().sum::<f64>() / found.len() as f64
}

fn cosines(texts: &[Inverted], v_ND: &Tensor) -> Vec<f64> {
    let borrowed: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
    let again_ND = Letters::new().embed(&borrowed).unwrap().to_kind(Kind::Double);
    let cosine_N = Tensor::cosine_similarity(&again_ND, &v_ND.to_kind(Kind::Double), 1, 1e-9);
    cosine_N.try_into().unwrap()
}

#[test]
fn the_best_ever_seen_is_returned_and_every_encoding_is_counted() {
    let (encoder, v_ND) = (Letters::new(), vectors(1));
    let found = search(&encoder, &options(), &v_ND, 0).remove(0);
    let seen = encoder.seen.borrow().clone();
    assert_eq!(seen.len(), found.encodings);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "no text is encoded twice");
    assert!(seen.contains(&found.text));
    let all: Vec<Inverted> =
        seen.iter().map(|text| Inverted { text: text.clone(), ..found.clone() }).collect();
    let best = cosines(&all, &v_ND.expand([seen.len() as i64, -1], false)).into_iter().fold(-1.0, f64::max);
    assert!((cosines(std::slice::from_ref(&found), &v_ND)[0] - best).abs() < 1e-6);
    assert!((found.course.last().unwrap() - best).abs() < 1e-6);
    assert!(found.course.is_sorted(), "{:?}", found.course);
    assert_eq!(found.course.len(), 5);
}

#[test]
fn the_best_of_each_text_is_returned_under_a_budget_too() {
    let v_ND = vectors(8);
    let found = search(&Letters::new(), &SearchOptions { budget: Some(9), ..options() }, &v_ND, 0);
    for (cosine, found) in cosines(&found, &v_ND).into_iter().zip(&found) {
        assert!((found.course.last().unwrap() - cosine).abs() < 1e-6, "{found:?}");
    }
}

/// Which of the texts that were encoded for a vector must be returned with this weight, its log-probability, and whether
/// it is not the nearest.
fn likelier(seen: &[String], v_ND: &Tensor, weight: f64) -> (String, f64, bool) {
    let many_ND = v_ND.expand([seen.len() as i64, -1], false);
    let inverter = inverter(true);
    let ids: Vec<Vec<u32>> = seen.iter().map(|text| inverter.vocabulary.encode(text).unwrap()).collect();
    let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let (source, options) = (Source::vectors(&many_ND), GenerateOptions::default());
    let readings = read(&inverter.decoder, &source, &texts, 0, &options).unwrap();
    let borrowed: Vec<&str> = seen.iter().map(String::as_str).collect();
    let again_ND = Letters::new().embed(&borrowed).unwrap().to_kind(Kind::Double);
    let cosine_N = Tensor::cosine_similarity(&many_ND.to_kind(Kind::Double), &again_ND, 1, 1e-12);
    let cosines = Vec::<f64>::try_from(cosine_N).unwrap();
    let mut nearest: Vec<usize> = (0..seen.len()).collect();
    nearest.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
    let score = |at: usize| weight * readings[at].log_prob() - (1.0 - cosines[at] + 1e-4).ln();
    let read = (seen.len() / 4).clamp(4, 32);
    let best = nearest.iter().copied().take(read).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
    (seen[best].clone(), readings[best].log_prob(), best != nearest[0])
}

#[test]
fn of_the_nearest_the_likelier_is_returned() {
    let (v_ND, weight) = (vectors(6), 0.3);
    let mut others = 0;
    for number in 0..6 {
        let (encoder, v_1D) = (Letters::new(), v_ND.narrow(0, number, 1));
        let found = search(&encoder, &SearchOptions { prior: weight, ..options() }, &v_1D, 0).remove(0);
        let (text, log_prob, is_other) = likelier(&encoder.seen.borrow(), &v_1D, weight);
        assert_eq!(found.text, text);
        assert!((found.log_prob.unwrap() - log_prob).abs() < 1e-3, "{found:?} {log_prob}");
        others += usize::from(is_other);
    }
    assert!(others > 0, "or the test says nothing");
}

#[test]
fn neither_batch_nor_company_changes_what_is_found() {
    let v_ND = vectors(12);
    let options = || SearchOptions { prior: 0.05, ..options() };
    let all = search(&Letters::new(), &options(), &v_ND, 0);
    let small = search(
        &Letters::new(),
        &SearchOptions { generate: GenerateOptions { batch: 5, ..GenerateOptions::default() }, ..options() },
        &v_ND,
        0,
    );
    let texts = |found: &[Inverted]| found.iter().map(|f| (f.text.clone(), f.encodings)).collect::<Vec<_>>();
    assert_eq!(texts(&all), texts(&small));
    let later = search(&Letters::new(), &options(), &v_ND.narrow(0, 7, 5), 7);
    assert_eq!(texts(&all[7..]), texts(&later));
    // what is drawn does follow from the number
    let drawn = SearchOptions { first: Decodes { beam: 0, samples: 1 }, rounds: 0, ..options() };
    let as_first = search(&Letters::new(), &drawn, &v_ND.narrow(0, 7, 5), 0);
    assert_ne!(texts(&search(&Letters::new(), &drawn, &v_ND.narrow(0, 7, 5), 7)), texts(&as_first));
}

#[test]
fn refinement_and_more_candidates_come_nearer() {
    let v_ND = vectors(40);
    let mean = |options: &SearchOptions| mean_found(true, options, &v_ND);
    let greedy = mean(&SearchOptions::default());
    let first = mean(&SearchOptions { rounds: 0, ..options() });
    let refined = mean(&options());
    assert!(greedy < first && first < refined, "{greedy} {first} {refined}");
    // a search that encodes one greedy guess finds that guess
    let guesses = inverter(true).invert(&v_ND, &GenerateOptions::default()).unwrap();
    let found = search(&Letters::new(), &SearchOptions::default(), &v_ND, 0);
    assert!(
        guesses.iter().zip(&found).all(|(guess, found)| guess.text == found.text && found.encodings == 1)
    );
}

#[test]
fn guesses_beyond_feedback_neighbours_and_recombination_need_no_refining_decoder() {
    let v_ND = vectors(40);
    let none = Decodes { beam: 0, samples: 0 };
    let still =
        SearchOptions { rounds: 0, beyond: 0, feedback: 0, neighbours: 0, recombined: 0, ..options() };
    let beyond = SearchOptions { rounds: 4, beyond: 3, each: none.clone(), ..still.clone() };
    let feedback = SearchOptions { rounds: 4, feedback: 3, each: none.clone(), ..still.clone() };
    let neighbours = SearchOptions { rounds: 4, neighbours: 4, each: none.clone(), ..still.clone() };
    let recombined = SearchOptions { recombined: 6, ..still.clone() };
    let mean = |options: &SearchOptions| mean_found(false, options, &v_ND);
    let still = mean(&still);
    let found = [beyond, feedback, neighbours, recombined].map(|options| mean(&options));
    assert!(found.iter().all(|found| *found > still), "{still} {found:?}");
    // what is put together has no probability of its own
    let only =
        SearchOptions { each: none, beyond: 0, feedback: 0, neighbours: 0, recombined: 6, ..options() };
    let found = search(&Letters::new(), &only, &v_ND, 0);
    assert!(found.iter().any(|found| found.log_prob.is_none() && found.tokens > 0));
}

#[test]
fn neighbours_differ_from_the_best_in_one_token() {
    let (encoder, v_ND) = (Letters::new(), vectors(1));
    let nothing = Decodes { beam: 0, samples: 0 };
    let options = SearchOptions {
        first: Decodes { beam: 1, samples: 0 },
        rounds: 1,
        each: nothing,
        beyond: 0,
        feedback: 0,
        neighbours: 5,
        recombined: 0,
        ..options()
    };
    let found = search(&encoder, &options, &v_ND, 0).remove(0);
    let seen = encoder.seen.borrow().clone();
    assert_eq!((seen.len(), found.encodings), (6, 6));
    let vocabulary = inverter(true).vocabulary;
    let longest = (0..vocabulary.size() as u32).map(|id| vocabulary.token(id).chars().count()).max().unwrap();
    let first: Vec<char> = seen[0].chars().collect();
    for other in &seen[1..] {
        let other: Vec<char> = other.chars().collect();
        let same = |a: &mut dyn Iterator<Item = (char, char)>| a.take_while(|(a, b)| a == b).count();
        let before = same(&mut first.iter().copied().zip(other.iter().copied()));
        let behind = same(&mut first.iter().rev().copied().zip(other.iter().rev().copied()));
        let between = |text: &[char]| text.len().saturating_sub(before + behind);
        assert!(between(&first) <= longest && between(&other) <= longest, "{first:?} {other:?}");
        assert_ne!(first, other);
    }
}

#[test]
fn budget_nearness_and_stalling_end_a_text() {
    let v_ND = vectors(20);
    for budget in [1, 4, 9] {
        let found = search(&Letters::new(), &SearchOptions { budget: Some(budget), ..options() }, &v_ND, 0);
        assert!(found.iter().all(|found| found.encodings <= budget));
        assert!(found.iter().any(|found| found.encodings == budget));
    }
    // every cosine of these is near enough
    let near = search(&Letters::new(), &SearchOptions { epsilon: 2.0, ..options() }, &v_ND, 0);
    assert!(near.iter().all(|found| found.course.len() == 1));
    let patient = SearchOptions { rounds: 30, patience: 2, ..options() };
    for found in search(&Letters::new(), &patient, &v_ND, 0) {
        let course = &found.course;
        assert!(course.len() < 31, "thirty rounds without a stall");
        assert_eq!(course[course.len() - 1], course[course.len() - 3], "{course:?}");
        assert!(course[..course.len() - 1].windows(3).all(|rounds| rounds[2] > rounds[0]), "{course:?}");
    }
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let encoder = Letters::new();
    let refused = |inverter: &Inverter, options: SearchOptions| {
        Search::new(inverter, &encoder, &options).err().expect("refused")
    };
    assert!(matches!(refused(&inverter(false), options()), Error::DoesNotRefine));
    assert!(Search::new(&inverter(false), &encoder, &SearchOptions { rounds: 0, ..options() }).is_ok());
    let nothing = Decodes { beam: 0, samples: 0 };
    for options in [
        SearchOptions { first: nothing.clone(), ..options() },
        SearchOptions { each: nothing, beyond: 0, feedback: 0, neighbours: 0, recombined: 0, ..options() },
        SearchOptions { budget: Some(0), ..options() },
        SearchOptions { patience: 0, ..options() },
        SearchOptions { epsilon: f64::NAN, ..options() },
        SearchOptions { prior: -1.0, ..options() },
    ] {
        assert!(matches!(refused(&inverter(true), options), Error::GenerateOption { .. }));
    }
    let mut other = inverter(true);
    other.space.weights_digest = "blake3:01".into();
    assert!(matches!(refused(&other, options()), Error::SpaceMismatch { .. }));
}
