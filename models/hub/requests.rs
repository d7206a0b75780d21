//! The two requests that a file takes: what it is (HEAD), and its bytes (GET).

use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE, TRANSFER_ENCODING,
};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url, Version};
use tokio::runtime::Runtime;

use super::Kind;
use super::failure::{Failure, is_html};
use super::patience::Patience;
use crate::error::HubFailure;

pub(super) const USER_AGENT: &str = concat!("inverse-stella/", env!("CARGO_PKG_VERSION"));
const MOST_REDIRECTS: usize = 5;

/// A connection to one repository of a hub.
pub(super) struct Requests {
    root: Url,
    token: Option<String>,
    /// Follows no redirects: the hub's own headers are on the first answer, not on that of the storage behind it.
    heads: Client,
    /// Follows them, and leaves the token behind where they lead to another host.
    bodies: Client,
    runtime: Runtime,
    pub(super) patience: Patience,
}

/// What the hub says of a file before it is fetched.
#[derive(Debug)]
pub(super) struct Promise {
    pub(super) commit: String,
    /// Name of the content; a digest, with few exceptions.
    pub(super) etag: String,
    /// Bytes, where it says so.
    pub(super) size: Option<u64>,
}

/// What the hub says to the question for a file.
#[derive(Debug)]
pub(super) enum Asked {
    There(Promise),
    Missing {
        /// The commit that has no such file, where that was said.
        commit: Option<String>,
    },
}

/// The bytes of a file from `from` on.
pub(super) struct Body {
    response: Response,
    pub(super) from: u64,
    /// Bytes that this answer announces.
    pub(super) length: Option<u64>,
    /// Whether an end that is no error is the sender's own word, and not a connection that was cut.
    pub(super) says_its_end: bool,
}

/// A client whose connections are given up when they fall silent.
pub(super) fn client(timeout: Duration) -> ClientBuilder {
    Client::builder().user_agent(USER_AGENT).read_timeout(timeout).connect_timeout(timeout)
}

impl Requests {
    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        patience: Patience,
        kind: Kind,
        id: [&str; 2],
    ) -> Result<Self, Failure> {
        let unusable = |reason: String| {
            Failure::new(HubFailure::NotAHub, format!("the endpoint {endpoint:?}: {reason}"))
        };
        let mut root = Url::parse(endpoint).map_err(|error| unusable(error.to_string()))?;
        {
            let mut segments =
                root.path_segments_mut().map_err(|()| unusable("no address of a server".into()))?;
            segments.pop_if_empty();
            if kind == Kind::Dataset {
                segments.push(kind.plural());
            }
            segments.extend(id).push("resolve");
        }
        let built = |error: reqwest::Error| Failure::of_connection(&error, patience.timeout);
        Ok(Self {
            root,
            token,
            heads: client(patience.timeout).redirect(Policy::none()).build().map_err(built)?,
            bodies: client(patience.timeout).build().map_err(built)?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::of_disk(&error))?,
            patience,
        })
    }

    fn address(&self, revision: &str, file: &str) -> Url {
        let mut url = self.root.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // a revision is one part, even with a `/` in it
            segments.push(revision).extend(file.split('/'));
        }
        url
    }

    fn request(&self, request: RequestBuilder) -> RequestBuilder {
        // lengths are of the bytes as they are
        let request = request.header(ACCEPT_ENCODING, "identity");
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Asks what a file is, once.
    pub(super) fn ask(&self, revision: &str, file: &str) -> Result<Asked, Failure> {
        self.runtime.block_on(self.ask_once(self.address(revision, file)))
    }

    async fn ask_once(&self, mut url: Url) -> Result<Asked, Failure> {
        let mut said = Said::default();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.request(self.heads.head(url.clone())).send().await;
            let response = response.map_err(|error| self.broken(&error))?;
            let (status, headers) = (response.status(), response.headers());
            said.hear(status, headers);
            if status == StatusCode::NOT_FOUND {
                return missing(status, headers, said);
            }
            if !status.is_success() && !status.is_redirection() {
                return Err(Failure::of_status(status, headers));
            }
            // a renamed repository, or the hub's own store; the token stays on its host
            match relative_location(headers).and_then(|to| url.join(to).ok()) {
                // the token goes along, so to the hub alone: an odd path can name another host
                Some(next) if status.is_redirection() && next.origin() == url.origin() => url = next,
                _ => return said.promise(status, headers).map(Asked::There),
            }
        }
        Err(Failure::new(HubFailure::NotAHub, format!("more than {MOST_REDIRECTS} redirects")))
    }

    /// Asks for the bytes of a file of a commit, once; those from `from` on, where the server can leave the first out.
    pub(super) fn body(&self, commit: &str, file: &str, from: u64) -> Result<Body, Failure> {
        self.runtime.block_on(async {
            let mut request = self.request(self.bodies.get(self.address(commit, file)));
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await.map_err(|error| self.broken(&error))?;
            let (status, headers) = (response.status(), response.headers());
            let length = number(headers, CONTENT_LENGTH.as_str());
            let begin = match status {
                StatusCode::OK => 0,
                StatusCode::PARTIAL_CONTENT => range_start(headers).unwrap_or(from),
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    let detail = format!("416: the server has no bytes from {from} on");
                    return Err(Failure::new(HubFailure::Damaged, detail));
                }
                _ => return Err(Failure::of_status(status, headers)),
            };
            let says_its_end = length.is_some()
                || headers.contains_key(TRANSFER_ENCODING)
                || response.version() >= Version::HTTP_2;
            Ok(Body { response, from: begin, length, says_its_end })
        })
    }

    /// The next bytes of an answer; `None` at its end.
    pub(super) fn chunk(&self, body: &mut Body) -> Result<Option<impl AsRef<[u8]> + use<>>, Failure> {
        self.runtime.block_on(body.response.chunk()).map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        Failure::of_connection(error, self.patience.timeout)
    }
}

