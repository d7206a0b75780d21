//! Where a model's or a dataset's files are: a folder here, or a repository on a Hugging Face hub, through the cache
//! that Python's `huggingface_hub` uses too.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_ENDPOINT` and `HF_HUB_DOWNLOAD_TIMEOUT` mean what they
//! mean there; with `HF_HUB_OFFLINE` nothing but the cache is asked.
//!
//! hf-hub lists repositories and finds the cache. It does not fetch: its downloads begin anew after a break, wait for
//! ever on a silent connection, check neither length nor digest, and take an error page for the file. So files are
//! fetched here, through the HTTP client that hf-hub stands on.

mod cache;
mod digest;
mod download;
mod failure;
mod hub_files;
mod listing;
mod patience;
mod progress;
mod repository;
mod requests;
mod settings;

pub use listing::RepositoryFile;
pub use progress::{FetchProgress, FetchState, ProgressHandler, on_progress};
pub use repository::Repository;
pub(crate) use repository::join;
pub use settings::HubSettings;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// As the hub's addresses and the cache's folders have it.
    fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}
