//! Telling how far a fetched file is. The library prints nothing; whoever has a screen installs a handler.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// How far the fetching of one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchProgress<'a> {
    /// Repository, `organisation/name`.
    pub repository: &'a str,
    /// File within it.
    pub file: &'a str,
    /// Bytes on disk, those of an earlier call included.
    pub done: u64,
    /// Bytes of the whole file, where the hub says.
    pub total: Option<u64>,
    /// What happened.
    pub state: FetchState,
}

/// What a [`FetchProgress`] tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchState {
    /// The file is begun, or gone on with.
    Started,
    /// Some more of it is on disk.
    Advanced,
    /// The fetching ended, with the whole file or without it.
    Ended,
}

/// A function that is told of progress, from whichever thread fetches.
#[derive(Clone)]
pub struct ProgressHandler(Arc<dyn Fn(FetchProgress<'_>) + Send + Sync>);

impl ProgressHandler {
    /// Wraps a function.
    pub fn new(handler: impl Fn(FetchProgress<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(handler))
    }
}

impl fmt::Debug for ProgressHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressHandler")
    }
}

static OF_PROCESS: OnceLock<ProgressHandler> = OnceLock::new();

/// Installs the handler of all repositories that are opened with settings from the environment. The first one stays.
pub fn on_progress(handler: ProgressHandler) {
    let _ = OF_PROCESS.set(handler);
}

pub(super) fn of_process() -> Option<ProgressHandler> {
    OF_PROCESS.get().cloned()
}

/// One file on its way; says that it ended when it is dropped.
pub(super) struct Meter<'a> {
    handler: Option<&'a ProgressHandler>,
    at: FetchProgress<'a>,
}

impl<'a> Meter<'a> {
    pub(super) fn start(
        handler: Option<&'a ProgressHandler>,
        repository: &'a str,
        file: &'a str,
        done: u64,
        total: Option<u64>,
    ) -> Self {
        let meter =
            Self { handler, at: FetchProgress { repository, file, done, total, state: FetchState::Started } };
        meter.tell();
        meter
    }

    pub(super) fn at(&mut self, done: u64) {
        self.at = FetchProgress { done, state: FetchState::Advanced, ..self.at };
        self.tell();
    }

    fn tell(&self) {
        if let Some(ProgressHandler(handler)) = self.handler {
            handler(self.at);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.at.state = FetchState::Ended;
        self.tell();
    }
}
