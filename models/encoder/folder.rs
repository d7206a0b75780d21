//! A sentence-transformers model on disk: `modules.json` and what it refers to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;

use super::architecture::Architecture;
use super::prompts::Prompts;
use super::rounded::ROUNDED_FROM;
use crate::error::{Error, Result};
use crate::files;
use crate::hub::{Repository, join};
use crate::space::Pooling;
use crate::weights::{self, Weights};

/// What a sentence-transformers folder says, checked: a Transformer, a Pooling, dense heads, perhaps a Normalize.
pub(super) struct ModelFolder {
    /// `config.json` of the transformer.
    pub(super) config: PathBuf,
    /// `tokenizer.json`.
    pub(super) tokenizer: PathBuf,
    /// Folder of the transformer within the repository; mostly the empty path.
    pub(super) transformer: String,
    /// Folder of the pooling.
    pooling_folder: String,
    /// How states become one vector.
    pub(super) pooling: Pooling,
    /// Whether the prompt's tokens take part in pooling.
    pub(super) pool_prompt: bool,
    /// Dense heads in order.
    pub(super) dense: Vec<DenseFolder>,
    /// Maximum length that the model asks for, if it does, and the file that says so.
    pub(super) max_tokens: Option<(usize, PathBuf)>,
    /// Maximum length that its tokenizer was made for.
    pub(super) tokenizer_max_tokens: Option<usize>,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub(super) lower_case: bool,
    /// Its prompts.
    pub(super) prompts: Prompts,
    /// Architecture and width of the transformer.
    pub(super) architecture: Architecture,
}

/// One dense head on disk.
pub(super) struct DenseFolder {
    /// The folder's name.
    pub(super) name: String,
    /// Where `config.json` is.
    pub(super) config_path: PathBuf,
    /// What it says.
    pub(super) config: DenseConfig,
}

/// The weights of a model folder.
pub(super) struct ModelWeights {
    /// Those of the transformer.
    pub(super) transformer: Rc<Weights>,
    /// Those of the dense heads, in order.
    pub(super) dense: Vec<Weights>,
}

impl ModelWeights {
    /// `blake3:HEX` over all of them, those of the dense heads behind the transformer's. A rounded copy has that of what
    /// it was made from.
    pub(super) fn digest(&self) -> String {
        if let Some(original) = self.transformer.metadata().get(ROUNDED_FROM) {
            return original.clone();
        }
        weights::digest_of(&std::iter::once(&*self.transformer).chain(&self.dense).collect::<Vec<_>>())
    }
}

/// `config.json` of a Dense module.
#[derive(Debug, Deserialize)]
pub(super) struct DenseConfig {
    pub(super) in_features: i64,
    pub(super) out_features: i64,
    #[serde(default = "yes")]
    pub(super) bias: bool,
    pub(super) activation_function: Option<String>,
    #[serde(default)]
    pub(super) use_residual: bool,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
struct TransformerConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

#[derive(Deserialize, Default)]
struct PromptConfig {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    default_prompt_name: Option<String>,
}

fn yes() -> bool {
    true
}

const MODULES: [&str; 4] = ["Transformer", "Pooling", "Dense", "Normalize"];

/// Names of the transformer's own configuration, as sentence-transformers tries them: the first that is there counts.
const TRANSFORMER_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

impl ModelFolder {
    /// Reads the folder; of a hub repository, only what its `modules.json` refers to is fetched. With `dim`, the last dense
    /// head is exchanged for its sibling of that many numbers (`2_Dense_1024` for `2_Dense_256`).
    pub(super) fn read(repository: &Repository, dim: Option<usize>) -> Result<Self> {
        let modules_path =
            repository.require("modules.json", "it lists the parts of a sentence-transformers model")?;
        let modules: Vec<Module> = files::read_json(&modules_path)?;
        let kinds = module_kinds(&modules_path, &modules)?;
        let transformer = modules[0].path.as_str();

        let (transformer_config, transformer_path) = read_transformer(repository, transformer)?;
        let tokenizer_config: TokenizerConfig =
            optional(repository, &join(transformer, "tokenizer_config.json"))?;
        let prompts: PromptConfig = optional(repository, "config_sentence_transformers.json")?;
        let config = repository.require(&join(transformer, "config.json"), "it describes the transformer")?;
        let architecture = Architecture::read(&config)?;
        let tokenizer = repository.require(&join(transformer, "tokenizer.json"), "it is the tokenizer")?;
        let (pooling, pool_prompt) = read_pooling(repository, &modules[1].path)?;
        let mut dense = vec![];
        let last = kinds.iter().rposition(|kind| kind == "Dense");
        for (index, module) in modules.iter().enumerate().filter(|(index, _)| kinds[*index] == "Dense") {
            let sibling = dim.filter(|_| Some(index) == last).and_then(|dim| sibling(&module.path, dim));
            dense.push(read_dense(repository, &module.path, sibling.as_deref())?);
        }
        Ok(Self {
            config,
            tokenizer,
            transformer: transformer.to_owned(),
            pooling_folder: modules[1].path.clone(),
            pooling,
            pool_prompt,
            dense,
            max_tokens: transformer_config.max_seq_length.map(|length| (length, transformer_path)),
            // huge values stand for "no limit" in transformers
            tokenizer_max_tokens: tokenizer_config
                .model_max_length
                .filter(|&length| length < 1e6)
                .map(|length| length as usize),
            lower_case: transformer_config.do_lower_case,
            prompts: Prompts::new(prompts.prompts, prompts.default_prompt_name, architecture.is_stellas()),
            architecture,
        })
    }

