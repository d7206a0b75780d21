//! A rounded copy of an encoder stands for the original.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, non_snake_case)]

use std::path::{Path, PathBuf};

use models::encoder::write_rounded;
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions, Error, Weights};
use tch::{Kind, Tensor};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backbones").join(name)
}

fn open(folder: &Path, dim: Option<usize>) -> Encoder {
    let options =
        EncoderOptions { device: DeviceChoice::Cpu, dtype: Dtype::F32, dim, ..EncoderOptions::default() };
    Encoder::open(folder.to_str().unwrap(), &options).unwrap()
}

#[test]
fn vectors_are_nearly_the_originals_in_the_same_space() {
    let texts = ["Two dogs run along the beach.", "a", "One, two and three: 4."];
    for (name, kind, least) in [
        ("bert", Kind::Half, 0.99999),
        ("qwen2_stella", Kind::Half, 0.99999),
        ("roberta", Kind::BFloat16, 0.999),
    ] {
        let target = tempfile::tempdir().unwrap();
        write_rounded(folder(name).to_str().unwrap(), None, target.path(), kind).unwrap();
        let (original, copy) = (open(&folder(name), None), open(target.path(), None));
        let (a_ND, b_ND) = (original.embed(&texts).unwrap(), copy.embed(&texts).unwrap());
        let cosine = Tensor::cosine_similarity(&a_ND, &b_ND, 1, 1e-9).min().double_value(&[]);
        assert!(cosine > least && a_ND != b_ND, "{name}: {cosine}");
        assert_eq!(original.space().weights_digest, copy.space().weights_digest);
        original.space().require_within(copy.space(), "the original", "the copy").unwrap();
        let size = |folder: &Path| fs_err::metadata(folder.join("model.safetensors")).unwrap().len();
        assert!(size(target.path()) * 10 < size(&folder(name)) * 6, "{name}");
        // a copy of a copy is still the original's
        let again = tempfile::tempdir().unwrap();
        write_rounded(target.path().to_str().unwrap(), None, again.path(), kind).unwrap();
        assert_eq!(open(again.path(), None).space().weights_digest, original.space().weights_digest);
    }
}

#[test]
fn another_head_is_the_only_one_of_the_copy() {
    let original = folder("qwen2_stella");
    let default = open(&original, None).space().dim;
    let heads: Vec<usize> = fs_err::read_dir(&original)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_prefix("2_Dense_")?.parse().ok())
        .collect();
    let other = *heads.iter().find(|dim| **dim != default).expect("a second head");
    let target = tempfile::tempdir().unwrap();
    write_rounded(original.to_str().unwrap(), Some(other), target.path(), Kind::Half).unwrap();
    // with and without saying so
    for dim in [None, Some(other)] {
        let copy = open(target.path(), dim);
        assert_eq!(copy.space().dim, other);
        open(&original, Some(other))
            .space()
            .require_within(copy.space(), "the original", "the copy")
            .unwrap();
    }
    let refused = write_rounded(original.to_str().unwrap(), Some(7), &target.path().join("x"), Kind::Half);
    assert!(matches!(refused, Err(Error::UnknownDim { asked: 7, .. })));
}

#[test]
fn numbers_beyond_f16_are_refused() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_rounded(folder("bert").to_str().unwrap(), None, source.path(), Kind::Float).unwrap();
    let path = source.path().join("model.safetensors");
    let weights = Weights::open(&path).unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let tensors = names.iter().map(|name| {
        let tensor = weights.get(name, &weights.shape(name).unwrap()).unwrap();
        (name.clone(), if name == &names[3] { tensor * 0.0 + 1e5 } else { tensor.copy() })
    });
    let tensors: Vec<(String, Tensor)> = tensors.collect();
    drop(weights);
    models::save_tensors(&path, &tensors, &Default::default()).unwrap();
    let source = source.path().to_str().unwrap();
    let refused = write_rounded(source, None, target.path(), Kind::Half).unwrap_err();
    assert!(
        matches!(&refused, Error::TensorOverflow { name, dtype: "f16", .. } if *name == names[3]),
        "{refused}"
    );
    assert!(refused.hint().unwrap().contains("bf16"));
    write_rounded(source, None, &target.path().join("bf16"), Kind::BFloat16).unwrap();
}
