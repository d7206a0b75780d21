//! A decoder that starts from a pre-trained model: what it computes is what transformers computes
//! (golden/make_pretrained.py), and what does not fit is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, non_snake_case)]

#[path = "common/hub.rs"]
mod loopback;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use loopback::{COMMIT, Hub};
use models::hub::HubSettings;
use models::pretrained::{prefix_factor, scale_prefix};
use models::vocabulary::{Marks, cut_from_pretrained};
use models::{
    CausalConfig, Decoder, DecoderConfig, Error, ParamStore, Pretrained, Vocabulary, Weights, save_tensors,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;
const NAMES: [&str; 2] = ["llama", "qwen2"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pretrained").join(name)
}

fn golden(name: &str) -> Value {
    let json = fs_err::read_to_string(folder("golden.json")).unwrap();
    serde_json::from_str::<Value>(&json).unwrap()[name].take()
}

fn open(folder: &Path) -> models::Result<Pretrained> {
    Pretrained::open(folder.to_str().unwrap())
}

/// A copy that may be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs_err::read_dir(folder(name)).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn tensor(value: &Value, kind: Kind) -> Tensor {
    let rows = |value: &Value| value.as_array().unwrap().clone();
    let first = rows(value);
    if first[0].is_array() {
        return Tensor::stack(&first.iter().map(|row| tensor(row, kind)).collect::<Vec<_>>(), 0);
    }
    let flat: Vec<f64> = first.iter().map(|number| number.as_f64().unwrap()).collect();
    Tensor::from_slice(&flat).to_kind(kind)
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

fn config(shape: &CausalConfig, vocabulary: &Vocabulary, rows: i64) -> DecoderConfig {
    DecoderConfig {
        dim: 8,
        hidden: shape.hidden,
        layers: shape.layers,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        ffn: shape.ffn,
        vocab: rows,
        prefix_tokens: 2,
        projector_hidden: 24,
        max_tokens: 20,
        rope_theta: shape.rope_theta,
        rms_norm_eps: shape.rms_norm_eps,
        tie_embeddings: shape.tie_embeddings,
        bos_token_id: vocabulary.bos.into(),
        eos_token_id: vocabulary.eos.into(),
        pad_token_id: vocabulary.pad.into(),
        activation: Default::default(),
        input_scale: 8f64.sqrt(),
        input_normalization: false,
        refines: false,
        knows_noise: false,
        knows_length: false,
        guides: false,
        qkv_bias: shape.qkv_bias,
    }
}

/// A decoder with the model's weights, in a store for training.
fn loaded(model: &Pretrained, compute: Kind) -> models::Result<(Decoder, ParamStore)> {
    let vocabulary = model.vocabulary()?;
    let mut store = ParamStore::train(CPU, compute, 3);
    let decoder = Decoder::new(&config(model.config(), vocabulary, model.config().vocab), &mut store)?;
    model.load(&mut store, vocabulary)?;
    Ok((decoder, store))
}

/// States behind no prefix at all.
fn hidden(decoder: &Decoder, tokens_BT: &Tensor) -> Tensor {
    let none = Tensor::zeros([tokens_BT.size()[0], 0, decoder.config().hidden], (decoder.kind(), CPU));
    tch::no_grad(|| decoder.hidden_after(&none, tokens_BT).unwrap())
}

#[test]
fn states_and_logits_equal_those_of_transformers() {
    for name in NAMES {
        let (golden, model) = (golden(name), open(&folder(name)).unwrap());
        let (decoder, store) = loaded(&model, Kind::Float).unwrap();
        assert!(store.params().iter().all(|param| param.master.kind() == Kind::Float));
        let h_BTH = hidden(&decoder, &tensor(&golden["tokens"], Kind::Int64));
        assert!(worst(&h_BTH, &tensor(&golden["hidden"], Kind::Float)) < 1e-4, "{name}");
        let logits = decoder.logits(&h_BTH).unwrap();
        assert!(worst(&logits, &tensor(&golden["logits"], Kind::Float)) < 1e-4, "{name}");
    }
}

#[test]
fn texts_become_the_tokens_of_transformers_and_texts_again() {
    for name in NAMES {
        let model = open(&folder(name)).unwrap();
        let vocabulary = model.vocabulary().unwrap();
        for text in golden(name)["texts"].as_array().unwrap() {
            let (text, ids) = (text["text"].as_str().unwrap(), tensor(&text["ids"], Kind::Int64));
            let ours = vocabulary.encode(text).unwrap();
            assert_eq!(
                ours.iter().map(|&id| id.into()).collect::<Vec<i64>>(),
                Vec::<i64>::try_from(ids).unwrap()
            );
            assert_eq!(vocabulary.decode(&ours).unwrap(), text);
        }
        // the run's copy is the same vocabulary, by its file alone
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("tokenizer.json");
        vocabulary.save(&path).unwrap();
        let again = Vocabulary::open(&path).unwrap();
        assert_eq!((again.marks(), again.size()), (vocabulary.marks(), vocabulary.size()));
        assert_eq!(again.decode(&[again.bos, again.eos, again.pad]).unwrap(), "");
        let text = "A red ball.";
        assert_eq!(again.encode(text).unwrap(), vocabulary.encode(text).unwrap());
        again.save(&run.path().join("again.json")).unwrap();
        let bytes = |name: &str| fs_err::read(run.path().join(name)).unwrap();
        assert!(bytes("tokenizer.json") == bytes("again.json"));
    }
}

#[test]
fn marks_are_the_models_own() {
    let marks = |name: &str| open(&folder(name)).unwrap().vocabulary().unwrap().marks();
    let [bos, eos, pad] = ["<s>", "</s>", "<s>"].map(str::to_owned);
    assert_eq!(marks("llama"), Marks { bos, eos, pad });
    let [bos, eos, pad] = ["<|endoftext|>", "<|endoftext|>", "<|im_start|>"].map(str::to_owned);
    assert_eq!(marks("qwen2"), Marks { bos, eos, pad });
}

#[test]
fn a_cut_vocabulary_keeps_the_rows_of_its_tokens() {
    for name in NAMES {
        let model = open(&folder(name)).unwrap();
        let whole = model.vocabulary().unwrap();
        let texts = ["A man finds a red ball near the river."];
        let cut = cut_from_pretrained(whole, texts.iter().map(|&text| text.to_owned())).unwrap();
        assert!(cut.size() < whole.size(), "{name}: {} of {}", cut.size(), whole.size());
        assert_eq!(cut.marks(), whole.marks());
        let tokens = |vocabulary: &Vocabulary, text: &str| -> Vec<String> {
            vocabulary.encode(text).unwrap().into_iter().map(|id| vocabulary.token(id)).collect()
        };
        assert_eq!(tokens(&cut, texts[0]), tokens(whole, texts[0]));
        let unseen = "žluťoučký </s> <|im_end|>\n";
        assert_eq!(cut.decode(&cut.encode(unseen).unwrap()).unwrap(), unseen);

        let mut store = ParamStore::train(CPU, Kind::Float, 3);
        let shape = config(model.config(), &cut, cut.size() as i64);
        let decoder = Decoder::new(&shape, &mut store).unwrap();
        model.load(&mut store, &cut).unwrap();
        let states = |decoder: &Decoder, vocabulary: &Vocabulary| {
            let ids: Vec<i64> = vocabulary.encode(texts[0]).unwrap().into_iter().map(i64::from).collect();
            let ids = Tensor::from_slice(&ids).unsqueeze(0);
            let h_BTH = hidden(decoder, &ids);
            // the score that each position gives its own token
            let own = decoder.logits(&h_BTH).unwrap().gather(2, &ids.unsqueeze(2), false);
            (h_BTH, own)
        };
        let ((h, own), (whole_h, whole_own)) =
            (states(&decoder, &cut), states(&loaded(&model, Kind::Float).unwrap().0, whole));
        assert!(worst(&h, &whole_h) < 1e-5 && worst(&own, &whole_own) < 1e-4, "{name}");
    }
}

#[test]
fn the_prefix_becomes_as_large_as_tokens() {
    for compute in [Kind::Float, Kind::BFloat16] {
        let (decoder, store) = loaded(&open(&folder("qwen2")).unwrap(), compute).unwrap();
        let v_BD = Tensor::arange(400, (Kind::Float, CPU)).sin().view([50, 8]);
        let v_BD = &v_BD / v_BD.square().sum_dim_intlist(1, true, Kind::Float).sqrt();
        let factor = prefix_factor(&decoder, &v_BD).unwrap();
        // these tokens are far larger than what the usual initialisation gives
        assert!(factor > 5.0, "{factor}");
        scale_prefix(&store, factor).unwrap();
        let again = prefix_factor(&decoder, &v_BD).unwrap();
        assert!((again - 1.0).abs() < 0.01, "{again}");
    }
}

#[test]
fn halves_are_converted_and_a_head_beside_a_tied_table_is_passed_over() {
    let changed = copy("qwen2");
    let path = changed.path().join("model.safetensors");
    let weights = Weights::open(&path).unwrap();
    let mut tensors: Vec<(String, Tensor)> = weights
        .names()
        .map(|name| {
            let tensor = weights.get(name, &weights.shape(name).unwrap()).unwrap();
            (name.to_owned(), tensor.to_kind(Kind::Half))
        })
        .collect();
    drop(weights);
    let none = |shape: &[i64]| Tensor::zeros(shape, (Kind::Half, CPU));
    tensors.push(("lm_head.weight".into(), none(&[304, 32])));
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), none(&[4])));
    save_tensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let (decoder, _) = loaded(&open(changed.path()).unwrap(), Kind::Float).unwrap();
    let golden = golden("qwen2");
    let logits = decoder.logits(&hidden(&decoder, &tensor(&golden["tokens"], Kind::Int64))).unwrap();
    let off = worst(&logits, &tensor(&golden["logits"], Kind::Float));
    assert!(off > 0.0 && off < 0.1, "{off}");
}

