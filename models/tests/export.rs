//! Exports: written, read back, opened by transformers; and runs and checkpoints opened in place.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    non_snake_case
)]

use models::vocabulary::train_bpe;
use models::{
    Decoder, DecoderConfig, DeviceChoice, Dtype, Error, ExportOptions, GenerateOptions, Inverter, Origin,
    OriginKind, ParamStore, Pooling, Prompt, Space, check_golden, save_tensors, write_export,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tch::{Device, Kind, Tensor};

fn space(dim: usize) -> Space {
    Space {
        encoder: "tiny".into(),
        revision: None,
        weights_digest: "blake3:00".into(),
        prompt: Prompt::none(),
        other_prompts: vec![],
        special_tokens: None,
        attention: models::space::Attention::Bidirectional,
        pooling: Pooling::Mean,
        dense: None,
        dim,
        normalize: true,
        max_tokens: 64,
    }
}

/// A random decoder with sharp distributions.
fn inverter(tie_embeddings: bool, qkv_bias: bool) -> Inverter {
    let texts = ["A man is playing a guitar.", "Two dogs run through the snow. — naïve café"];
    let vocabulary = train_bpe(texts.into_iter().cycle().take(100).map(str::to_owned), 300).unwrap();
    let config = DecoderConfig {
        dim: 8,
        hidden: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn: 48,
        // more rows than tokens: a round number
        vocab: 320,
        prefix_tokens: 3,
        projector_hidden: 16,
        max_tokens: 10,
        rope_theta: 5e5,
        rms_norm_eps: 1e-6,
        tie_embeddings,
        bos_token_id: vocabulary.bos.into(),
        eos_token_id: vocabulary.eos.into(),
        pad_token_id: vocabulary.pad.into(),
        activation: Default::default(),
        input_scale: 8f64.sqrt(),
        input_normalization: qkv_bias,
        refines: qkv_bias,
        knows_noise: qkv_bias,
        knows_length: qkv_bias,
        guides: qkv_bias,
        qkv_bias,
    };
    let mut store = ParamStore::train(Device::Cpu, Kind::Float, 4);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    tch::no_grad(|| {
        for param in store.params().iter().filter(|param| param.master.dim() > 1) {
            let _ = param.master.shallow_clone().g_mul_scalar_(15.0);
        }
        for (name, buffer) in store.buffers() {
            let _ = buffer.shallow_clone().fill_(if name.ends_with("mean") { 0.1 } else { 2.5 });
        }
    });
    let origin = Origin { kind: OriginKind::Run, path: PathBuf::from("made here"), step: None };
    Inverter { decoder, config, vocabulary, space: space(8), origin, store }
}

fn vectors() -> Tensor {
    (Tensor::arange(48, (Kind::Float, Device::Cpu)) * 1.7).sin().view([6, 8])
}

fn export(inverter: &Inverter, out: &Path, dtype: Dtype) -> models::Result<()> {
    write_export(inverter, out, &ExportOptions { dtype, golden_ND: &vectors(), readme: "# A decoder\n" })
}

#[test]
fn an_export_decodes_as_what_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    for (tied, bias) in [(true, false), (false, true)] {
        let (inverter, out) = (inverter(tied, bias), folder.path().join(format!("tied_{tied}")));
        export(&inverter, &out, Dtype::F32).unwrap();
        let opened = Inverter::open(&out, DeviceChoice::Cpu, Dtype::F32).unwrap();
        assert_eq!((&opened.config, &opened.space), (&inverter.config, &inverter.space));
        assert_eq!(opened.origin.kind, OriginKind::Export);
        let options = GenerateOptions::default();
        let texts = opened.invert(&vectors(), &options).unwrap();
        assert_eq!(texts, inverter.invert(&vectors(), &options).unwrap());
        assert!(texts.iter().any(|text| !text.text.is_empty()) && texts[0] != texts[1]);
        let mut files: Vec<_> =
            fs_err::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let documented = "README.md config.json generation_config.json golden.json model.safetensors projector.json \
                          projector.safetensors space.json tokenizer.json tokenizer_config.json";
        assert_eq!(files.join(" "), documented);
        // an older export is replaced, and nothing temporary stays
        export(&inverter, &out, Dtype::F32).unwrap();
    }
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_bf16_export_is_half_the_size_and_checks_its_own_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (full, half) = (folder.path().join("f32"), folder.path().join("bf16"));
    let inverter = inverter(true, false);
    export(&inverter, &full, Dtype::F32).unwrap();
    export(&inverter, &half, Dtype::Bf16).unwrap();
    let size = |folder: &Path| fs_err::metadata(folder.join("model.safetensors")).unwrap().len();
    assert!(size(&half) < size(&full) * 6 / 10);
    check_golden(&half).unwrap();
    let config = fs_err::read_to_string(half.join("config.json")).unwrap();
    assert!(config.contains("bfloat16"));
}

