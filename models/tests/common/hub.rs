//! A small hub on loopback: models and data sets, ranges, lists, tokens, and whatever trouble a test wants.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use models::hub::HubSettings;
use sha2::{Digest as _, Sha256};

/// The commit of all branches until a test moves one.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the hub answers; a test may change it before it is sent.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The announced length; none is announced where it is `None`.
    pub length: Option<usize>,
    /// Send so many bytes of the body, then close.
    pub cut: Option<usize>,
    /// Send so many bytes of the body, then nothing, with the connection open.
    pub stall: Option<usize>,
}

impl Answer {
    pub fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = Some(body.len());
        Self { status, headers: vec![], body, length, cut: None, stall: None }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

type Trouble = dyn FnMut(&Request, Answer) -> Answer + Send;

/// One repository of the hub.
#[derive(Clone)]
pub struct Site {
    pub files: BTreeMap<String, Vec<u8>>,
    pub branches: BTreeMap<String, String>,
}

struct State {
    sites: Mutex<BTreeMap<String, Site>>,
    token: Option<&'static str>,
    requests: Mutex<Vec<Request>>,
    trouble: Mutex<Option<Box<Trouble>>>,
}

/// A running hub.
pub struct Hub {
    pub endpoint: String,
    state: Arc<State>,
}

impl Hub {
    /// Serves the files of a folder as `org/tiny`; with a token, to its bearers alone.
    pub fn serve(folder: &Path, token: Option<&'static str>) -> Self {
        Self::with(&[("org/tiny", files_of(folder))], token)
    }

    /// Serves repositories, data sets by the name `datasets/ORG/NAME`.
    pub fn with(sites: &[(&str, BTreeMap<String, Vec<u8>>)], token: Option<&'static str>) -> Self {
        let branches = || ["main", "v1"].map(|name| (name.to_owned(), COMMIT.to_owned())).into();
        let sites = sites
            .iter()
            .map(|(name, files)| ((*name).to_owned(), Site { files: files.clone(), branches: branches() }))
            .collect();
        let state = Arc::new(State {
            sites: Mutex::new(sites),
            token,
            requests: Mutex::default(),
            trouble: Mutex::default(),
        });
        let serving = state.clone();
        let endpoint = listen(move |stream| {
            while let Some((request, stream)) = read(stream) {
                serving.requests.lock().unwrap().push(request.clone());
                let mut answer = serving.answer(&request);
                if let Some(trouble) = serving.trouble.lock().unwrap().as_mut() {
                    answer = trouble(&request, answer);
                }
                if send(stream, &request, &answer).is_none() {
                    break;
                }
            }
        });
        Self { endpoint, state }
    }

    /// One file, `file.bin`, of `org/tiny`.
    pub fn of_file(bytes: &[u8]) -> Self {
        Self::with(&[("org/tiny", [("file.bin".to_owned(), bytes.to_vec())].into())], None)
    }

    /// Changes answers from now on.
    pub fn trouble(&self, trouble: impl FnMut(&Request, Answer) -> Answer + Send + 'static) {
        *self.state.trouble.lock().unwrap() = Some(Box::new(trouble));
    }

    pub fn no_trouble(&self) {
        *self.state.trouble.lock().unwrap() = None;
    }

    /// Changes a repository.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Site)) {
        change(self.state.sites.lock().unwrap().get_mut(name).unwrap());
    }

