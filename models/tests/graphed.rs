//! Decoding on static tensors gives the texts of the usual way: without graphs on any machine, with them on a GPU.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, non_snake_case)]

use models::generate::graphed::StaticRows;
use models::{Decoder, DecoderConfig, Error, GenerateOptions, Generated, ParamStore, generate};
use tch::{Device, Kind, Tensor};

/// A random decoder with grouped heads whose texts end at different lengths.
fn decoder(device: Device, max_tokens: i64) -> Decoder {
    let config: DecoderConfig = serde_json::from_value(serde_json::json!({
        "dim": 8, "hidden": 32, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 40, "vocab": 90,
        "prefix_tokens": 3, "projector_hidden": 12, "max_tokens": max_tokens, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
        "tie_embeddings": false, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "input_scale": 3.0}))
    .unwrap();
    let mut store = ParamStore::train(device, Kind::Float, 7);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    tch::no_grad(|| {
        for param in store.params().iter().filter(|param| param.master.dim() > 1) {
            let _ = param.master.shallow_clone().g_mul_scalar_(20.0);
        }
    });
    decoder
}

fn vectors(count: i64, device: Device) -> Tensor {
    (Tensor::arange(count * 8, (Kind::Float, device)) * 0.9).cos().view([count, 8])
}

fn usual(decoder: &Decoder, v_ND: &Tensor, max_tokens: usize) -> Vec<Generated> {
    let options = GenerateOptions { max_tokens, ..GenerateOptions::default() };
    generate(decoder, v_ND, &options).unwrap().into_iter().map(|mut texts| texts.remove(0)).collect()
}

fn equal(ours: &[Generated], theirs: &[Generated]) {
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!((&ours.ids, ours.finished), (&theirs.ids, theirs.finished));
        assert!((ours.log_prob - theirs.log_prob).abs() < 1e-3, "{} {}", ours.log_prob, theirs.log_prob);
    }
}

#[test]
fn texts_equal_those_of_the_usual_way() {
    let decoder = decoder(Device::Cpu, 200);
    let v_ND = vectors(24, Device::Cpu);
    // through windows of 64, 128 and the capacity of 203; and one that is smaller than the smallest
    for max_tokens in [200, 20, 1] {
        let expected = usual(&decoder, &v_ND, max_tokens);
        let lengths: std::collections::BTreeSet<usize> = expected.iter().map(|text| text.ids.len()).collect();
        assert!(max_tokens == 1 || lengths.len() > 3, "texts must end at different times: {lengths:?}");
        let mut rows = StaticRows::new(&decoder, 16, max_tokens as i64, false).unwrap();
        // the second call has fewer vectors than rows, and finds what the first left in the cache
        let mut texts = rows.decode(&v_ND.narrow(0, 0, 16)).unwrap();
        texts.extend(rows.decode(&v_ND.narrow(0, 16, 8)).unwrap());
        equal(&texts, &expected);
    }
}

#[test]
fn vectors_that_do_not_fit_the_rows_are_refused() {
    let decoder = decoder(Device::Cpu, 8);
    let mut rows = StaticRows::new(&decoder, 2, 8, false).unwrap();
    for count in [0, 3] {
        let refused = rows.decode(&vectors(count, Device::Cpu)).unwrap_err();
        assert!(matches!(refused, Error::RowsOfVectors { found, rows: 2 } if found == count), "{refused}");
        assert!(refused.hint().unwrap().contains("1 to 2 vectors"), "{refused}");
    }
    let wide = Tensor::ones([1, 9], (Kind::Float, Device::Cpu));
    assert!(matches!(rows.decode(&wide), Err(Error::VectorShape { dim: 8, .. })));
    let broken = Tensor::full([1, 8], f64::NAN, (Kind::Float, Device::Cpu));
    assert!(matches!(rows.decode(&broken), Err(Error::VectorNotFinite { index: 0 })));
    assert!(matches!(
        StaticRows::new(&decoder, 0, 8, false),
        Err(Error::GenerateOption { option: "rows", .. })
    ));
    assert_eq!(rows.decode(&vectors(2, Device::Cpu)).unwrap().len(), 2);
}

#[test]
fn graphs_give_the_same_on_a_gpu() {
    torch_ext::load_cuda();
    if !tch::Cuda::is_available() {
        let refused = StaticRows::new(&decoder(Device::Cpu, 8), 2, 8, true).map(|_| ()).unwrap_err();
        assert!(matches!(refused, models::Error::TorchExt(_)), "{refused}");
        return;
    }
    let gpu = Device::Cuda(0);
    let (decoder, v_ND) = (decoder(gpu, 200), vectors(24, gpu));
    let expected = usual(&decoder, &v_ND, 200);
    let mut rows = StaticRows::new(&decoder, 24, 200, true).unwrap();
    equal(&rows.decode(&v_ND).unwrap(), &expected);
    equal(&rows.decode(&v_ND).unwrap(), &expected);
}
