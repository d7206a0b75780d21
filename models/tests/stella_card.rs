//! STELLA at its real weights against the numbers of its model card, where the weights are:
//! `INVERSE_STELLA_WEIGHTS=DIR cargo test --release -p models --test stella_card` (a folder, or a hub name).
//! docs/stella.md has the source of every number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]
#![allow(clippy::approx_constant)] // a score that looks like pi / 4

use models::{Dtype, Embed as _, Encoder, EncoderOptions};
use tch::{Kind, Tensor};

const QUERIES: [&str; 2] =
    ["What are some ways to reduce stress?", "What are the benefits of drinking green tea?"];
const DOCUMENTS: [&str; 2] = [
    "There are many effective ways to reduce stress. Some common techniques include deep breathing, meditation, and physical activity. Engaging in hobbies, spending time in nature, and connecting with loved ones can also help alleviate stress. Additionally, setting boundaries, practicing self-care, and learning to say no can prevent stress from building up.",
    "Green tea has been consumed for centuries and is known for its potential health benefits. It contains antioxidants that may help protect the body against damage caused by free radicals. Regular consumption of green tea has been associated with improved heart health, enhanced cognitive function, and a reduced risk of certain types of cancer. The polyphenols in green tea may also have anti-inflammatory and weight loss properties.",
];

fn weights() -> Option<String> {
    let found = std::env::var("INVERSE_STELLA_WEIGHTS").ok().filter(|source| !source.is_empty());
    if found.is_none() {
        eprintln!("skipped: INVERSE_STELLA_WEIGHTS does not say where STELLA's weights are");
    }
    found
}

fn open(source: &str, prompt: &str, normalize: bool, dtype: Dtype) -> Encoder {
    let options = EncoderOptions {
        prompt: Some(prompt.into()),
        normalize: Some(normalize),
        dim: Some(1024),
        dtype,
        ..EncoderOptions::default()
    };
    Encoder::open(source, &options).unwrap()
}

/// The 400M is a WordPiece model and has `[CLS]` before a text.
fn is_small(encoder: &Encoder) -> bool {
    !encoder.space().special_tokens.as_ref().unwrap().before.is_empty()
}

fn scores(source: &str, dtype: Dtype) -> (Tensor, bool) {
    let queries = open(source, "s2p", true, dtype);
    let documents = queries.under("none").unwrap();
    let scores = queries.embed(&QUERIES).unwrap().matmul(&documents.embed(&DOCUMENTS).unwrap().tr());
    (scores, is_small(&queries))
}

fn largest_difference(found: &Tensor, expected: &[f64]) -> f64 {
    let expected = Tensor::from_slice(expected);
    (found.to_kind(Kind::Double).flatten(0, -1) - expected).abs().max().double_value(&[])
}

#[test]
fn the_cards_scores_come_out() {
    let Some(source) = weights() else { return };
    let (found, small) = scores(&source, Dtype::F32);
    let off = if small {
        largest_difference(&found.diag(0), &[0.839_753_9, 0.809_545])
    } else {
        largest_difference(&found, &[0.8179, 0.2958, 0.3194, 0.7854])
    };
    assert!(off < 5e-4, "{off} off: {found:?}");
    let (rough, _) = scores(&source, Dtype::Bf16);
    let off = (rough - found).abs().max().double_value(&[]);
    assert!(off < 1e-2, "bf16 is {off} off");
}

#[test]
fn the_numbers_of_a_vector_come_out() {
    let Some(source) = weights() else { return };
    let plain = open(&source, "none", false, Dtype::F32);
    let off = if is_small(&plain) {
        let found = plain.embed(&["What is Deep Learning?"]).unwrap();
        let first = [-0.001_427_918_7, 0.856_498_66, -0.563_713_55, -0.077_163_205, -1.395_979_2];
        largest_difference(&found.narrow(1, 0, 5), &first)
    } else {
        let found = plain.under("s2p").unwrap().embed(&["What are safetensors?"]).unwrap();
        let ends = Tensor::cat(&[found.narrow(1, 0, 3), found.narrow(1, 1021, 3)], 1);
        largest_difference(&ends, &[0.3905, -0.0130, 0.2072, -0.1100, -0.0086, 0.6002])
    };
    assert!(off < 2e-3, "{off} off");
}
