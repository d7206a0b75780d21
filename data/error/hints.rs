//! What a user can do about each failure.

use std::io;

use super::{Error, FORMATS};

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Io(error) => return models::error::io_hint(error),
            Error::Read { path, source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => format!("make {} readable", path.display()),
                _ => "the file is damaged or cut short: fetch or make it again".into(),
            },
            Error::Row { .. } => "correct the row, or leave out `strict` to have such rows skipped and counted".into(),
            Error::Line { .. } => "correct the line, or take it out".into(),
            Error::MalformedRows { .. } => {
                "correct the rows and build in another folder, or leave out `strict` to have such rows skipped".into()
            }
            Error::Missing { .. } => {
                "check `path`; a relative path starts at the folder the command is run in, ~ and $VARIABLES are filled in"
                    .into()
            }
            Error::NothingMatches { .. } => "check `path`; a * stands for any part of one file or folder name".into(),
            Error::NoHubFiles { .. } => {
                "check `path`: a file or folder of the repository, where * stands for any part of one name and ** for any \
                 folders; offline, only what is in the cache is seen"
                    .into()
            }
            Error::Parquet { .. } => {
                "the file is damaged, cut short or no Parquet: fetch or make it again, or check `format`".into()
            }
            Error::UnsetVariable { variable, .. } => format!("set {variable}, or write the path out"),
            Error::NoFiles { .. } => {
                format!("name the files in `path`, or set `format` to what they are; the formats: {FORMATS}")
            }
            Error::EmptyCorpus { met: 1.., rows: 0, .. } => {
                "raise `share`, or leave it out: of so few rows it takes none".into()
            }
            Error::EmptyCorpus { malformed, .. } if *malformed > 0 => {
                format!("check `format`, `columns` and `header` against the file; the formats: {FORMATS}")
            }
            Error::EmptyCorpus { .. } | Error::EmptyFile { .. } => {
                "check that the file is the right one and that it is complete".into()
            }
            Error::NoColumn { .. } => {
                "set `columns` to one of these, or to numbers counted from 0; `header` says whether the first row names them"
                    .into()
            }
            Error::Layout { .. } => format!("check `format`; the formats: {FORMATS}"),
            Error::Setting { key, .. } => format!("change {key} in the recipe, or give --set {key}=VALUE"),
            Error::Stopped => "run the same command again to go on".into(),
            Error::NoPairs { .. } => "check the corpora's `columns`, and relax the rules of [curation]".into(),
            Error::EmptyShards => "set pairs.shard_rows to 16384 or so".into(),
            Error::ForeignShard { .. } | Error::OtherPairSet { .. } => {
                "build in another folder, or remove this one first".into()
            }
            Error::Json { .. } => "the file is damaged: build again, or restore it".into(),
            Error::NotShared { .. } => {
                "all processes need the same pairs.dir on one file system: build on one machine, or in a shared folder".into()
            }
            Error::ShardWithoutRank { .. } => {
                "the folder is not the same for all of them, or was changed meanwhile: run the same command again".into()
            }
            Error::BuildLocked { .. } => "wait for the other process, or build in another folder".into(),
            Error::NotAPairSet { unfinished: true, .. } => {
                "run `inverse-stella pairs build` again with the same recipe to go on".into()
            }
            Error::NotAPairSet { .. } => "give a folder that `inverse-stella pairs build` made".into(),
            Error::PairSetFormat { .. } => {
                "build it again with this version, in another folder or after removing this one".into()
            }
            Error::NoSuchPrompt { .. } => {
                "choose one of these, or build a pair set whose recipe names it in encoder.prompts".into()
            }
            Error::DamagedShard { .. } | Error::ShardSize { .. } | Error::ShardDigest { .. } => {
                "restore the file from a copy, or remove the folder and build again".into()
            }
            Error::DamagedPartition { .. } => "remove the folder of the unfinished build and build again".into(),
            Error::BadVector { half: true, .. } => "set pairs.storage = \"f32\"".into(),
            Error::BadVector { .. } => {
                "the encoder overflows on this text: set encoder.dtype = \"f32\", or leave the text out".into()
            }
            Error::VectorWidth { .. } | Error::VectorShape { .. } => {
                "use the encoder that the pair set was made with".into()
            }
            Error::Models(error) => return error.hint(),
            Error::TorchExt(error) => return error.hint(),
            Error::TooManyPairs { .. } | Error::Arrow { .. } | Error::Tensor(_) => return None,
        })
    }
}