/// What the answers along relative redirects said; the first word of each header holds.
#[derive(Default)]
struct Said {
    commit: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
}

impl Said {
    fn hear(&mut self, status: StatusCode, headers: &HeaderMap) {
        let commit = || text(headers, "x-repo-commit").filter(|commit| is_name(commit)).map(str::to_owned);
        self.commit = self.commit.take().or_else(commit);
        let etag =
            || text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str())).and_then(plain_tag);
        self.etag = self.etag.take().or_else(etag);
        // the length of a redirect is that of its own text
        let length = || number(headers, CONTENT_LENGTH.as_str()).filter(|_| status.is_success());
        self.size = self.size.or_else(|| number(headers, "x-linked-size")).or_else(length);
    }

    fn promise(self, status: StatusCode, headers: &HeaderMap) -> Result<Promise, Failure> {
        match (self.commit, self.etag) {
            (Some(commit), Some(etag)) => Ok(Promise { commit, etag, size: self.size }),
            _ => {
                let what = if is_html(headers) { "an HTML page" } else { "an answer" };
                let detail = format!(
                    "{}: {what} without X-Repo-Commit and ETag, which every hub sends",
                    status.as_u16()
                );
                Err(Failure::new(HubFailure::NotAHub, detail))
            }
        }
    }
}

fn missing(status: StatusCode, headers: &HeaderMap, said: Said) -> Result<Asked, Failure> {
    match text(headers, "x-error-code") {
        Some("EntryNotFound") => Ok(Asked::Missing { commit: said.commit }),
        None if said.commit.is_some() => Ok(Asked::Missing { commit: said.commit }),
        _ => Err(Failure::of_status(status, headers)),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// `Content-Range: bytes 5-9/10`
fn range_start(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

fn relative_location(headers: &HeaderMap) -> Option<&str> {
    let location = text(headers, LOCATION.as_str())?;
    (location.starts_with('/') && !location.starts_with("//")).then_some(location)
}

/// An entity tag without its quotes, if it can be a file's name.
fn plain_tag(tag: &str) -> Option<String> {
    let plain = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
    is_name(plain).then(|| plain.to_owned())
}

/// What a server says becomes part of a path.
fn is_name(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=200).contains(&word.len()) && word.chars().all(allowed) && !word.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_are_no_names_are_refused() {
        assert_eq!(plain_tag("W/\"ab-1\"").as_deref(), Some("ab-1"));
        assert_eq!([plain_tag("\"../../x\""), plain_tag("\"\""), plain_tag("..")], [None, None, None]);
    }
}
