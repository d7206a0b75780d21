//! A pair set of a few hundred sentences with vectors from hashes, and a recipe over it that trains in seconds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use models::space::{Pooling, Prompt};
use models::{DeviceChoice, Dtype, Embed, Encoder, EncoderOptions, Space};
use tch::Tensor;
use tokenizers::Tokenizer;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use training::recipe::{Resolved, load};

const DIM: usize = 16;

/// Hashes of texts as vectors.
struct HashEncoder {
    space: Space,
    tokenizer: Tokenizer,
}

impl HashEncoder {
    fn new(prompt: &str) -> Self {
        let vocab = [("[UNK]".to_owned(), 0u32)].into_iter().collect();
        let model = WordLevel::builder().vocab(vocab).unk_token("[UNK]".into()).build().unwrap();
        let space = Space {
            encoder: "hash".into(),
            revision: None,
            weights_digest: "blake3:00".into(),
            prompt: match prompt {
                "none" => Prompt::none(),
                name => Prompt { name: name.into(), text: format!("{name}: ") },
            },
            other_prompts: vec![],
            special_tokens: None,
            attention: models::space::Attention::Bidirectional,
            pooling: Pooling::Mean,
            dense: None,
            dim: DIM,
            normalize: true,
            max_tokens: 64,
        };
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
        Self { space, tokenizer }
    }
}

impl Embed for HashEncoder {
    fn space(&self) -> &Space {
        &self.space
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_tokens(&self) -> usize {
        self.space.max_tokens
    }

    fn count_tokens(&self, text: &str) -> models::Result<usize> {
        Ok(text.split_whitespace().count())
    }

    fn embed(&self, texts: &[&str]) -> models::Result<Tensor> {
        let mut numbers = Vec::new();
        for text in texts {
            let digest = blake3::hash(format!("{}{text}", self.space.prompt.text).as_bytes());
            let row: Vec<f32> =
                digest.as_bytes()[..DIM].iter().map(|&byte| f32::from(byte) - 127.5).collect();
            let norm = row.iter().map(|number| number * number).sum::<f32>().sqrt();
            numbers.extend(row.iter().map(|number| number / norm));
        }
        Ok(Tensor::from_slice(&numbers).view([texts.len() as i64, DIM as i64]))
    }
}

/// Sentences of 6 to 12 words, no two alike.
pub(crate) fn sentences(count: usize) -> String {
    let who = ["A man", "The old woman", "One small child", "My brother", "A brown dog", "The tall teacher"];
    let does = ["finds", "carries", "looks at", "paints", "remembers", "throws away"];
    let what = ["a red ball", "the wooden table", "an open letter", "some warm bread", "a broken bicycle"];
    let place = [
        "in the garden",
        "near the river",
        "at the busy station on Sunday",
        "behind the house",
        "by the sea",
    ];
    let mut lines = String::new();
    for i in 0..count {
        let (a, b, c, d) = (i % 6, i / 6 % 6, i / 36 % 5, i / 180 % 5);
        let _ = writeln!(lines, "{} {} {} {}.", who[a], does[b], what[c], place[d]);
    }
    lines
}

/// A folder with pairs and a recipe.
pub(crate) struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    pub(crate) fn new() -> Self {
        Self::under(&["none"])
    }

    /// The same with a row of each text under every prompt.
    pub(crate) fn under(prompts: &[&str]) -> Self {
        let encoders: Vec<HashEncoder> = prompts.iter().map(|prompt| HashEncoder::new(prompt)).collect();
        let encoders: Vec<&dyn Embed> = encoders.iter().map(|encoder| encoder as &dyn Embed).collect();
        Self::by("no-such-encoder", &encoders)
    }

    /// The same with a tiny encoder that is there, one of the golden ones of the crate `models`, and the recipe's encoder.
    #[allow(dead_code)]
    pub(crate) fn encoded(backbone: &str, prompt: &str) -> Self {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/golden/backbones");
        let source = models.join(backbone).to_str().unwrap().to_owned();
        let options = EncoderOptions {
            device: DeviceChoice::Cpu,
            dtype: Dtype::F32,
            prompt: Some(prompt.to_owned()),
            ..EncoderOptions::default()
        };
        let encoder = Encoder::open(&source, &options).unwrap();
        Self::by(&format!("{source}\"\nprompt = \"{prompt}\"\ndtype = \"f32"), &[&encoder])
    }

    fn by(source: &str, encoders: &[&dyn Embed]) -> Self {
        tch::set_num_threads(1);
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("texts.txt"), sentences(800)).unwrap();
        let small = Self { folder };
        small.write_recipe(source);
        let config = small.recipe("pairs", &[]).recipe.pairs_config();
        let report = data::pairs::build(&config, encoders, &mut |_| {}).unwrap();
        assert!(report.manifest.pairs > 400, "{:?}", report.manifest.flow);
        small
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_recipe(&self, source: &str) {
        let text = format!(
            r#"
name = "small"
[encoder]
source = "{source}"
[[corpus]]
name = "sentences"
path = "{texts}"
format = "text"
[split]
dev = 0.1
test = 0.0
[pairs]
dir = "{pairs}"
[tokenizer]
vocab = 320
[decoder]
hidden = 16
layers = 2
heads = 2
ffn = 32
prefix_tokens = 2
max_tokens = 64
[training]
max_steps = 12
batch_tokens = 600
dtype = "f32"
device = "cpu"
log_every = 1
eval_every = 5
eval_texts = 20
checkpoint_every = 4
ema_decay = 0.9
threads = 1
[schedule]
warmup_steps = 3
"#,
            texts = self.path("texts.txt").display(),
            pairs = self.path("pairs").display(),
        );
        fs_err::write(self.path("small.toml"), text).unwrap();
    }

    /// The recipe with its run in folder `run` and other values set.
    pub(crate) fn recipe(&self, run: &str, sets: &[&str]) -> Resolved {
        let mut all = vec![format!("run.dir={}", self.path(&format!("runs/{run}")).display())];
        all.extend(sets.iter().map(|set| (*set).to_owned()));
        load(self.path("small.toml"), &all).unwrap()
    }

    pub(crate) fn run(&self, run: &str) -> PathBuf {
        self.path(&format!("runs/{run}"))
    }
}

/// Bytes of a file of a checkpoint.
pub(crate) fn bytes(run: &Path, step: u64, name: &str) -> Vec<u8> {
    fs_err::read(run.join(format!("checkpoints/step-{step:08}")).join(name)).unwrap()
}