#[test]
fn tensors_that_do_not_fit_are_all_named_and_nothing_is_changed() {
    let changed = copy("qwen2");
    let path = changed.path().join("model.safetensors");
    let weights = Weights::open(&path).unwrap();
    let mut tensors: Vec<(String, Tensor)> = weights
        .names()
        .map(|name| (name.to_owned(), weights.get(name, &weights.shape(name).unwrap()).unwrap().copy()))
        .collect();
    drop(weights);
    tensors.retain(|(name, _)| name != "model.layers.1.self_attn.q_proj.bias");
    tensors.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap().1 =
        Tensor::zeros([5], (Kind::Float, CPU));
    tensors.push(("stranger".into(), Tensor::zeros([1], (Kind::Float, CPU))));
    save_tensors(&path, &tensors, &BTreeMap::new()).unwrap();

    let model = open(changed.path()).unwrap();
    let mut store = ParamStore::train(CPU, Kind::Float, 3);
    let vocabulary = model.vocabulary().unwrap();
    Decoder::new(&config(model.config(), vocabulary, 304), &mut store).unwrap();
    let before: Vec<Tensor> = store.named_tensors().iter().map(|(_, tensor)| tensor.copy()).collect();
    let error = model.load(&mut store, vocabulary).unwrap_err();
    assert!(matches!(error, Error::TensorsDiffer { .. }), "{error}");
    for part in [
        "model.safetensors",
        "`model.layers.1.self_attn.q_proj.bias` is missing",
        "`model.norm.weight` has shape [5] instead of [32]",
        "`stranger` is not part",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(before.iter().zip(store.named_tensors()).all(|(before, (_, now))| before.equal(&now)));
}

#[test]
fn files_that_are_missing_or_do_not_fit_are_named() {
    let changed = copy("llama");
    let at = |file: &str| changed.path().join(file);
    fs_err::remove_file(at("model-00002-of-00003.safetensors")).unwrap();
    let model = open(changed.path()).unwrap();
    let error = loaded(&model, Kind::Float).err().unwrap().to_string();
    assert!(error.contains("model-00002-of-00003.safetensors") && error.contains("index"), "{error}");

    let config = fs_err::read_to_string(at("config.json")).unwrap();
    fs_err::write(at("config.json"), config.replace("\"vocab_size\": 300", "\"vocab_size\": 250")).unwrap();
    let error = open(changed.path()).unwrap().vocabulary().err().unwrap();
    assert!(matches!(error, Error::TokenizerFit { rows: 250, .. }), "{error}");

    fs_err::write(at("config.json"), config.replace("\"eos_token_id\": 2", "\"eos_token_id\": null"))
        .unwrap();
    fs_err::remove_file(at("generation_config.json")).unwrap();
    fs_err::remove_file(at("tokenizer_config.json")).unwrap();
    let error = open(changed.path()).unwrap().vocabulary().err().unwrap().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("(eos)"), "{error}");

    fs_err::remove_file(at("tokenizer.json")).unwrap();
    let error = open(changed.path()).unwrap().vocabulary().err().unwrap().to_string();
    assert!(error.contains("`tokenizer.json` is missing"), "{error}");
    fs_err::remove_file(at("config.json")).unwrap();
    let error = open(changed.path()).err().unwrap();
    assert!(matches!(error, Error::MissingFile { .. }) && error.hint().is_some(), "{error}");
    let error = Pretrained::open("nothing-here").err().unwrap();
    assert!(matches!(error, Error::NotASource { .. }), "{error}");
}

