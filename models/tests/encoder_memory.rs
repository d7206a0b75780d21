//! What opening an encoder costs in memory: the weights once, in the format computed with, and no second copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use models::{DeviceChoice, Dtype, Encoder, EncoderOptions, save_tensors};
use tch::{Device, Kind, Tensor};

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/backbones/qwen2_stella");
const HIDDEN: i64 = 768;
const FFN: i64 = 4096;
const LAYERS: usize = 4;

/// The small model's folder with weights of about 180 MB in its place; their bytes in f32.
fn write_large(folder: &Path) -> u64 {
    for file in ["modules.json", "tokenizer.json", "sentence_bert_config.json", "1_Pooling/config.json"] {
        let target = folder.join(file);
        fs_err::create_dir_all(target.parent().unwrap()).unwrap();
        fs_err::copy(Path::new(SMALL).join(file), target).unwrap();
    }
    let modules: Vec<serde_json::Value> =
        serde_json::from_slice(&fs_err::read(folder.join("modules.json")).unwrap()).unwrap();
    let headless = serde_json::to_string(&modules[..2]).unwrap();
    fs_err::write(folder.join("modules.json"), headless).unwrap();
    let config = fs_err::read(Path::new(SMALL).join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let vocab = config["vocab_size"].as_i64().unwrap();
    for (key, value) in [
        ("hidden_size", HIDDEN),
        ("intermediate_size", FFN),
        ("num_hidden_layers", LAYERS as i64),
        ("num_attention_heads", 12),
        ("num_key_value_heads", 2),
    ] {
        config[key] = value.into();
    }
    config.as_object_mut().unwrap().remove("head_dim");
    config.as_object_mut().unwrap().remove("layer_types");
    fs_err::write(folder.join("config.json"), config.to_string()).unwrap();

    let mut tensors = vec![];
    let mut add = |name: String, shape: &[i64]| {
        tensors.push((name, Tensor::full(shape, 0.01, (Kind::Float, Device::Cpu))));
    };
    add("model.embed_tokens.weight".into(), &[vocab, HIDDEN]);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        for (part, rows) in [("q", HIDDEN), ("k", HIDDEN / 6), ("v", HIDDEN / 6)] {
            add(name(&format!("self_attn.{part}_proj.weight")), &[rows, HIDDEN]);
            add(name(&format!("self_attn.{part}_proj.bias")), &[rows]);
        }
        add(name("self_attn.o_proj.weight"), &[HIDDEN, HIDDEN]);
        add(name("mlp.gate_proj.weight"), &[FFN, HIDDEN]);
        add(name("mlp.up_proj.weight"), &[FFN, HIDDEN]);
        add(name("mlp.down_proj.weight"), &[HIDDEN, FFN]);
        add(name("input_layernorm.weight"), &[HIDDEN]);
        add(name("post_attention_layernorm.weight"), &[HIDDEN]);
    }
    add("model.norm.weight".into(), &[HIDDEN]);
    let path = folder.join("model.safetensors");
    save_tensors(&path, &tensors, &BTreeMap::new()).unwrap();
    fs_err::metadata(path).unwrap().len()
}

/// A line of `/proc/self/status` in bytes.
fn status(key: &str) -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn open(folder: &str, dtype: Dtype) -> Encoder {
    let options = EncoderOptions { device: DeviceChoice::Cpu, dtype, ..EncoderOptions::default() };
    Encoder::open(folder, &options).unwrap()
}

#[test]
fn weights_are_in_memory_once_in_the_format_computed_with() {
    // 5 begins a new peak, proc(5)
    if fs_err::write("/proc/self/clear_refs", "5").is_err() || status("VmHWM:").is_none() {
        eprintln!("skipped: this system does not tell the peak of a process's memory");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = write_large(folder.path());
    // what libtorch sets up at its first use is not counted
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let _ = open(SMALL, dtype).hidden_states("warm").unwrap();
    }
    for (dtype, expected) in [(Dtype::F32, bytes), (Dtype::Bf16, bytes / 2)] {
        let before = status("VmRSS:").unwrap();
        fs_err::write("/proc/self/clear_refs", "5").unwrap();
        let encoder = open(folder.path().to_str().unwrap(), dtype);
        let _ = encoder.hidden_states("A text that looks at every weight.").unwrap();
        let peak = status("VmHWM:").unwrap() - before;
        let share = peak as f64 / expected as f64;
        assert!(share < 1.15, "{dtype}: {share:.2} times the weights");
        assert!(share > 0.8, "{dtype}: {share:.2} times the weights: they were not all looked at");
    }
}
