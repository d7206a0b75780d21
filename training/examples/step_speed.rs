//! Speed of one training step by its parts, on random tokens: `cargo run --release -p training --example step_speed`.
//! Arguments: texts in a batch, tokens in a text, steps, `f32` or `bf16`.
#![allow(non_snake_case, clippy::print_stdout, clippy::unwrap_used)]

use std::time::Instant;

use models::{Decoder, DecoderConfig, ParamStore};
use tch::{Device, Kind, Tensor};
use training::loader::{Batch, MicroBatch};
use training::loss::{LossOptions, cross_entropy_with_gradients};
use training::optimizer::{AdamW, AdamWConfig};
use training::step::Model;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number =
        |at: usize, default: i64| arguments.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    let (texts, length, steps) = (number(1, 256), number(2, 16), number(3, 10));
    let kind = if arguments.get(4).is_some_and(|word| word == "f32") { Kind::Float } else { Kind::BFloat16 };
    let device = if tch::Cuda::is_available() { Device::Cuda(0) } else { Device::Cpu };
    let config: DecoderConfig = serde_json::from_value(serde_json::json!({
        "dim": 384, "hidden": 384, "layers": 6, "heads": 6, "kv_heads": 6, "head_dim": 64, "ffn": 1024,
        "vocab": 13312, "prefix_tokens": 4, "projector_hidden": 768, "max_tokens": 64, "rope_theta": 1e4,
        "rms_norm_eps": 1e-5, "tie_embeddings": true, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
        "input_scale": 19.6}))
    .unwrap();
    let mut store = ParamStore::train(device, kind, 0);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let mut optimizer = AdamW::new(adamw, &store).unwrap();
    let mut model = Model::new(store, decoder).unwrap();
    let v_BD = Tensor::randn([texts, 384], (Kind::Float, device)) / 19.6;
    let tokens_BT = Tensor::randint_low(3, config.vocab, [texts, length], (Kind::Int64, device));
    let targets_N = Tensor::randint_low(3, config.vocab, [texts * length], (Kind::Int64, device));
    let part = || MicroBatch {
        rows: Vec::new(),
        v_BD: v_BD.shallow_clone(),
        tokens_BT: tokens_BT.shallow_clone(),
        positions_N: None,
        targets_N: targets_N.shallow_clone(),
    };
    let batch = Batch { parts: vec![part()], next: Default::default(), epoch_batches: 1 };

    let mut seconds = [0.0; 2];
    for step in 0..steps + 2 {
        if step == 2 {
            seconds = [0.0; 2];
        }
        let start = Instant::now();
        let (gradients, found) = model.gradients(&batch, LossOptions::default()).unwrap();
        let between = Instant::now();
        model.apply(&mut optimizer, &gradients, found, Some(1.0), 1e-3).unwrap();
        seconds[0] += (between - start).as_secs_f64();
        seconds[1] += between.elapsed().as_secs_f64();
        if step == 0 || step == steps + 1 {
            println!("loss {:.4}, norm {:.4}", found.loss, found.grad_norm);
        }
    }
    let total: f64 = seconds.iter().sum();
    println!(
        "{:.0} tokens/s, {:.1} ms a step",
        (steps * texts * length) as f64 / total,
        1e3 * total / steps as f64
    );
    println!(
        "gradients {:.1} ms, update {:.1} ms",
        1e3 * seconds[0] / steps as f64,
        1e3 * seconds[1] / steps as f64
    );
    parts(&mut model, &v_BD, &tokens_BT, &targets_N, &config);
}

/// Times the parts of a step one by one.
fn parts(model: &mut Model, v_BD: &Tensor, tokens_BT: &Tensor, targets_N: &Tensor, config: &DecoderConfig) {
    let mut head_grad = Tensor::zeros([config.vocab, config.hidden], (Kind::Float, model.decoder.device()));
    let gradients = model.store.zero_gradients().unwrap();
    let mut sums = [0.0; 4];
    let names = ["forward", "head and loss", "backward", "norm"];
    for round in 0..6 {
        if round == 1 {
            sums = [0.0; 4];
        }
        let mut last = Instant::now();
        let mut lap = |sum: &mut f64| {
            *sum += last.elapsed().as_secs_f64();
            last = Instant::now();
        };
        let h_NH = model.decoder.hidden(v_BD, tokens_BT).unwrap().reshape([-1, config.hidden]);
        lap(&mut sums[0]);
        let head = model.decoder.head_weight();
        let (_, h_grad) = cross_entropy_with_gradients(
            &h_NH,
            head,
            targets_N,
            1e-3,
            LossOptions::default(),
            &mut head_grad,
        )
        .unwrap();
        lap(&mut sums[1]);
        let product = (&h_NH * &h_grad).sum(Kind::Float);
        model.store.backward(&product, &gradients, |_| false).unwrap();
        lap(&mut sums[2]);
        let _ = torch_ext::global_norm(&gradients).unwrap();
        lap(&mut sums[3]);
    }
    for (name, sum) in names.iter().zip(sums) {
        println!("{name:>18} {:7.1} ms", 1e3 * sum / 5.0);
    }
}
