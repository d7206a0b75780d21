//! A recipe that is built and trained in seconds, and the command on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{inverse_stella, sentences, write_lines};

/// A recipe over 600 sentences with a decoder of a few thousand parameters.
pub struct Small {
    folder: tempfile::TempDir,
    pub recipe: PathBuf,
}

impl Small {
    pub fn new(encoder: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let texts = folder.path().join("texts.txt");
        write_lines(&texts, &sentences(600));
        let recipe = folder.path().join("small.toml");
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/base.toml");
        fs_err::write(
            &recipe,
            format!(
                r#"
extends = "{base}"
name = "small"
[encoder]
source = "{encoder}"
[[corpus]]
name = "sentences"
path = "{texts}"
format = "text"
domain = "test"
[split]
dev = 0.05
test = 0.05
[pairs]
dir = "{pairs}"
shard_rows = 100
[tokenizer]
kind = "bpe"
vocab = 400
[decoder]
hidden = 32
layers = 2
heads = 2
ffn = 64
prefix_tokens = 2
max_tokens = 24
[training]
max_steps = 12
batch_tokens = 256
dtype = "f32"
device = "cpu"
log_every = 2
eval_every = 6
eval_texts = 8
checkpoint_every = 4
ema_decay = 0.9
[run]
dir = "{run}"
"#,
                base = base.display(),
                encoder = encoder.display(),
                texts = texts.display(),
                pairs = folder.path().join("pairs").display(),
                run = folder.path().join("run").display(),
            ),
        )
        .unwrap();
        Self { folder, recipe }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `verb --recipe small.toml --set key=value ...` as a process that can be killed.
    pub fn start(&self, verb: &[&str], sets: &[String]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("inverse-stella"));
        command.args(verb).arg("--recipe").arg(&self.recipe).current_dir(env!("CARGO_MANIFEST_DIR"));
        for set in sets {
            command.arg("--set").arg(set);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn done(&self, verb: &[&str], sets: &[String]) -> String {
        let output = self.start(verb, sets).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{verb:?} failed:\n{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts `verb` and kills it with SIGKILL as soon as `seen` is there.
    pub fn killed(&self, verb: &[&str], sets: &[String], seen: impl Fn() -> bool) {
        let mut child = self.start(verb, sets).spawn().unwrap();
        let started = Instant::now();
        while !seen() && child.try_wait().unwrap().is_none() {
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "{verb:?} never came to the point of the kill"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Encodes the lines of `texts` to `vectors`.
pub fn encode(encoder: &Path, texts: &Path, vectors: &Path, arguments: &[&str]) {
    let mut command = inverse_stella();
    command.args(["encode", "--encoder"]).arg(encoder);
    command.args(arguments).arg("--input").arg(texts).arg("--output").arg(vectors).assert().success();
}
