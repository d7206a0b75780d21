//! What a request to a hub can fail with, and whether it is worth another try.

use std::io::ErrorKind;
use std::time::Duration;

use hf_hub::HFError;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};

use crate::error::HubFailure;

/// Whether the same request may fare better later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    Soon,
    /// The hub named the pause.
    After(Duration),
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: HubFailure,
    pub(super) detail: String,
    pub(super) again: Again,
}

impl Failure {
    pub(super) fn new(kind: HubFailure, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), again: Again::Never }
    }

    pub(super) fn passing(kind: HubFailure, detail: impl Into<String>) -> Self {
        Self { again: Again::Soon, ..Self::new(kind, detail) }
    }

    /// The same with a few words more in brackets.
    pub(super) fn with(mut self, note: &str) -> Self {
        self.detail = format!("{} ({note})", self.detail);
        self
    }

    /// Whether the hub may be there and well another time, so that the cache may stand in for it.
    pub(super) fn is_of_the_moment(&self) -> bool {
        matches!(self.kind, HubFailure::Network | HubFailure::Server | HubFailure::RateLimited)
    }

    /// An answer that is no success.
    pub(super) fn of_status(status: StatusCode, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let pause = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        Self::of_answer(status, text("x-error-code"), text("x-error-message"), is_html(headers), pause)
    }

    fn of_answer(
        status: StatusCode,
        code: Option<&str>,
        message: Option<&str>,
        html: bool,
        pause: Option<Duration>,
    ) -> Self {
        let again = pause.map_or(Again::Soon, Again::After);
        let said = |what: &str| match message {
            Some(message) => {
                format!("{}: {what}: {}", status.as_u16(), message.chars().take(200).collect::<String>())
            }
            None => format!("{}: {what}", status.as_u16()),
        };
        let gated = code == Some("GatedRepo");
        match status.as_u16() {
            401 | 403 if gated => Self::new(HubFailure::Forbidden, said("access must be asked for")),
            401 => Self::new(
                HubFailure::Unauthorized,
                said("not allowed without a token, or no such repository"),
            ),
            403 => Self::new(HubFailure::Forbidden, said("this token may not read the repository")),
            404 => match code {
                Some("RepoNotFound") => Self::new(HubFailure::NoRepository, said("no such repository")),
                Some("RevisionNotFound") => Self::new(HubFailure::NoRevision, said("no such revision")),
                Some("EntryNotFound") => Self::new(HubFailure::NotFound, said("no such file")),
                _ if html => Self::new(
                    HubFailure::NotAHub,
                    said("an HTML page, where a hub would say what is missing"),
                ),
                _ => Self::new(HubFailure::NotFound, said("no such file, revision or repository")),
            },
            429 => Self { kind: HubFailure::RateLimited, detail: said("too many requests"), again },
            408 | 500..=599 => Self { kind: HubFailure::Server, detail: said("the hub is not well"), again },
            _ => Self::new(HubFailure::Other, said("the hub refuses")),
        }
    }

    /// A request without a whole answer.
    pub(super) fn of_connection(error: &reqwest::Error, timeout: Duration) -> Self {
        let cause = innermost(error);
        if error.is_timeout() {
            let detail = format!("no byte came for {:.1} s", timeout.as_secs_f64());
            return Self::passing(HubFailure::Network, detail);
        }
        if error.is_builder() || error.is_redirect() {
            return Self::new(HubFailure::NotAHub, format!("no address that can be followed: {cause}"));
        }
        let what = if error.is_connect() { "no connection" } else { "broken off" };
        Self::passing(HubFailure::Network, format!("{what}: {cause}"))
    }

    /// The local disk, while a file was written.
    pub(super) fn of_disk(error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => HubFailure::NoSpace,
            _ => HubFailure::Cache,
        };
        Self::new(kind, error.to_string())
    }

    /// hf-hub's report of a request of its own.
    pub(super) fn of_hf_hub(error: &HFError, timeout: Duration) -> Self {
        let context = match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::RateLimited { context, .. } => Some(context),
            HFError::RepoNotFound { context, .. }
            | HFError::RevisionNotFound { context, .. }
            | HFError::EntryNotFound { context, .. } => context.as_ref(),
            HFError::Request { source, .. } if source.is_decode() => {
                return Self::new(HubFailure::NotAHub, format!("no list of files: {}", innermost(source)));
            }
            HFError::Request { source, .. } => return Self::of_connection(source, timeout),
            HFError::Json(_) | HFError::MalformedResponse { .. } => {
                return Self::new(HubFailure::NotAHub, error.to_string());
            }
            _ => None,
        };
        let Some(context) = context else { return Self::new(HubFailure::Other, error.to_string()) };
        let pause = match error {
            HFError::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        };
        let html = context.body.trim_start().starts_with('<');
        let message = context.server_message.as_deref();
        Self::of_answer(context.status, context.error_code.as_deref(), message, html, pause)
    }
}

/// Whether an answer says that it is a web page.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