#[test]
fn a_model_of_a_hub_is_the_one_in_a_folder() {
    let (hub, cache) = (Hub::serve(&folder("llama"), None), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    let model = Pretrained::open_with("org/tiny@v1", &settings).unwrap();
    assert!(!hub.fetched().iter().any(|target| target.ends_with(".safetensors")), "{:?}", hub.fetched());
    let (_, store) = loaded(&model, Kind::Float).unwrap();
    let (_, here) = loaded(&open(&folder("llama")).unwrap(), Kind::Float).unwrap();
    assert!(store.named_tensors().iter().zip(here.named_tensors()).all(|((_, a), (_, b))| a.equal(&b)));

    let from = model.started_from().unwrap();
    assert_eq!((from.model.as_str(), from.revision.as_deref()), ("org/tiny", Some(COMMIT)));
    assert_eq!(from.architecture, "LlamaForCausalLM");
    let of_folder = open(&folder("llama")).unwrap().started_from().unwrap();
    assert_eq!((of_folder.model.as_str(), of_folder.revision), ("llama", None));
    assert_eq!(of_folder.weights_digest, from.weights_digest);

    // all is in the cache now
    let asked = hub.requests().len();
    let offline = HubSettings { offline: true, ..settings };
    loaded(&Pretrained::open_with("org/tiny@v1", &offline).unwrap(), Kind::Float).unwrap();
    assert_eq!(hub.requests().len(), asked, "the hub was asked although offline");
    let error = Pretrained::open_with("org/other", &offline).err().unwrap();
    assert!(matches!(error, Error::Hub { .. }), "{error}");
}
