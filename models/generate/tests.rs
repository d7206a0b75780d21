use super::*;
use crate::{DecoderConfig, ParamStore};
use tch::Device;

/// A random decoder whose texts end at different lengths.
fn decoder() -> Decoder {
    let config = DecoderConfig {
        dim: 8,
        hidden: 16,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        ffn: 24,
        vocab: 12,
        prefix_tokens: 2,
        projector_hidden: 12,
        max_tokens: 20,
        rope_theta: 1e4,
        rms_norm_eps: 1e-5,
        tie_embeddings: false,
        bos_token_id: 0,
        eos_token_id: 1,
        pad_token_id: 2,
        activation: Default::default(),
        input_scale: 3.0,
        input_normalization: false,
        qkv_bias: false,
    };
    let mut store = ParamStore::train(Device::Cpu, Kind::Float, 11);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    tch::no_grad(|| {
        for param in store.params().iter().filter(|param| param.master.dim() > 1) {
            let _ = param.master.shallow_clone().g_mul_scalar_(20.0);
        }
    });
    decoder
}

#[test]
fn it_does_not_matter_when_ended_rows_leave() {
    let decoder = decoder();
    let v_BD = (Tensor::arange(40 * 8, (Kind::Float, Device::Cpu)) * 0.9).cos().view([40, 8]);
    let strategy =
        Strategy::Sample { temperature: 1.0, top_k: None, top_p: None, min_p: None, seed: 5, samples: 2 };
    let texts = |leave_at| {
        tch::no_grad(|| {
            let mut sampler = Sampler::new(&strategy, 0, 40);
            in_step(&decoder, &v_BD, 2, 20, leave_at, &mut sampler).unwrap()
        })
    };
    let (at_once, never) = (texts(0.0), texts(2.0));
    let ids = |texts: &[Vec<Generated>]| texts.iter().flatten().map(|t| t.ids.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&at_once), ids(&never));
    assert_eq!(ids(&at_once), ids(&texts(0.3)));
    let lengths: std::collections::BTreeSet<usize> =
        at_once.iter().flatten().filter(|text| text.finished).map(|text| text.ids.len()).collect();
    assert!(lengths.len() > 3, "rows must end at different times for this to be a test: {lengths:?}");
}

fn strategies() -> [Strategy; 3] {
    [
        Strategy::Greedy,
        Strategy::Beam { width: 3, length_penalty: 1.0 },
        Strategy::Sample { temperature: 1.0, top_k: None, top_p: None, min_p: None, seed: 5, samples: 2 },
    ]
}

fn ids(texts: &[Vec<Generated>]) -> Vec<&[u32]> {
    texts.iter().flatten().map(|text| text.ids.as_slice()).collect()
}

#[test]
fn texts_in_flight_are_those_of_rows_in_step() {
    let decoder = decoder();
    assert!(Stepper::fits(&decoder));
    let v_ND = (Tensor::arange(90 * 8, (Kind::Float, Device::Cpu)) * 0.7).cos().view([90, 8]);
    for strategy in strategies() {
        let options = |batch| GenerateOptions { strategy: strategy.clone(), max_tokens: 20, batch };
        let (expected, found) = tch::no_grad(|| {
            let in_flight = |batch| in_flight::decode(&decoder, &v_ND, &options(batch), 20).unwrap();
            (in_chunks(&decoder, &v_ND, &options(30), 20).unwrap(), [1, 7, 40, 1000].map(in_flight))
        });
        for found in found {
            assert_eq!(ids(&expected), ids(&found), "{strategy:?}");
            for (a, b) in expected.iter().flatten().zip(found.iter().flatten()) {
                assert!((a.log_prob - b.log_prob).abs() < 1e-3 && a.finished == b.finished);
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let v_ND = (Tensor::arange(90 * 8, (Kind::Float, Device::Cpu)) * 0.7).cos().view([90, 8]);
    for strategy in strategies() {
        let with = |threads| {
            let v_ND = v_ND.copy();
            let options = GenerateOptions { strategy: strategy.clone(), max_tokens: 20, batch: 64 };
            // the number is a thread's own, and other tests have theirs
            let run = move || {
                tch::set_num_threads(threads);
                let texts = generate(&decoder(), &v_ND, &options).unwrap();
                assert_eq!(tch::get_num_threads(), threads);
                texts
            };
            std::thread::spawn(run).join().unwrap()
        };
        assert_eq!(ids(&with(1)), ids(&with(3)), "{strategy:?}");
    }
}
