//! The encoder against sentence-transformers, and against itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{TinyBert, minilm};
use models::{DeviceChoice, Dtype, Embed, Encoder, EncoderOptions, Pooling};
use serde::Deserialize;
use tch::{Kind, Tensor};

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    tokens: Vec<usize>,
    vectors: Vec<Vec<f32>>,
}

fn golden() -> (Golden, Tensor) {
    let golden: Golden = serde_json::from_str(include_str!("golden/encoder.json")).unwrap();
    let vectors = Tensor::from_slice2(&golden.vectors);
    (golden, vectors)
}

fn options(dtype: Dtype) -> EncoderOptions {
    EncoderOptions { device: DeviceChoice::Cpu, dtype, ..EncoderOptions::default() }
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn cosines(a: &Tensor, b: &Tensor) -> Tensor {
    Tensor::cosine_similarity(a, b, 1, 1e-8)
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn minilm_in_f32_equals_sentence_transformers() {
    let Some(folder) = minilm() else { return };
    let encoder = Encoder::open(&folder, &options(Dtype::F32)).unwrap();
    let (golden, expected) = golden();
    let found = encoder.embed(&refs(&golden.texts)).unwrap();
    assert_eq!((found.kind(), found.size()), (Kind::Float, expected.size()));
    assert!(max_difference(&found, &expected) <= 1e-5, "{}", max_difference(&found, &expected));
    for (text, tokens) in golden.texts.iter().zip(golden.tokens) {
        assert_eq!(encoder.count_tokens(text).unwrap(), tokens, "{text:?}");
    }
    let space = encoder.space();
    assert_eq!(
        (space.dim, space.pooling, space.normalize, space.max_tokens),
        (384, Pooling::Mean, true, 256)
    );
    let path = std::path::Path::new(&folder).join("model.safetensors");
    let digest = blake3::hash(&fs_err::read(path).unwrap()).to_hex().to_string();
    assert_eq!(space.weights_digest, format!("blake3:{digest}"));
}

#[test]
fn minilm_in_bf16_is_close() {
    let Some(folder) = minilm() else { return };
    let encoder = Encoder::open(&folder, &options(Dtype::Bf16)).unwrap();
    let (golden, expected) = golden();
    let found = encoder.embed(&refs(&golden.texts)).unwrap();
    let lowest = cosines(&found, &expected).min().double_value(&[]);
    assert!(lowest >= 0.9995, "{lowest}");
}

#[test]
fn batching_padding_and_order_change_no_vector() {
    let folder = TinyBert::default().write();
    let texts = common::texts();
    let texts = refs(&texts);
    for pooling in ["mean", "cls", "lasttoken"] {
        common::set_pooling(folder.path(), pooling);
        let open = |batch_tokens| {
            let options = EncoderOptions { batch_tokens, ..options(Dtype::F32) };
            Encoder::open(folder.path().to_str().unwrap(), &options).unwrap()
        };
        // so few tokens that each text is alone, and so many that most are padded
        let (alone, together) = (open(1).embed(&texts).unwrap(), open(100_000).embed(&texts).unwrap());
        assert!(max_difference(&alone, &together) < 2e-6, "{pooling}");
        let single: Vec<Tensor> = texts.iter().map(|text| open(8192).embed(&[text]).unwrap()).collect();
        assert!(max_difference(&alone, &Tensor::cat(&single, 0)) < 2e-6, "{pooling}");
        let distinct = cosines(&alone.narrow(0, 0, 1), &alone).lt(0.9999).sum(Kind::Int64).int64_value(&[]);
        assert!(distinct > 5, "the vectors are all alike: the test would see no mix-up");
    }
}

#[test]
fn progress_counts_every_text_once() {
    let folder = TinyBert::default().write();
    let options = EncoderOptions { batch_tokens: 16, ..options(Dtype::F32) };
    let encoder = Encoder::open(folder.path().to_str().unwrap(), &options).unwrap();
    let texts = common::texts();
    let mut seen = vec![];
    let _ = encoder.embed_with(&refs(&texts), &mut |done| seen.push(done)).unwrap();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]) && seen.len() > 3, "{seen:?}");
    assert_eq!(seen.last(), Some(&texts.len()));
    assert_eq!(encoder.embed(&[]).unwrap().size(), [0, TinyBert::HIDDEN]);
}

#[test]
fn long_texts_are_cut_with_their_special_tokens() {
    let folder = TinyBert::default().write();
    let options = EncoderOptions { max_tokens: Some(6), ..options(Dtype::F32) };
    let encoder = Encoder::open(folder.path().to_str().unwrap(), &options).unwrap();
    let ids = encoder.tokenize(&["red green blue red green blue red", "red"]).unwrap();
    assert_eq!(ids[0], [2, 5, 6, 7, 5, 3]);
    assert_eq!(ids[1], [2, 5, 3]);
    assert_eq!(encoder.count_tokens("red green blue red green blue red").unwrap(), 9);
    let cut = encoder.embed(&["red green blue red green blue red", "red green blue red"]).unwrap();
    assert!(max_difference(&cut.narrow(0, 0, 1), &cut.narrow(0, 1, 1)) < 1e-6);
}

