//! The decoder against transformers (golden/make_decoder.py), and what must not matter: cache, batch, padding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, non_snake_case)]

use models::{
    Condition, Decoder, DecoderConfig, Error, GenerateOptions, Generated, ParamStore, Strategy, Weights,
    export, generate, save_tensors,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn golden(name: &str) -> Value {
    let json = fs_err::read_to_string(folder().join("decoder.json")).unwrap();
    serde_json::from_str::<Value>(&json).unwrap()[name].take()
}

fn open(name: &str, kind: Kind) -> Decoder {
    export::read_decoder(&folder().join(format!("decoder_{name}")), CPU, kind).unwrap().1
}

fn floats(value: &Value) -> Tensor {
    fn flatten(value: &Value, into: &mut Vec<f32>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| flatten(item, into)),
            number => into.push(number.as_f64().unwrap() as f32),
        }
    }
    let (mut flat, mut shape, mut level) = (Vec::new(), Vec::new(), value);
    flatten(value, &mut flat);
    while let Value::Array(items) = level {
        shape.push(items.len() as i64);
        level = &items[0];
    }
    Tensor::from_slice(&flat).view(shape.as_slice())
}

/// What golden files write of a text: ids without the end, and whether there was an end.
fn as_json(text: &Generated) -> Value {
    serde_json::json!([text.ids, text.finished])
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

fn scores(decoder: &Decoder, v_BD: &Tensor, tokens_BT: &Tensor) -> Tensor {
    decoder.logits(&decoder.hidden(&Condition::first(v_BD), tokens_BT).unwrap()).unwrap()
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in ["tied", "untied"] {
        let (decoder, golden) = (open(name, Kind::Float), golden(name));
        let v_ND = floats(&golden["vectors"]).narrow(0, 0, 2);
        let tokens_BT = floats(&golden["tokens"]).to_kind(Kind::Int64);
        let bos_B1 = Tensor::zeros([2, 1], (Kind::Int64, CPU));
        let ours = scores(&decoder, &v_ND, &Tensor::cat(&[bos_B1, tokens_BT], 1));
        assert!(worst(&ours, &floats(&golden["logits"])) < 1e-4);
    }
}

#[test]
fn greedy_ids_equal_those_of_transformers() {
    for name in ["tied", "untied"] {
        let (decoder, golden) = (open(name, Kind::Float), golden(name));
        let texts = generate(&decoder, &floats(&golden["vectors"]), &GenerateOptions::default()).unwrap();
        let ours: Vec<Value> = texts.iter().map(|texts| as_json(&texts[0])).collect();
        assert_eq!(Value::Array(ours), golden["greedy"]);
    }
}

#[test]
fn beams_and_scores_equal_those_of_transformers() {
    for name in ["tied", "untied"] {
        let (decoder, golden) = (open(name, Kind::Float), golden(name));
        let v_ND = floats(&golden["vectors"]);
        for (setting, expected) in golden["beams"].as_object().unwrap() {
            let (width, length_penalty) = setting.split_once('/').unwrap();
            let (width, length_penalty) = (width.parse().unwrap(), length_penalty.parse().unwrap());
            let strategy = Strategy::Beam { width, length_penalty };
            let options = GenerateOptions { strategy, ..Default::default() };
            let texts = generate(&decoder, &v_ND, &options).unwrap();
            for (row, texts) in texts.iter().enumerate() {
                let ours: Vec<Value> = texts.iter().map(as_json).collect();
                assert_eq!(Value::Array(ours), expected["ids"][row], "{name} {setting} {row}");
                for (i, text) in texts.iter().enumerate().filter(|_| !expected["scores"].is_null()) {
                    let length = (text.ids.len() + usize::from(text.finished)) as f64;
                    let score = text.log_prob / length.powf(length_penalty);
                    let theirs = expected["scores"][row][i].as_f64().unwrap();
                    assert!((score - theirs).abs() < 1e-4, "{name} {setting} {row}: {score} {theirs}");
                }
            }
        }
    }
}

#[test]
fn cached_steps_equal_the_full_forward_pass() {
    let decoder = open("tied", Kind::Float);
    let v_BD = floats(&golden("tied")["vectors"]).narrow(0, 0, 3);
    let tokens_BT = Tensor::randint(160, [3, 9], (Kind::Int64, CPU));
    let _ = tokens_BT.narrow(1, 0, 1).fill_(0);
    let full_BTV = scores(&decoder, &v_BD, &tokens_BT);
    let prefix_BPH = decoder.prefix(&Condition::first(&v_BD)).unwrap();
    let x_BSH = Tensor::cat(&[prefix_BPH, decoder.embed(&tokens_BT.narrow(1, 0, 1)).unwrap()], 1);
    let mut cache = decoder.cache(3, x_BSH.size()[1] + 8).unwrap();
    let mut logits_BV = decoder.begin(&x_BSH, &mut cache).unwrap();
    for t in 0..9 {
        assert!(worst(&logits_BV, &full_BTV.select(1, t)) < 1e-4);
        if t < 8 {
            logits_BV = decoder.step(&tokens_BT.select(1, t + 1), &mut cache).unwrap();
        }
    }
}

#[test]
fn neither_batch_nor_padding_matters() {
    let (decoder, v_ND) = (open("untied", Kind::Float), floats(&golden("untied")["vectors"]));
    let tokens_BT = Tensor::randint_low(3, 160, [12, 6], (Kind::Int64, CPU));
    let h_BTH = decoder.hidden(&Condition::first(&v_ND), &tokens_BT).unwrap();
    let alone = decoder.hidden(&Condition::first(&v_ND.narrow(0, 5, 1)), &tokens_BT.narrow(0, 5, 1)).unwrap();
    assert!(worst(&alone, &h_BTH.narrow(0, 5, 1)) < 1e-4);
    let padding = Tensor::full([12, 4], 2, (Kind::Int64, CPU));
    let padded = decoder.hidden(&Condition::first(&v_ND), &Tensor::cat(&[&tokens_BT, &padding], 1)).unwrap();
    assert!(worst(&padded.narrow(1, 0, 6), &h_BTH) < 1e-4);

    let strategies = [
        Strategy::Greedy,
        Strategy::Beam { width: 3, length_penalty: 1.0 },
        Strategy::Sample {
            temperature: 0.8,
            top_k: Some(20),
            top_p: Some(0.9),
            min_p: Some(0.01),
            seed: 3,
            samples: 3,
        },
    ];
    for strategy in strategies {
        let texts = |batch| {
            let options = GenerateOptions {
                strategy: strategy.clone(),
                max_tokens: 100,
                batch,
                ..GenerateOptions::default()
            };
            generate(&decoder, &v_ND, &options).unwrap()
        };
        let ids = |texts: &[Vec<Generated>]| {
            texts.iter().flatten().map(|text| text.ids.clone()).collect::<Vec<_>>()
        };
        let (all, single) = (texts(100), texts(1));
        assert_eq!(ids(&all), ids(&single), "{strategy:?}");
        assert_eq!(ids(&all), ids(&texts(7)), "{strategy:?}");
        assert!(
            all.iter()
                .flatten()
                .zip(single.iter().flatten())
                .all(|(a, b)| (a.log_prob - b.log_prob).abs() < 1e-4)
        );
        // the limit of the decoder holds, whatever is asked for
        assert!(all.iter().flatten().all(|text| text.ids.len() <= 12));
    }
}

#[test]
fn samples_depend_on_the_seed_and_differ() {
    let (decoder, v_ND) = (open("tied", Kind::Float), floats(&golden("tied")["vectors"]));
    let texts = |seed, samples| {
        let strategy =
            Strategy::Sample { temperature: 1.5, top_k: None, top_p: None, min_p: None, seed, samples };
        generate(&decoder, &v_ND, &GenerateOptions { strategy, ..Default::default() }).unwrap()
    };
    assert_eq!(texts(1, 4), texts(1, 4));
    assert_ne!(texts(1, 4), texts(2, 4));
    let four = texts(1, 4);
    assert!(four.iter().any(|texts| texts[0].ids != texts[3].ids));
    assert!(four.iter().all(|texts| texts.is_sorted_by(|a, b| a.log_prob >= b.log_prob)));
    // almost greedy
    let strategy =
        Strategy::Sample { temperature: 1e-4, top_k: None, top_p: None, min_p: None, seed: 1, samples: 1 };
    let cold = generate(&decoder, &v_ND, &GenerateOptions { strategy, ..Default::default() }).unwrap();
    let greedy = generate(&decoder, &v_ND, &GenerateOptions::default()).unwrap();
    assert!(cold.iter().zip(&greedy).all(|(a, b)| a[0].ids == b[0].ids));
}

#[test]
fn log_probs_are_those_of_the_full_forward_pass() {
    let (decoder, v_ND) = (open("tied", Kind::Float), floats(&golden("tied")["vectors"]));
    for (row, texts) in generate(&decoder, &v_ND, &GenerateOptions::default()).unwrap().iter().enumerate() {
        let text = &texts[0];
        let mut targets: Vec<i64> = text.ids.iter().map(|&id| id.into()).collect();
        if text.finished {
            targets.push(1);
        }
        let inputs: Vec<i64> =
            std::iter::once(0).chain(targets.iter().copied()).take(targets.len()).collect();
        let tokens_1T = Tensor::from_slice(&inputs).unsqueeze(0);
        let scores_1TV = scores(&decoder, &v_ND.narrow(0, row as i64, 1), &tokens_1T);
        let log_probs_TV = scores_1TV.squeeze_dim(0).log_softmax(-1, Kind::Double);
        let sum = log_probs_TV.gather(1, &Tensor::from_slice(&targets).unsqueeze(1), false).sum(Kind::Double);
        assert!((sum.double_value(&[]) - text.log_prob).abs() < 1e-3);
    }
}

#[test]
fn bf16_is_close() {
    let golden = golden("tied");
    let (v_BD, tokens_BT) =
        (floats(&golden["vectors"]).narrow(0, 0, 2), floats(&golden["tokens"]).to_kind(Kind::Int64));
    let h =
        |kind| open("tied", kind).hidden(&Condition::first(&v_BD), &tokens_BT).unwrap().to_kind(Kind::Float);
    let cosine = Tensor::cosine_similarity(&h(Kind::BFloat16), &h(Kind::Float), -1, 1e-8);
    assert!(cosine.min().double_value(&[]) > 0.999, "{cosine}");
}

#[test]
fn vectors_and_options_that_cannot_be_are_refused() {
    let decoder = open("tied", Kind::Float);
    let v_ND = floats(&golden("tied")["vectors"]);
    let run = |v: &Tensor, options: &GenerateOptions| generate(&decoder, v, options).unwrap_err();
    let greedy = GenerateOptions::default();
    let error = run(&Tensor::zeros([2, 15], (Kind::Float, CPU)), &greedy);
    assert!(matches!(error, Error::VectorShape { ref found, dim: 16 } if found == &[2, 15]), "{error}");
    let broken = v_ND.copy();
    let _ = broken.get(3).narrow(0, 2, 1).fill_(f64::NAN);
    assert!(matches!(run(&broken, &greedy), Error::VectorNotFinite { index: 3 }));
    let sample = |temperature, top_p| Strategy::Sample {
        temperature,
        top_k: None,
        top_p,
        min_p: None,
        seed: 0,
        samples: 1,
    };
    for strategy in
        [sample(0.0, None), sample(1.0, Some(0.0)), Strategy::Beam { width: 0, length_penalty: 1.0 }]
    {
        let error = run(&v_ND, &GenerateOptions { strategy, ..greedy.clone() });
        assert!(matches!(error, Error::GenerateOption { .. }), "{error}");
    }
    assert!(generate(&decoder, &v_ND.narrow(0, 0, 0), &greedy).unwrap().is_empty());
}

fn small() -> DecoderConfig {
    DecoderConfig {
        dim: 8,
        hidden: 16,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        ffn: 24,
        vocab: 40,
        prefix_tokens: 2,
        projector_hidden: 12,
        max_tokens: 8,
        rope_theta: 1e4,
        rms_norm_eps: 1e-5,
        tie_embeddings: true,
        bos_token_id: 0,
        eos_token_id: 1,
        pad_token_id: 2,
        activation: Default::default(),
        input_scale: 8f64.sqrt(),
        input_normalization: false,
        refines: false,
        knows_noise: false,
        knows_length: false,
        guides: false,
        qkv_bias: true,
    }
}

fn loss(decoder: &Decoder) -> Tensor {
    let v_BD = Tensor::arange(24, (Kind::Float, CPU)).sin().view([3, 8]);
    let tokens_BT = (Tensor::arange(15, (Kind::Int64, CPU)).view([3, 5]) * 7).remainder(40);
    let logits = scores(decoder, &v_BD, &tokens_BT).to_kind(Kind::Float);
    logits.view([15, 40]).cross_entropy_for_logits(&tokens_BT.roll([-1], [1]).reshape([15]))
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bytes = |seed| {
        let mut store = ParamStore::train(CPU, Kind::Float, seed);
        Decoder::new(&small(), &mut store).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save_tensors(&path, &store.named_tensors(), &BTreeMap::new()).unwrap();
        fs_err::read(path).unwrap()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn counts_and_initial_values_are_as_said() {
    let mut store = ParamStore::train(CPU, Kind::Float, 5);
    let config = DecoderConfig { vocab: 500, hidden: 64, tie_embeddings: false, ..small() };
    Decoder::new(&config, &mut store).unwrap();
    assert_eq!(store.numel(), config.parameters().total);
    let named: BTreeMap<String, Tensor> = store.named_tensors().into_iter().collect();
    let std = |name: &str| named[name].std(false).double_value(&[]);
    assert!((std("model.embed_tokens.weight") - 0.02).abs() < 5e-4);
    assert!((std("model.layers.0.self_attn.o_proj.weight") - 0.01).abs() < 1e-3);
    assert_eq!(std("model.layers.1.self_attn.k_proj.bias"), 0.0);
    assert_eq!(named["lm_head.weight"].size(), [500, 64]);
}

#[test]
fn refresh_brings_the_copies_up_to_date() {
    let mut store = ParamStore::train(CPU, Kind::BFloat16, 3);
    let decoder = Decoder::new(&small(), &mut store).unwrap();
    let before = loss(&decoder).double_value(&[]);
    tch::no_grad(|| store.params().iter().for_each(|param| drop(param.master.shallow_clone().fill_(0.01))));
    store.refresh().unwrap();
    assert_ne!(before, loss(&decoder).double_value(&[]));
    assert!(store.params().iter().all(|p| worst(&p.master, &p.compute) < 1e-4));
}

#[test]
fn loading_is_strict_and_changes_nothing_when_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut store = ParamStore::train(CPU, Kind::BFloat16, 1);
    let decoder = Decoder::new(&small(), &mut store).unwrap();
    let mut tensors = store.named_tensors();
    save_tensors(&path, &tensors, &BTreeMap::new()).unwrap();

    let mut other = ParamStore::train(CPU, Kind::BFloat16, 2);
    let copy = Decoder::new(&small(), &mut other).unwrap();
    let before = loss(&copy).double_value(&[]);
    let wrong = folder.path().join("wrong.safetensors");
    tensors.retain(|(name, _)| name != "model.norm.weight");
    tensors.push(("stranger".into(), Tensor::zeros([1], (Kind::Float, CPU))));
    tensors.iter_mut().find(|(name, _)| name == "projector.fc1.bias").unwrap().1 =
        Tensor::zeros([3], (Kind::Float, CPU));
    save_tensors(&wrong, &tensors, &BTreeMap::new()).unwrap();
    let error = other.load(&Weights::open(&wrong).unwrap()).unwrap_err().to_string();
    for part in ["wrong.safetensors", "`model.norm.weight` is missing", "`stranger`", "[3] instead of [12]"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(loss(&copy).double_value(&[]), before);

    other.load(&Weights::open(&path).unwrap()).unwrap();
    assert_eq!(loss(&copy).double_value(&[]), loss(&decoder).double_value(&[]));
    assert!(Decoder::new(&small(), &mut other).is_err(), "names are taken");
}

#[test]
fn weights_of_another_type_are_not_made_to_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut store = ParamStore::train(CPU, Kind::Float, 1);
    Decoder::new(&small(), &mut store).unwrap();
    let saved_as = |kind| {
        let change = |(name, tensor): (String, Tensor)| {
            let kind = if name == "model.norm.weight" { kind } else { Kind::Float };
            (name, tensor.to_kind(kind))
        };
        let tensors: Vec<_> = store.named_tensors().into_iter().map(change).collect();
        save_tensors(&path, &tensors, &BTreeMap::new()).unwrap();
        Weights::open(&path).unwrap()
    };
    let load = |mut store: ParamStore, weights: &Weights| {
        Decoder::new(&small(), &mut store).unwrap();
        store.load(weights).map_err(|error| error.to_string())
    };
    let train = || ParamStore::train(CPU, Kind::BFloat16, 1);
    let inference = || ParamStore::inference(CPU, Kind::Float);
    for kind in [Kind::BFloat16, Kind::Half, Kind::Double] {
        let weights = saved_as(kind);
        let error = load(train(), &weights).unwrap_err();
        let expected = format!("`model.norm.weight` is of type {kind:?} instead of Float");
        assert!(error.contains(&expected), "{error}");
        load(inference(), &weights).unwrap();
    }
    let integers = saved_as(Kind::Int64);
    assert!(load(train(), &integers).unwrap_err().contains("of type Int64"));
    assert!(load(inference(), &integers).unwrap_err().contains("of type Int64"));
}

#[test]
fn configurations_that_cannot_be_are_named() {
    let cases: [(&str, DecoderConfig); 5] = [
        ("kv_heads", DecoderConfig { heads: 3, kv_heads: 2, ..small() }),
        ("head_dim", DecoderConfig { head_dim: 7, ..small() }),
        ("hidden", DecoderConfig { hidden: 0, ..small() }),
        ("eos_token_id", DecoderConfig { eos_token_id: 40, ..small() }),
        ("rope_theta", DecoderConfig { rope_theta: f64::NAN, ..small() }),
    ];
    for (field, config) in cases {
        let error = config.validate().unwrap_err();
        assert!(matches!(&error, Error::DecoderConfig { field: found, .. } if found == field), "{error}");
    }
    let error = DecoderConfig { ffn: 1 << 32, ..small() }.validate().unwrap_err().to_string();
    assert!(error.contains("is 4294967296; it must lie in 1..=2147483648"), "{error}");
    let json = serde_json::to_string(&small()).unwrap();
    assert_eq!(serde_json::from_str::<DecoderConfig>(&json).unwrap(), small());
    assert!(serde_json::from_str::<DecoderConfig>(&json.replacen("\"dim\"", "\"dims\"", 1)).is_err());
}