    /// All files that say what the model is, weights aside.
    pub(super) fn descriptions(&self) -> Vec<String> {
        let of_transformer =
            ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
        let of_transformer = of_transformer.into_iter().chain(TRANSFORMER_CONFIGS);
        let named = ["modules.json", "config_sentence_transformers.json"].map(str::to_owned).into_iter();
        let transformer = of_transformer.map(|name| join(&self.transformer, name));
        let dense = self.dense.iter().map(|dense| join(&dense.name, "config.json"));
        named.chain(transformer).chain([join(&self.pooling_folder, "config.json")]).chain(dense).collect()
    }

    /// Numbers in a vector: those of the last dense head, or the width of the transformer.
    pub(super) fn dim(&self) -> usize {
        self.dense.last().map_or(self.architecture.hidden_size, |dense| dense.config.out_features) as usize
    }

    /// Refuses another dimension than the folder gives.
    ///
    /// # Errors
    /// [`Error::UnknownDim`] with the sizes that there are heads for.
    pub(super) fn require_dim(&self, repository: &Repository, asked: Option<usize>) -> Result<()> {
        let (encoder, found) = (repository.name().to_owned(), self.dim());
        match asked.filter(|asked| *asked != found) {
            Some(asked) => {
                Err(Error::UnknownDim { encoder, found, asked, known: self.known_dims(repository) })
            }
            None => Ok(()),
        }
    }

    /// Opens the weights; of a hub repository, they are fetched now.
    ///
    /// # Errors
    /// Weights that are missing, damaged or pickled.
    pub(super) fn open_weights(&self, repository: &Repository) -> Result<ModelWeights> {
        let dense = self.dense.iter().map(|dense| Weights::of_repository(repository, &dense.name));
        Ok(ModelWeights {
            dense: dense.collect::<Result<_>>()?,
            transformer: Rc::new(Weights::of_repository(repository, &self.transformer)?),
        })
    }

    /// The sizes that there are heads for, where the last one is named by its size and the files can be listed.
    fn known_dims(&self, repository: &Repository) -> Vec<usize> {
        let Some((stem, _)) = self.dense.last().and_then(|dense| numbered(&dense.name)) else {
            return vec![];
        };
        // the error that this is for should not become another one
        let files = repository.list().unwrap_or_default();
        let folders = files.iter().filter_map(|file| file.strip_suffix("/config.json").and_then(numbered));
        let mut dims: Vec<_> = folders.filter(|(other, _)| *other == stem).map(|(_, dim)| dim).collect();
        dims.sort_unstable();
        dims
    }