#[test]
fn prompts_stand_before_the_text_and_in_the_space() {
    let folder = TinyBert::default().write();
    let config = r#"{"prompts": {"s2p_query": "red ", "other": "green "}, "default_prompt_name": "other"}"#;
    fs_err::write(folder.path().join("config_sentence_transformers.json"), config).unwrap();
    let open = |prompt: Option<&str>| {
        let options = EncoderOptions { prompt: prompt.map(str::to_owned), ..options(Dtype::F32) };
        Encoder::open(folder.path().to_str().unwrap(), &options)
    };
    let (none, s2p, default) = (open(Some("none")).unwrap(), open(Some("s2p")).unwrap(), open(None).unwrap());
    assert_eq!((s2p.space().prompt.name.as_str(), s2p.space().prompt.text.as_str()), ("s2p_query", "red "));
    assert_eq!(default.space().prompt.text, "green ");
    let same = max_difference(&s2p.embed(&["blue"]).unwrap(), &none.embed(&["red blue"]).unwrap());
    assert!(same < 1e-6, "{same}");
    assert_eq!(s2p.count_tokens("blue").unwrap(), 4);
    let mixed = s2p.space().require_same(none.space(), "the pairs", "the encoder").unwrap_err().to_string();
    assert!(
        mixed.contains("the pairs") && mixed.contains("prompt s2p_query") && mixed.contains("prompt none"),
        "{mixed}"
    );
    let unknown = open(Some("s2s")).err().unwrap().to_string();
    assert!(unknown.contains("`s2s`") && unknown.contains("none, other, s2p_query"), "{unknown}");
}

#[test]
fn dense_heads_by_dimension() {
    let folder = TinyBert { dense: vec![3, 5], normalize: false, ..TinyBert::default() }.write();
    let open = |dim| {
        let options = EncoderOptions { dim, normalize: Some(false), ..options(Dtype::F32) };
        Encoder::open(folder.path().to_str().unwrap(), &options)
    };
    let (three, five) = (open(None).unwrap(), open(Some(5)).unwrap());
    assert_eq!((three.space().dim, three.space().dense.as_deref()), (3, Some("2_Dense_3")));
    assert_eq!((five.space().dim, five.space().dense.as_deref()), (5, Some("2_Dense_5")));
    assert_ne!(three.space().weights_digest, five.space().weights_digest);
    assert!(open(Some(4)).err().unwrap().to_string().contains("no head for 4"));
    // the head is an identity-activated linear map of the pooled vector, here with known numbers
    let plain = TinyBert { normalize: false, ..TinyBert::default() }.write();
    let raw = EncoderOptions { normalize: Some(false), ..options(Dtype::F32) };
    let pooled = Encoder::open(plain.path().to_str().unwrap(), &raw).unwrap().embed(&["red"]).unwrap();
    let weights = models::Weights::open(folder.path().join("2_Dense_3/model.safetensors")).unwrap();
    let expected = pooled.linear(
        &weights.get("linear.weight", &[3, TinyBert::HIDDEN]).unwrap(),
        Some(weights.get("linear.bias", &[3]).unwrap()),
    );
    assert!(max_difference(&three.embed(&["red"]).unwrap(), &expected) < 1e-5);
    // the space says whether vectors have length 1
    let unit = Encoder::open(folder.path().to_str().unwrap(), &options(Dtype::F32)).unwrap();
    assert!(unit.space().normalize && !three.space().normalize);
    assert!((unit.embed(&["red"]).unwrap().norm().double_value(&[]) - 1.0).abs() < 1e-6);
}

/// The names that sentence-transformers tries for the transformer's own configuration, in its order.
#[test]
fn the_first_configuration_of_the_transformer_counts() {
    let folder = TinyBert::default().write();
    let source = folder.path().to_str().unwrap();
    let length = |source: &str| Encoder::open(source, &options(Dtype::F32)).unwrap().space().max_tokens;
    let names = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]
        .map(|kind| format!("sentence_{kind}_config.json"));
    fs_err::remove_file(folder.path().join(&names[0])).unwrap();
    assert_eq!(length(source), 64, "the positions");
    for (at, name) in names.iter().enumerate().rev() {
        let limit = 10 + at;
        let config = serde_json::json!({"max_seq_length": limit, "do_lower_case": false});
        fs_err::write(folder.path().join(name), config.to_string()).unwrap();
        assert_eq!(length(source), limit, "{name}");
    }
    // a copy has what the original has
    fs_err::remove_file(folder.path().join(&names[0])).unwrap();
    let copy = tempfile::tempdir().unwrap();
    models::encoder::write_rounded(source, None, copy.path(), Kind::Float).unwrap();
    assert_eq!(length(copy.path().to_str().unwrap()), 11);
}

#[test]
fn texts_are_put_in_lower_case_where_the_folder_says_so() {
    let folder = TinyBert::default().write();
    let source = folder.path().to_string_lossy().into_owned();
    let prepared = |lower_case: bool| {
        let config = serde_json::json!({"max_seq_length": 32, "do_lower_case": lower_case});
        fs_err::write(folder.path().join("sentence_bert_config.json"), config.to_string()).unwrap();
        let encoder = Encoder::open(&source, &options(Dtype::F32)).unwrap();
        encoder.token_counter().prepared("RED Green").into_owned()
    };
    assert_eq!(prepared(true), "red green");
    assert_eq!(prepared(false), "RED Green");
}