#[test]
fn a_damaged_export_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("export");
    export(&inverter(true, false), &out, Dtype::F32).unwrap();
    let golden = out.join("golden.json");
    let text = fs_err::read_to_string(&golden).unwrap();
    let at = text.find("\"texts\"").unwrap();
    let start = at
        + text[at..].find("[").unwrap()
        + text[at..][text[at..].find("[").unwrap()..].find('"').unwrap()
        + 1;
    fs_err::write(&golden, format!("{}other {}", &text[..start], &text[start..])).unwrap();
    let error = check_golden(&out).unwrap_err();
    assert!(matches!(error, Error::GoldenDiffers { index: 0, .. }), "{error}");

    let weights = out.join("model.safetensors");
    let bytes = fs_err::read(&weights).unwrap();
    fs_err::write(&weights, &bytes[..bytes.len() - 4]).unwrap();
    let error = Inverter::open(&out, DeviceChoice::Cpu, Dtype::F32).unwrap_err();
    assert!(error.to_string().contains("model.safetensors") && error.hint().is_some(), "{error}");
}

#[test]
fn what_is_no_export_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let inverter = inverter(true, false);
    fs_err::write(folder.path().join("precious.txt"), "data").unwrap();
    let error = export(&inverter, folder.path(), Dtype::F32).unwrap_err();
    assert!(matches!(error, Error::ExportExists { .. }), "{error}");
    assert!(folder.path().join("precious.txt").exists());
    let empty = folder.path().join("empty");
    fs_err::create_dir(&empty).unwrap();
    export(&inverter, &empty, Dtype::F32).unwrap();
    assert!(matches!(export(&inverter, &empty, Dtype::F16).unwrap_err(), Error::ExportDtype { .. }));
}

#[test]
fn an_export_that_made_way_when_a_process_was_killed_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (out, aside) = (folder.path().join("out"), folder.path().join(".out.4242.old"));
    let stranger = folder.path().join(".out.mine.old");
    let inverter = inverter(true, false);
    export(&inverter, &out, Dtype::F32).unwrap();
    fs_err::rename(&out, &aside).unwrap();
    fs_err::create_dir(&stranger).unwrap();
    let wrong = Tensor::zeros([1, 7], (Kind::Float, Device::Cpu));
    let options = ExportOptions { dtype: Dtype::F32, golden_ND: &wrong, readme: "" };
    assert!(write_export(&inverter, &out, &options).is_err());
    check_golden(&out).unwrap();
    assert!(!aside.exists());
    // killed after the second rename, the old one is but in the way
    fs_err::create_dir(&aside).unwrap();
    for name in ["config.json", "projector.json"] {
        fs_err::copy(out.join(name), aside.join(name)).unwrap();
    }
    export(&inverter, &out, Dtype::Bf16).unwrap();
    assert!(!aside.exists() && stranger.exists());
}

#[test]
fn what_a_killed_process_left_half_written_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let left = |name: &str| {
        let path = folder.path().join(name);
        fs_err::create_dir(&path).unwrap();
        fs_err::write(path.join("model.safetensors"), "half").unwrap();
        path
    };
    // no process has a number that large, and the first is always there
    let gone = left(".out.4194305.tmp");
    let stay = [".out.1.tmp", ".other.4194305.tmp", ".out.mine.tmp", ".out.more.4194305.tmp"].map(left);
    export(&inverter(true, false), &folder.path().join("out"), Dtype::F32).unwrap();
    assert!(stay.iter().all(|path| path.join("model.safetensors").exists()));
    assert_eq!(gone.exists(), !Path::new("/proc/self").exists());
}

