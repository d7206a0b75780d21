//! What a user can do about each failure.

use std::path::Path;

use super::{Error, HubFailure};

impl Error {
    /// What the user can do about it, in one sentence.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io(error) => return io_hint(error),
            Self::TorchExt(error) => return error.hint(),
            Self::Torch(error) if torch_ext::error::is_out_of_memory(&error.to_string()) => {
                "use a smaller batch, or a smaller dtype (bf16)"
            }
            Self::Torch(_) => return None,
            Self::Safetensors { path, .. } => {
                let again = again(path, "download or copy it again");
                return Some(format!("the file is damaged or was cut short: {again}"));
            }
            Self::MissingTensor { .. } | Self::TensorShape { .. } | Self::ExtraTensors { .. } => {
                "config.json and the weights are of different models, or the weights were renamed: fetch both from one revision"
            }
            Self::TensorsDiffer { .. } => {
                "the weights and decoder.json (or config.json) are of different decoders"
            }
            Self::DuplicateTensor { .. } | Self::DecoderConfig { .. } => return None,
            Self::TensorOverflow { .. } => "round to bf16, whose numbers go as far as those of f32",
            Self::TensorDtype { .. } => "convert the weights to F32, F16 or BF16",
            Self::Json { path, .. } => {
                return Some(format!("mend the file, or {}", again(path, "fetch it again")));
            }
            Self::Config { .. } => return None,
            Self::Unsupported { what: "attention", .. } => {
                "leave the attention out to take the encoder's own"
            }
            Self::Unsupported { what: "tokenizer", .. } => {
                "set tokenizer.kind = \"bpe\" in the recipe; with decoder.start_from, tokenizer.cut = false"
            }
            Self::Unsupported { .. } => "choose a model made of supported parts",
            Self::MissingFile { .. } => {
                "point at a whole model folder: of sentence-transformers for an encoder, of transformers for decoder.start_from"
            }
            Self::PickledWeights { .. } => {
                "take a revision with model.safetensors, or convert: load it in Python once and call save_pretrained(DIR, safe_serialization=True)"
            }
            Self::SpaceMismatch { .. } => {
                "use the encoder and prompt that made the vectors, or make the vectors anew"
            }
            Self::UnknownPrompt { .. } => "`none` encodes the text as it is",
            Self::UnknownDim { .. } => "leave the dimension out to take the encoder's own",
            Self::VectorShape { .. } => {
                "the vectors are of another space: use those of the decoder's own encoder"
            }
            Self::DoesNotRefine => "leave --refine out, or train with [refinement] share above 0",
            Self::DoesNotGuide => "leave --guidance out, or train with [noise] withheld above 0",
            Self::KnowsNoNoise => "leave --noise out, or train with [noise] share above 0",
            Self::KnowsNoLength => "leave --length out, or train with training.length_told above 0",
            Self::SourceLength { .. } => "this is a mistake of the calling program",
            Self::VectorNotFinite { .. } => "make the vectors anew; one that is not finite has no text",
            Self::GenerateOption { .. } => return None,
            Self::RowsOfVectors { rows, .. } => {
                return Some(format!("give 1 to {rows} vectors at a time, or make more rows"));
            }
            Self::NotADecoder { .. } => {
                "a run has decoder.json, a checkpoint lies in RUN/checkpoints, an export has projector.json and config.json"
            }
            Self::NoCheckpoint { .. } => "train it until its first checkpoint",
            Self::ExportExists { .. } => "choose another folder, or empty this one",
            Self::ExportDtype { .. } => "open the decoder with --dtype f32 and export as f32 or bf16",
            Self::GoldenDiffers { .. } => "the weights were damaged or changed: make the export again",
            Self::NonFinite { .. } => "compute in f32 or bf16; f16 overflows in some models",
            Self::Tokenizer { path, .. } => {
                let again = again(path, "fetch it again");
                return Some(format!("tokenizer.json is damaged or of a newer format: {again}"));
            }
            Self::Tokenize(_) => return None,
            Self::TokenizerFit { .. } => {
                "tokenizer.json and the weights are of different models: fetch both from one revision"
            }
            Self::Hub { kind, .. } => return kind.hint().map(str::to_owned),
            Self::NotASource { .. } => "give the path of a folder that is there, or organisation/name",
            Self::Device { .. } => "`inverse-stella doctor` lists the devices",
            Self::Parse { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// How to have a file anew: what lies in the hub's cache is fetched again only where it is not there.
fn again(path: &Path, elsewhere: &str) -> String {
    if !is_cached(path) {
        return elsewhere.to_owned();
    }
    match fs_err::canonicalize(path) {
        Ok(content) if content != path => {
            let (path, content) = (path.display(), content.display());
            format!("delete {path} and {content}, which it leads to, and it is fetched again")
        }
        _ => format!("delete {}, and it is fetched again", path.display()),
    }
}

/// Whether a file lies in a hub cache: `models--ORG--NAME/snapshots/COMMIT/FILE`.
fn is_cached(path: &Path) -> bool {
    let is_repository = |folder: &Path| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("models--") || name.starts_with("datasets--")
    };
    path.ancestors()
        .skip(2)
        .any(|folder| folder.ends_with("snapshots") && folder.parent().is_some_and(is_repository))
}

impl HubFailure {
    fn hint(self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => {
                Some("check the name; for a private or gated repository set HF_TOKEN, or HF_TOKEN_PATH")
            }
            Self::Forbidden => {
                Some("ask for access on the repository's page, or use a token that may read it (HF_TOKEN)")
            }
            Self::NotFound => {
                Some("check the name, the revision after `@`, and that the repository has this file")
            }
            Self::NoRepository => Some(
                "check the name, organisation/name; for a private repository set HF_TOKEN, or HF_TOKEN_PATH",
            ),
            Self::NoRevision => {
                Some("check what stands after `@`: a branch, a tag or a commit of the repository")
            }
            Self::RateLimited => {
                Some("wait some minutes, or set HF_TOKEN: the hub allows more to those it knows")
            }
            Self::Server => Some("run it again later; what was fetched is kept"),
            Self::Damaged => Some(
                "run it again; if it comes to this each time, the hub or what lies between (HF_ENDPOINT, a proxy) changes files",
            ),
            Self::NoSpace => Some(
                "free some space, or set HF_HOME (or HF_HUB_CACHE) to a folder on another disk, and run it again",
            ),
            Self::Cache => Some("check who may write to the hub's cache (HF_HOME, HF_HUB_CACHE)"),
            Self::Offline => {
                Some("unset HF_HUB_OFFLINE once to fetch it, or give the path of a folder that has it")
            }
            Self::Network => Some(
                "check the connection, HF_ENDPOINT and the proxy settings, and run it again: what was fetched is kept; a local folder needs no network",
            ),
            Self::NotAHub => Some("HF_ENDPOINT must be the root address of a hub or of a mirror of it"),
            Self::Other => None,
        }
    }
}

