//! Curation: which documents are fit to become pairs, and in which split each goes.
//!
//! [`Curator::examine`] looks at one document alone and may run on all cores. What needs to know the other documents,
//! removing duplicates, goes by the fingerprints and the bands it leaves ([`Curated::key`], [`Curated::bands`]).

mod config;
mod curator;
mod drops;
mod duplicates;
mod exclusion;
mod near_duplicates;
mod normalize;
mod quality;
mod split;

pub use config::{CurationConfig, TooLong, Whitespace};
pub use curator::{CountTokens, Curated, Curator, Verdict};
pub use drops::{Drops, Filter};
pub use duplicates::{fingerprint, normal_form};
pub use exclusion::Exclusion;
pub(crate) use exclusion::exclusion_files;
pub use near_duplicates::{MinHash, NearDuplicatesConfig};
pub use normalize::normalize;
pub use split::{Split, SplitConfig, split_key, split_of};