    /// Impatient, so that tests of silence are short.
    pub fn settings(&self, cache: &Path) -> HubSettings {
        HubSettings {
            endpoint: Some(self.endpoint.clone()),
            cache: Some(cache.to_owned()),
            timeout: Some(Duration::from_millis(600)),
            tries: Some(3),
            pause: Some(Duration::from_millis(10)),
            ..HubSettings::default()
        }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// What was asked by GET.
    pub fn fetched(&self) -> Vec<String> {
        self.requests().into_iter().filter(|r| r.method == "GET").map(|r| r.target).collect()
    }

    /// The `Range` of each GET; empty where there was none.
    pub fn ranges(&self) -> Vec<String> {
        let gets = self.requests().into_iter().filter(|request| request.method == "GET");
        gets.map(|request| request.header("range").unwrap_or_default().to_owned()).collect()
    }
}

impl State {
    fn answer(&self, request: &Request) -> Answer {
        let bearer = self.token.map(|token| format!("Bearer {token}"));
        if bearer.is_some() && request.header("authorization") != bearer.as_deref() {
            return Answer::new("401 Unauthorized", "no");
        }
        let (path, _) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let sites = self.sites.lock().unwrap();
        for (name, site) in sites.iter() {
            let api = match name.starts_with("datasets/") {
                true => format!("/api/{name}/"),
                false => format!("/api/models/{name}/"),
            };
            if let Some(rest) = path.strip_prefix(&format!("/{name}/resolve/")) {
                let (revision, file) = rest.split_once('/').unwrap();
                return match site.commit(revision) {
                    Some(commit) => site.file(&commit, &decoded(file), request),
                    None => Answer::new("404 Not Found", "").with("X-Error-Code", "RevisionNotFound"),
                };
            }
            if let Some(revision) = path.strip_prefix(&format!("{api}revision/")) {
                return match site.commit(revision) {
                    Some(sha) => json(&serde_json::json!({ "id": name, "sha": sha })),
                    None => Answer::new("404 Not Found", "").with("X-Error-Code", "RevisionNotFound"),
                };
            }
            if path.starts_with(&format!("{api}tree/")) {
                let entries: Vec<_> = site
                    .files
                    .iter()
                    .map(|(path, bytes)| {
                        serde_json::json!({"type": "file", "oid": "0", "size": bytes.len(), "path": path})
                    })
                    .collect();
                return json(&entries.into());
            }
        }
        Answer::new("404 Not Found", "").with("X-Error-Code", "RepoNotFound")
    }
}

impl Site {
    fn commit(&self, revision: &str) -> Option<String> {
        let is_commit = self.branches.values().any(|commit| commit == revision);
        is_commit.then(|| revision.to_owned()).or_else(|| self.branches.get(&decoded(revision)).cloned())
    }

    fn file(&self, commit: &str, file: &str, request: &Request) -> Answer {
        let Some(bytes) = self.files.get(file) else {
            return Answer::new("404 Not Found", "none")
                .with("X-Repo-Commit", commit)
                .with("X-Error-Code", "EntryNotFound");
        };
        let from = request
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let answer = match from {
            0 => Answer::new("200 OK", bytes.clone()),
            _ if from >= bytes.len() => Answer::new("416 Range Not Satisfiable", ""),
            _ => Answer::new("206 Partial Content", &bytes[from..])
                .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        };
        answer.with("ETag", format!("\"{}\"", sha256(bytes))).with("X-Repo-Commit", commit)
    }
}

/// Serves bytes at any address, as the storage behind a hub does; gives its root and the requests it gets.
pub fn storage(bytes: Vec<u8>) -> (String, Arc<Mutex<Vec<Request>>>) {
    let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
    let seen = requests.clone();
    let endpoint = listen(move |stream| {
        while let Some((request, stream)) = read(stream) {
            seen.lock().unwrap().push(request.clone());
            if send(stream, &request, &Answer::new("200 OK", bytes.clone())).is_none() {
                break;
            }
        }
    });
    (endpoint, requests)
}

fn listen(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(&stream));
        }
    });
    endpoint
}

fn read(stream: &TcpStream) -> Option<(Request, &TcpStream)> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next()?.ok()?;
    let headers = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let mut words = first.split(' ').map(str::to_owned);
    Some((Request { method: words.next()?, target: words.next()?, headers }, stream))
}

/// `None` when the connection is of no more use.
fn send(mut stream: &TcpStream, request: &Request, answer: &Answer) -> Option<()> {
    let mut head = format!("HTTP/1.1 {}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match answer.length {
        Some(length) => head.push_str(&format!("Content-Length: {length}\r\n\r\n")),
        None => head.push_str("Connection: close\r\n\r\n"),
    }
    stream.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    let sent = answer.cut.or(answer.stall).unwrap_or(answer.body.len()).min(answer.body.len());
    stream.write_all(&answer.body[..sent]).ok()?;
    stream.flush().ok()?;
    if answer.stall.is_some() {
        // until the client hangs up
        let _ = stream.read(&mut [0]);
        return None;
    }
    if answer.cut.is_some() || answer.length.is_none() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return None;
    }
    Some(())
}

fn json(value: &serde_json::Value) -> Answer {
    Answer::new("200 OK", value.to_string()).with("Content-Type", "application/json")
}

fn decoded(path: &str) -> String {
    path.replace("%2F", "/").replace("%20", " ")
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs_err::read_dir(&next).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs_err::read(&path).unwrap());
            }
        }
    }
    files
}
