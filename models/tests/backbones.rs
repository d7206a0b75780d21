//! Every architecture against Hugging Face transformers and sentence-transformers, on small random models; and against
//! itself: padding, batches and lengths change no vector.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, non_snake_case)]

use std::path::PathBuf;

use models::encoder::write_rounded;
use models::{Attention, DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions};
use serde::Deserialize;
use tch::{Kind, Tensor};

const NAMES: [&str; 7] = ["bert", "roberta", "xlm_roberta", "new", "qwen2_stella", "qwen2_causal", "qwen3"];

/// What `golden/make_backbones.py` leaves of a model.
#[derive(Deserialize)]
struct Golden {
    attention: Attention,
    texts: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    states: Vec<States>,
    vectors: Vec<Vectors>,
}

#[derive(Deserialize)]
struct States {
    text: usize,
    rows: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Vectors {
    prompt: String,
    prompt_text: String,
    dim: usize,
    rows: Vec<Vec<f32>>,
}

impl Golden {
    fn of(name: &str) -> Self {
        let text = fs_err::read_to_string(folder(name).with_extension("json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn texts(&self) -> Vec<&str> {
        self.texts.iter().map(String::as_str).collect()
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backbones").join(name)
}

fn options(dtype: Dtype) -> EncoderOptions {
    EncoderOptions {
        device: DeviceChoice::Cpu,
        dtype,
        prompt: Some("none".into()),
        ..EncoderOptions::default()
    }
}

fn open(name: &str, options: &EncoderOptions) -> Encoder {
    Encoder::open(folder(name).to_str().unwrap(), options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The largest difference, as a share of the largest number.
fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let largest = |x: &Tensor| x.abs().max().double_value(&[]);
    largest(&(found - expected)) / largest(expected)
}

fn lowest_cosine(a: &Tensor, b: &Tensor) -> f64 {
    Tensor::cosine_similarity(a, b, 1, 1e-8).min().double_value(&[])
}

fn unit(x: &Tensor) -> Tensor {
    x / x.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt()
}

#[test]
fn tokens_and_attention_are_those_of_the_reference() {
    for name in NAMES {
        let golden = Golden::of(name);
        let encoder = open(name, &options(Dtype::F32));
        assert_eq!(encoder.tokenize(&golden.texts()).unwrap(), golden.token_ids, "{name}");
        assert_eq!(encoder.space().attention, golden.attention, "{name}");
    }
}

#[test]
fn hidden_states_equal_transformers() {
    for name in NAMES {
        let golden = Golden::of(name);
        let (exact, rough) = (open(name, &options(Dtype::F32)), open(name, &options(Dtype::Bf16)));
        assert!(golden.states.len() >= 2, "{name}");
        for states in &golden.states {
            let expected = Tensor::from_slice2(&states.rows);
            let text = &golden.texts[states.text];
            let off = relative(&exact.hidden_states(text).unwrap(), &expected);
            assert!(off < 1e-4, "{name}, text {}: {off}", states.text);
            let close = lowest_cosine(
                &rough.hidden_states(text).unwrap().mean_dim([0i64].as_slice(), true, Kind::Float),
                &expected.mean_dim([0i64].as_slice(), true, Kind::Float),
            );
            assert!(close > 0.999, "{name}, text {}: {close} in bf16", states.text);
        }
    }
}

#[test]
fn vectors_equal_sentence_transformers_under_every_prompt_and_head() {
    for name in NAMES {
        let golden = Golden::of(name);
        for vectors in &golden.vectors {
            let what = format!("{name}, prompt {}, {} numbers", vectors.prompt, vectors.dim);
            let expected = Tensor::from_slice2(&vectors.rows);
            let at = |dtype, normalize| {
                let dim = Some(vectors.dim).filter(|_| folder(name).join("2_Dense_12").exists());
                let prompt = Some(vectors.prompt.clone());
                open(name, &EncoderOptions { normalize, dim, prompt, ..options(dtype) })
            };
            let encoder = at(Dtype::F32, None);
            assert_eq!(
                (encoder.space().dim, &encoder.space().prompt.text),
                (vectors.dim, &vectors.prompt_text)
            );
            let found = encoder.embed(&golden.texts()).unwrap();
            let off = relative(&found, &unit(&expected));
            assert!(off < 1e-4, "{what}: {off}");
            let raw = at(Dtype::F32, Some(false));
            assert!(!raw.space().normalize);
            let normalized =
                fs_err::read_to_string(folder(name).join("modules.json")).unwrap().contains("Normalize");
            if !normalized {
                let off = relative(&raw.embed(&golden.texts()).unwrap(), &expected);
                assert!(off < 1e-4, "{what}, not normalised: {off}");
            }
            let close = lowest_cosine(&at(Dtype::Bf16, None).embed(&golden.texts()).unwrap(), &expected);
            assert!(close > 0.999, "{what}: {close} in bf16");
        }
    }
}

#[test]
fn padding_batches_and_order_change_no_vector() {
    for name in NAMES {
        let golden = Golden::of(name);
        let texts = golden.texts();
        let at = |batch_tokens| open(name, &EncoderOptions { batch_tokens, ..options(Dtype::F32) });
        let (alone, together) = (at(1).embed(&texts).unwrap(), at(1_000_000).embed(&texts).unwrap());
        let off = relative(&together, &alone);
        assert!(off < 1e-5, "{name}: {off}");
        let turned: Vec<&str> = texts.iter().rev().copied().collect();
        let off = relative(&at(300).embed(&turned).unwrap().flip([0]), &alone);
        assert!(off < 1e-5, "{name}: {off}");
        let spread =
            Tensor::cosine_similarity(&alone.narrow(0, 0, 1), &alone, 1, 1e-8).min().double_value(&[]);
        assert!(spread < 0.95, "{name}: the vectors are all alike, a mix-up would not be seen: {spread}");
    }
}

#[test]
fn the_attention_can_be_chosen_where_the_architecture_has_both() {
    let golden = Golden::of("qwen2_stella");
    let of = |attention| {
        let options = EncoderOptions { attention, ..options(Dtype::F32) };
        open("qwen2_stella", &options)
    };
    let (own, causal) = (of(None), of(Some(Attention::Causal)));
    assert_eq!(own.space().attention, Attention::Bidirectional);
    let texts = golden.texts();
    let cosine = lowest_cosine(&own.embed(&texts).unwrap(), &causal.embed(&texts).unwrap());
    assert!(cosine < 0.99, "{cosine}");
    let mixed = own.space().require_same(causal.space(), "a", "b").unwrap_err().to_string();
    assert!(mixed.contains("(attention)"), "{mixed}");
    let options = EncoderOptions { attention: Some(Attention::Causal), ..options(Dtype::F32) };
    let refused = Encoder::open(folder("bert").to_str().unwrap(), &options).err().unwrap();
    assert!(refused.to_string().contains("causal for the architecture bert"), "{refused}");
    assert!(refused.hint().is_some());
}

#[test]
fn an_end_of_text_that_the_tokenizer_adds_is_recorded() {
    let special = |name| open(name, &options(Dtype::F32)).space().special_tokens.clone().unwrap();
    assert_eq!(special("qwen3").after, ["<|endoftext|>"]);
    assert!(special("qwen2_stella").after.is_empty() && special("qwen2_stella").before.is_empty());
    assert_eq!(
        (special("bert").before, special("bert").after),
        (vec!["[CLS]".to_owned()], vec!["[SEP]".to_owned()])
    );
    assert_eq!(special("xlm_roberta").before, ["<s>"]);
}

#[test]
fn a_text_without_tokens_has_the_vector_zero_and_moves_no_other() {
    let stella = open("qwen2_stella", &options(Dtype::F32));
    let found = stella.embed(&["", "a dog", "", "two dogs"]).unwrap();
    assert_eq!(found.get(0).abs().max().double_value(&[]) + found.get(2).abs().max().double_value(&[]), 0.0);
    let alone = stella.embed(&["a dog", "two dogs"]).unwrap();
    assert!(relative(&found.index_select(0, &Tensor::from_slice(&[1i64, 3])), &alone) < 1e-5);
    assert_eq!(stella.odd_texts(), models::encoder::OddTexts { cut: 0, empty: 2 });
    assert_eq!(stella.embed(&[""]).unwrap().size(), [1, 12]);
    assert_eq!(stella.hidden_states("").unwrap().size()[0], 0);
    let bert = open("bert", &options(Dtype::F32));
    assert!(bert.embed(&[""]).unwrap().abs().max().double_value(&[]) > 0.0, "its special tokens are tokens");
    assert_eq!(bert.odd_texts().empty, 0);
}

#[test]
fn one_encoder_serves_several_prompts() {
    let golden = Golden::of("qwen2_stella");
    let none = open("qwen2_stella", &options(Dtype::F32));
    let query = none.under("s2p").unwrap();
    let expected =
        golden.vectors.iter().find(|vectors| vectors.prompt == "s2p_query" && vectors.dim == 12).unwrap();
    let off = relative(&query.embed(&golden.texts()).unwrap(), &unit(&Tensor::from_slice2(&expected.rows)));
    assert!(off < 1e-4, "{off}");
    assert_eq!(query.under("none").unwrap().space(), none.space());
    assert!(none.under("s2q").err().unwrap().to_string().contains("s2p_query, s2s_query"));
    let short = EncoderOptions { max_tokens: Some(4), ..options(Dtype::F32) };
    let full = open("qwen2_stella", &short).under("s2p").err().unwrap().to_string();
    assert!(full.contains("s2p_query") && full.contains("4"), "{full}");
}

#[test]
fn lengths_past_the_switch_between_the_two_attentions_agree() {
    // 64 positions is where plain products give way to the fused kernel; one token more or less must not matter
    let texts: Vec<String> = [60usize, 63, 64, 65, 66, 200].iter().map(|&n| "a b ".repeat(n)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for name in NAMES {
        let at = |batch_tokens| {
            let options = EncoderOptions { batch_tokens, max_tokens: Some(40), ..options(Dtype::F32) };
            let short = open(name, &options).embed(&texts).unwrap();
            let options = EncoderOptions { batch_tokens, ..self::options(Dtype::F32) };
            (short, open(name, &options).embed(&texts).unwrap())
        };
        let ((short_alone, alone), (short, together)) = (at(1), at(1_000_000));
        assert!(relative(&short, &short_alone) < 1e-5, "{name}");
        assert!(relative(&together, &alone) < 2e-5, "{name}");
        assert!(lowest_cosine(&short.narrow(0, 0, 1), &short.narrow(0, 5, 1)) > 0.99999, "{name}: cut alike");
    }
}

/// What `create_position_ids_from_input_ids` of transformers says: the padding token (1) is not counted, and its position is
/// its id.
#[test]
fn a_padding_token_within_a_text_takes_no_position() {
    for name in ["roberta", "xlm_roberta"] {
        let text = "a <pad> red <pad>ball";
        let encoder = open(name, &EncoderOptions { batch_tokens: 1_000_000, ..options(Dtype::F32) });
        let ids: Vec<i64> = encoder.tokenize(&[text]).unwrap()[0].iter().map(|&id| id.into()).collect();
        assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 2, "{name}: {ids:?}");
        let mut counted = 1;
        let position = |&id: &i64| {
            counted += i64::from(id != 1);
            if id == 1 { 1 } else { counted }
        };
        let positions_T = Tensor::from_slice(&ids.iter().map(position).collect::<Vec<i64>>());
        // a model whose table has these positions one after the other
        let copy = tempfile::tempdir().unwrap();
        write_rounded(folder(name).to_str().unwrap(), None, copy.path(), Kind::Float).unwrap();
        let path = copy.path().join("model.safetensors");
        let weights = models::Weights::open(&path).unwrap();
        let changed = |name: &str| {
            let tensor = weights.get(name, &weights.shape(name).unwrap()).unwrap().copy();
            if name.ends_with("position_embeddings.weight") {
                let rows_TH = tensor.index_select(0, &positions_T);
                tensor.narrow(0, 2, ids.len() as i64).copy_(&rows_TH);
            }
            (name.to_owned(), tensor)
        };
        let tensors: Vec<_> = weights.names().map(changed).collect();
        drop(weights);
        models::save_tensors(&path, &tensors, &Default::default()).unwrap();
        let copy = Encoder::open(copy.path().to_str().unwrap(), &options(Dtype::F32)).unwrap();
        let in_order = |encoder: &Encoder| {
            let words_1TH = encoder.words(&ids).unwrap().unsqueeze(0);
            encoder.embed_words(&words_1TH, None).unwrap()
        };
        // alone, and in a batch with shorter and longer texts
        let found = encoder.embed(&["a", text, "a red ball runs through a field", text]).unwrap();
        for found in [found.narrow(0, 1, 1), found.narrow(0, 3, 1), encoder.embed(&[text]).unwrap()] {
            let off = relative(&found, &in_order(&copy));
            assert!(off < 1e-5, "{name}: {off}");
            assert!(relative(&found, &in_order(&encoder)) > 1e-3, "{name}: the positions matter");
        }
    }
}

/// A copy of the small gte model with another configuration and other tensors.
fn gte_with(
    config: serde_json::Value,
    change: impl Fn(&str, Tensor) -> Vec<(String, Tensor)>,
) -> tempfile::TempDir {
    let (from, to) = (folder("new"), tempfile::tempdir().unwrap());
    for file in [
        "modules.json",
        "tokenizer.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense_12/config.json",
        "2_Dense_12/model.safetensors",
    ] {
        let target = to.path().join(file);
        fs_err::create_dir_all(target.parent().unwrap()).unwrap();
        fs_err::copy(from.join(file), target).unwrap();
    }
    let own = fs_err::read(from.join("config.json")).unwrap();
    let mut own: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&own).unwrap();
    own.extend(config.as_object().unwrap().clone());
    fs_err::write(to.path().join("config.json"), serde_json::to_vec(&own).unwrap()).unwrap();
    let weights = models::Weights::open(from.join("model.safetensors")).unwrap();
    let tensors: Vec<_> = weights
        .names()
        .flat_map(|name| change(name, weights.get(name, &weights.shape(name).unwrap()).unwrap()))
        .collect();
    models::save_tensors(&to.path().join("model.safetensors"), &tensors, &Default::default()).unwrap();
    to
}

#[test]
fn gte_without_token_types_and_with_three_projections_is_the_same_model() {
    let golden = Golden::of("new");
    let texts = golden.texts();
    let expected = open("new", &options(Dtype::F32)).embed(&texts).unwrap();
    let weights = models::Weights::open(folder("new").join("model.safetensors")).unwrap();
    let types = weights.names().find(|name| name.ends_with("token_type_embeddings.weight")).unwrap();
    let type_H = weights.get(types, &weights.shape(types).unwrap()).unwrap().get(0);
    // the row of token type 0 moved into the words; query, key and value apart
    let changed = gte_with(serde_json::json!({"type_vocab_size": 0, "pack_qkv": false}), |name, tensor| {
        if name.ends_with("token_type_embeddings.weight") {
            return vec![];
        }
        if name.ends_with("word_embeddings.weight") {
            return vec![(name.to_owned(), tensor + &type_H)];
        }
        match name.contains("qkv_proj") {
            true => tensor
                .chunk(3, 0)
                .into_iter()
                .zip(["q_proj", "k_proj", "v_proj"])
                .map(|(part, other)| (name.replace("qkv_proj", other), part.contiguous()))
                .collect(),
            false => vec![(name.to_owned(), tensor)],
        }
    });
    let found = Encoder::open(changed.path().to_str().unwrap(), &options(Dtype::F32)).unwrap();
    let off = relative(&found.embed(&texts).unwrap(), &expected);
    assert!(off < 1e-5, "{off}");
}