/// What to do about an input or output error, for all crates that wrap one.
pub fn io_hint(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind as Kind;
    let hint = match error.kind() {
        Kind::NotFound => "check the path; a relative one starts at the current directory",
        Kind::PermissionDenied => "check who may read and write there",
        Kind::ReadOnlyFilesystem => "choose a folder that can be written to",
        Kind::StorageFull | Kind::QuotaExceeded => {
            "free some space, or choose another folder, and run it again: what is complete is kept"
        }
        Kind::InvalidData => "the file is not UTF-8 text",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_of_the_cache_is_to_be_deleted_with_its_content() {
        let cache = tempfile::tempdir().unwrap();
        let repository = fs_err::canonicalize(cache.path()).unwrap().join("models--org--tiny");
        let (blob, snapshot) = (repository.join("blobs/abc"), repository.join("snapshots/0123"));
        let (path, elsewhere) = (snapshot.join("model.safetensors"), cache.path().join("model.safetensors"));
        fs_err::create_dir_all(repository.join("blobs")).unwrap();
        fs_err::create_dir_all(&snapshot).unwrap();
        fs_err::write(&blob, "short").unwrap();
        fs_err::os::unix::fs::symlink("../../blobs/abc", &path).unwrap();
        let hint = |path: &Path| {
            let (path, reason) = (path.to_owned(), "short".to_owned());
            Error::Safetensors { path, reason }.hint().unwrap()
        };
        let hint_here = hint(&path);
        assert!([&path, &blob].iter().all(|file| hint_here.contains(file.to_str().unwrap())), "{hint_here}");
        assert!(hint_here.contains("fetched again"), "{hint_here}");
        assert!(hint(&elsewhere).ends_with("download or copy it again"));
        let (path, reason) = (snapshot.join("tokenizer.json"), "end of file".to_owned());
        let hint = Error::Tokenizer { path, reason }.hint().unwrap();
        assert!(hint.contains("delete") && hint.contains("snapshots/0123/tokenizer.json"), "{hint}");
    }

    #[test]
    fn memory_of_a_cpu_is_memory_too() {
        let error = tch::Tensor::f_zeros([1 << 46], (tch::Kind::Double, tch::Device::Cpu)).unwrap_err();
        assert!(Error::from(error).hint().unwrap().contains("smaller batch"));
    }

    #[test]
    fn a_tokenizer_that_cannot_be_cut_gets_a_hint_of_the_recipe() {
        let words = tokenizers::Tokenizer::new(tokenizers::models::wordlevel::WordLevel::default());
        let refused = crate::vocabulary::cut_from_encoder(&words, std::iter::empty()).unwrap_err();
        assert!(refused.hint().unwrap().contains("tokenizer.kind"), "{refused}");
    }
}
