//! The encoder as a function of its table's rows: the vectors of `embed`, and a gradient that finite differences confirm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, non_snake_case)]

use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions};
use tch::{Kind, Tensor};

const NAMES: [&str; 7] = ["bert", "roberta", "xlm_roberta", "new", "qwen2_stella", "qwen2_causal", "qwen3"];

const TEXTS: [&str; 3] = ["the river", "a cat sat on the old table by the door", "why?"];

fn open(name: &str, dtype: Dtype, prompt: &str) -> Encoder {
    let folder = format!("{}/tests/golden/backbones/{name}", env!("CARGO_MANIFEST_DIR"));
    let prompt = Some(prompt.to_owned());
    Encoder::open(&folder, &EncoderOptions { device: DeviceChoice::Cpu, dtype, prompt, ..Default::default() })
        .unwrap()
}

/// Rows of the table for texts padded on the right, and the mask.
fn rows(encoder: &Encoder, texts: &[&str]) -> (Tensor, Tensor) {
    let ids = encoder.tokenize(texts).unwrap();
    let length = ids.iter().map(Vec::len).max().unwrap();
    let padded =
        |ids: &Vec<u32>| (0..length).map(|at| i64::from(ids.get(at).copied().unwrap_or(0))).collect();
    let flat: Vec<i64> = ids.iter().flat_map(|ids| -> Vec<i64> { padded(ids) }).collect();
    let kept: Vec<bool> = ids.iter().flat_map(|ids| (0..length).map(|at| at < ids.len())).collect();
    let shape = [texts.len() as i64, length as i64];
    let words_BTH = encoder.words(&flat).unwrap().view([shape[0], shape[1], -1]);
    (words_BTH, Tensor::from_slice(&kept).view(shape))
}

#[test]
fn rows_of_a_texts_tokens_give_the_texts_vector() {
    for name in NAMES {
        for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 0.02)] {
            let encoder = open(name, dtype, "none");
            let (words_BTH, mask_BT) = rows(&encoder, &TEXTS);
            let found = encoder.embed_words(&words_BTH, Some(&mask_BT)).unwrap();
            let expected = encoder.embed(&TEXTS).unwrap();
            let off = (&found - &expected).abs().max().double_value(&[]);
            assert!(off < tolerance, "{name} {dtype:?}: {off}");
            // with the graph that gradients need, the numbers are those without
            let leaf = words_BTH.copy().set_requires_grad(true);
            let with = encoder.embed_words(&leaf, Some(&mask_BT)).unwrap();
            let off = (with.detach() - &found).abs().max().double_value(&[]);
            assert!(off < tolerance, "{name} {dtype:?}, with gradients: {off}");
        }
    }
}

#[test]
fn a_text_stands_within_its_frame() {
    for name in NAMES {
        let encoder = open(name, Dtype::F32, "none");
        let frame = encoder.frame().unwrap();
        for (text, whole) in TEXTS.iter().zip(encoder.tokenize(&TEXTS).unwrap()) {
            let bare = encoder.tokenizer().encode(*text, false).unwrap();
            assert_eq!([frame.before.as_slice(), bare.get_ids(), &frame.after].concat(), whole, "{name}");
        }
    }
}

#[test]
fn more_rows_than_there_are_positions_for_are_refused() {
    for name in ["bert", "roberta"] {
        let encoder = open(name, Dtype::F32, "none");
        let words_BTH =
            |length: i64| encoder.words(&[5]).unwrap().unsqueeze(0).expand([1, length, -1], false);
        assert!(encoder.embed_words(&words_BTH(128), None).is_ok(), "{name}");
        assert!(encoder.embed_words(&words_BTH(129), None).is_err(), "{name}");
    }
}

#[test]
fn the_gradient_is_that_of_finite_differences() {
    for name in NAMES {
        let encoder = open(name, Dtype::F32, "none");
        let (words_BTH, mask_BT) = rows(&encoder, &TEXTS);
        tch::manual_seed(5);
        let wanted = Tensor::randn([3, encoder.space().dim as i64], (Kind::Float, tch::Device::Cpu));
        let of = |words: &Tensor| {
            let found = encoder.embed_words(words, Some(&mask_BT)).unwrap();
            (found * &wanted).sum(Kind::Double)
        };
        let leaf = words_BTH.copy().set_requires_grad(true);
        of(&leaf).backward();
        let scale = words_BTH.std(true).double_value(&[]);
        for seed in 0..3 {
            tch::manual_seed(seed);
            let direction = words_BTH.randn_like() * scale;
            let step = 3e-3;
            let by_differences = (of(&(&words_BTH + &direction * step)).double_value(&[])
                - of(&(&words_BTH - &direction * step)).double_value(&[]))
                / (2.0 * step);
            let by_gradient = (leaf.grad() * &direction).sum(Kind::Double).double_value(&[]);
            let size = (leaf.grad().norm() * direction.norm()).double_value(&[]);
            assert!(size > 1e-3, "{name}: there is a gradient");
            let off = (by_differences - by_gradient).abs() / size;
            assert!(
                off < 2e-3,
                "{name}: {by_differences} by differences, {by_gradient} by gradient of {size}"
            );
        }
        // padding has none
        let padding = leaf.grad().masked_select(&mask_BT.logical_not().unsqueeze(-1));
        assert_eq!(padding.abs().max().double_value(&[]), 0.0, "{name}");
    }
}