#[test]
fn without_generation_config_the_longest_text_follows_from_the_positions() {
    let folder = tempfile::tempdir().unwrap();
    // with and without refinement, whose hypotheses are as long
    for bias in [false, true] {
        let (inverter, out) = (inverter(false, bias), folder.path().join(format!("bias_{bias}")));
        export(&inverter, &out, Dtype::F32).unwrap();
        fs_err::remove_file(out.join("generation_config.json")).unwrap();
        let opened = Inverter::open(&out, DeviceChoice::Cpu, Dtype::F32).unwrap();
        assert_eq!((opened.config.refines, &opened.config), (bias, &inverter.config));
    }
}

#[test]
fn runs_and_checkpoints_open() {
    let folder = tempfile::tempdir().unwrap();
    let (run, inverter) = (folder.path(), inverter(false, false));
    let open = |path: &Path| Inverter::open(path, DeviceChoice::Cpu, Dtype::F32);
    assert!(matches!(open(run).unwrap_err(), Error::NotADecoder { .. }));
    fs_err::write(run.join("decoder.json"), serde_json::to_vec(&inverter.config).unwrap()).unwrap();
    assert!(matches!(open(run).unwrap_err(), Error::NoCheckpoint { .. }));
    inverter.vocabulary.save(&run.join("tokenizer.json")).unwrap();
    inverter.space.write(&run.join("space.json")).unwrap();
    let checkpoints = run.join("checkpoints");
    let save = |step: &str, file: &str, factor: f64| {
        fs_err::create_dir_all(checkpoints.join(step)).unwrap();
        let scaled: Vec<_> =
            inverter.store.named_tensors().into_iter().map(|(n, t)| (n, t * factor)).collect();
        save_tensors(&checkpoints.join(step).join(file), &scaled, &BTreeMap::new()).unwrap();
    };
    save("step-00000010", "model.safetensors", 1.0);
    save("step-00000020", "model.safetensors", 1.1);
    save("step-00000020", "ema.safetensors", 1.2);
    fs_err::write(checkpoints.join("latest"), "step-00000020\n").unwrap();
    let gain = |inverter: &Inverter| {
        inverter
            .store
            .named_tensors()
            .into_iter()
            .find(|(n, _)| n == "model.norm.weight")
            .unwrap()
            .1
            .double_value(&[0])
    };
    let latest = open(run).unwrap();
    assert_eq!((latest.origin.kind, latest.origin.step), (OriginKind::Run, Some(20)));
    assert!((gain(&latest) - 1.2).abs() < 1e-6, "averaged weights win");
    fs_err::write(checkpoints.join("best"), "step-00000010").unwrap();
    assert_eq!(open(run).unwrap().origin.step, Some(10));
    let checkpoint = open(&checkpoints.join("step-00000010")).unwrap();
    assert_eq!((checkpoint.origin.kind, checkpoint.origin.step), (OriginKind::Checkpoint, Some(10)));
    let options = GenerateOptions::default();
    assert_eq!(
        checkpoint.invert(&vectors(), &options).unwrap(),
        inverter.invert(&vectors(), &options).unwrap()
    );

    space(9).write(&run.join("space.json")).unwrap();
    assert!(open(run).unwrap_err().to_string().contains("`dim` is 9"));
}

/// A Python with transformers: `INVERSE_STELLA_PYTHON`, else the project's own environment.
fn python() -> Option<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    std::env::var_os("INVERSE_STELLA_PYTHON")
        .map(PathBuf::from)
        .or(Some(own))
        .filter(|python| python.exists())
}

#[test]
fn transformers_decodes_an_export_to_the_same_texts() {
    let Some(python) = python() else {
        println!("skipped: no Python (INVERSE_STELLA_PYTHON names one with transformers)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/generate_with_transformers.py");
    let mut command = Command::new(python);
    command.arg(script).env("HF_HUB_OFFLINE", "1").env_remove("LD_LIBRARY_PATH");
    for (name, tied, bias, dtype) in [
        ("tied", true, false, Dtype::F32),
        ("untied", false, true, Dtype::F32),
        ("bf16", true, false, Dtype::Bf16),
    ] {
        let out = folder.path().join(name);
        export(&inverter(tied, bias), &out, dtype).unwrap();
        command.arg(out);
    }
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(77) => println!("skipped: transformers is not installed ({})", said.trim()),
        _ => panic!("{said}"),
    }
}