    /// The folders of the dense heads, where there are any.
    pub(super) fn dense_name(&self) -> Option<String> {
        let names: Vec<_> = self.dense.iter().map(|dense| dense.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join("+"))
    }
}

/// The last word of each module's type, checked for kind and order.
fn module_kinds(path: &Path, modules: &[Module]) -> Result<Vec<String>> {
    let kinds: Vec<String> =
        modules.iter().map(|module| module.kind.rsplit('.').next().unwrap_or_default().to_owned()).collect();
    for (kind, module) in kinds.iter().zip(modules) {
        if !MODULES.contains(&kind.as_str()) {
            let supported = MODULES.to_vec();
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: "module",
                name: module.kind.clone(),
                supported,
            });
        }
        let unsafe_path =
            Path::new(&module.path).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
        if unsafe_path {
            let reason = "the path of a module must lie inside the model folder".to_owned();
            let (key, value) = ("path".to_owned(), module.path.clone());
            return Err(Error::Config { path: path.to_owned(), key, value, reason });
        }
    }
    let rank = |kind: &String| MODULES.iter().position(|known| known == kind);
    let in_order = kinds.windows(2).all(|pair| rank(&pair[0]) <= rank(&pair[1]));
    let count = |kind: &str| kinds.iter().filter(|known| *known == kind).count();
    if !in_order || count("Transformer") != 1 || count("Pooling") != 1 || count("Normalize") > 1 {
        return Err(Error::Config {
            path: path.to_owned(),
            key: "type".into(),
            value: format!("[{}]", kinds.join(", ")),
            reason: "the order must be one Transformer, one Pooling, any Dense, perhaps one Normalize".into(),
        });
    }
    Ok(kinds)
}

/// The first of [`TRANSFORMER_CONFIGS`] that is there, and its path.
fn read_transformer(repository: &Repository, folder: &str) -> Result<(TransformerConfig, PathBuf)> {
    for name in TRANSFORMER_CONFIGS {
        if let Some(path) = repository.find(&join(folder, name))? {
            return Ok((files::read_json(&path)?, path));
        }
    }
    Ok((TransformerConfig::default(), PathBuf::new()))
}

/// Reads a Pooling module's `config.json`, in the old form (one switch a mode) or the new one (`pooling_mode`).
fn read_pooling(repository: &Repository, folder: &str) -> Result<(Pooling, bool)> {
    let path = repository.require(&join(folder, "config.json"), "it says how to pool")?;
    let config: serde_json::Map<String, serde_json::Value> = files::read_json(&path)?;
    let mut modes: Vec<String> = match config.get("pooling_mode") {
        Some(serde_json::Value::String(mode)) => vec![mode.clone()],
        Some(serde_json::Value::Array(all)) => {
            all.iter().map(|mode| mode.as_str().unwrap_or_default().to_owned()).collect()
        }
        _ => {
            let on = |(key, value): (&String, &serde_json::Value)| {
                let mode =
                    key.strip_prefix("pooling_mode_")?.trim_end_matches("_tokens").trim_end_matches("_token");
                (value.as_bool() == Some(true)).then(|| mode.to_owned())
            };
            config.iter().filter_map(on).collect()
        }
    };
    if modes.is_empty() {
        modes.push("mean".into());
    }
    let pooling = match modes.join("+").as_str() {
        "mean" => Pooling::Mean,
        "cls" => Pooling::Cls,
        "lasttoken" => Pooling::LastToken,
        other => {
            let supported = vec!["mean", "cls", "lasttoken"];
            return Err(Error::Unsupported { path, what: "pooling", name: other.to_owned(), supported });
        }
    };
    Ok((pooling, config.get("include_prompt").and_then(serde_json::Value::as_bool).unwrap_or(true)))
}

fn read_dense(repository: &Repository, module: &str, sibling: Option<&str>) -> Result<DenseFolder> {
    let mut name = module;
    let mut config_path = None;
    if let Some(sibling) = sibling.filter(|sibling| *sibling != module) {
        let file = join(sibling, "config.json");
        config_path = repository.find(&file)?;
        if config_path.is_none() && repository.may_have(&file) {
            config_path = Some(repository.require(&file, "it describes the dense head asked for")?);
        }
        name = if config_path.is_some() { sibling } else { module };
    }
    let config_path = match config_path {
        Some(path) => path,
        None => repository.require(&join(module, "config.json"), "it describes the dense head")?,
    };
    let config: DenseConfig = files::read_json(&config_path)?;
    Ok(DenseFolder { name: name.to_owned(), config_path, config })
}

/// `2_Dense_1024` becomes `2_Dense_256` for 256.
fn sibling(module: &str, dim: usize) -> Option<String> {
    numbered(module).map(|(stem, _)| format!("{stem}_{dim}"))
}

/// `2_Dense` and 1024 of `2_Dense_1024`.
fn numbered(module: &str) -> Option<(&str, usize)> {
    let (stem, number) = module.rsplit_once('_')?;
    Some((stem, number.parse().ok()?))
}

fn optional<T: serde::de::DeserializeOwned + Default>(repository: &Repository, file: &str) -> Result<T> {
    repository.find(file)?.map_or_else(|| Ok(T::default()), |path| files::read_json(&path))
}
