//! What the suites share: a server that does exactly what it is told, and archives made by hand.
#![allow(dead_code, reason = "each suite uses its part")]
#![allow(clippy::allow_attributes, clippy::unwrap_used, unreachable_pub, missing_docs, reason = "shared test code")]

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use native_images::{Algo, Checksum, Events, ImageRef, Images, Layout, Limits, Policy};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub fn tempdir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("fish-").tempdir().unwrap()
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte asked for.
    pub fn range(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

/// What a server does next.
pub enum Act {
    Send(Vec<u8>),
    /// Sends in small pieces, with a pause after each.
    Drip(Vec<u8>, usize, std::time::Duration),
    /// Keeps the connection open and says nothing.
    Stall,
}

/// A server in this process.
pub struct Server {
    pub port: u16,
    pub log: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers each connection's one request by `handler`, which also learns how many came before.
    pub async fn start(handler: impl Fn(&Request, usize) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, there, count) = (Arc::new(handler), Arc::clone(&log), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let (handler, log, count) = (Arc::clone(&handler), Arc::clone(&there), Arc::clone(&count));
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                        let mut byte = [0u8; 1024];
                        match stream.read(&mut byte).await {
                            Ok(0) | Err(_) => return,
                            Ok(got) => head.extend_from_slice(&byte[..got]),
                        }
                    }
                    let request = parse(&head);
                    log.lock().unwrap().push(request.clone());
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    for act in handler(&request, number) {
                        match act {
                            Act::Send(bytes) => {
                                if stream.write_all(&bytes).await.is_err() {
                                    return;
                                }
                            }
                            Act::Drip(bytes, size, pause) => {
                                for piece in bytes.chunks(size) {
                                    if stream.write_all(piece).await.is_err() {
                                        return;
                                    }
                                    tokio::time::sleep(pause).await;
                                }
                            }
                            Act::Stall => std::future::pending::<()>().await,
                        }
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { port, log, task }
    }

    /// A file server that knows ranges.
    pub async fn file(body: Vec<u8>) -> Self {
        Self::start(move |request, _| vec![Act::Send(file_answer(request, &body, "\"one\""))]).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

fn parse(head: &[u8]) -> Request {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    Request { path, headers: lines.filter_map(header).collect() }
}

/// An answer with a head of its own making.
pub fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n").into_bytes();
    for (name, value) in headers {
        write!(bytes, "{name}: {value}\r\n").unwrap();
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// 200 with a length.
pub fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", &[("Content-Length", &body.len().to_string())], body)
}

/// What a good file server says: 200, 206 or 304.
pub fn file_answer(request: &Request, body: &[u8], etag: &str) -> Vec<u8> {
    if request.header("if-none-match") == Some(etag) {
        return answer("304 Not Modified", &[("ETag", etag)], b"");
    }
    match request.range() {
        Some(first) if first < body.len() && request.header("if-range").is_none_or(|seen| seen == etag) => {
            let range = format!("bytes {first}-{}/{}", body.len() - 1, body.len());
            let rest = &body[first..];
            let length = rest.len().to_string();
            answer(
                "206 Partial Content",
                &[("Content-Length", &length), ("Content-Range", &range), ("ETag", etag)],
                rest,
            )
        }
        _ => answer("200 OK", &[("Content-Length", &body.len().to_string()), ("ETag", etag)], body),
    }
}

pub fn sha256(bytes: &[u8]) -> Checksum {
    Checksum { algo: Algo::Sha256, digest: sha2::Sha256::digest(bytes).to_vec() }
}

pub fn image(url: &str, sum: Option<Checksum>) -> ImageRef {
    ImageRef { url: url.parse().unwrap(), sum, name: "img".into(), version: "1".into(), layout: Layout::Auto }
}

/// A policy whose waits are short enough for tests.
pub fn policy() -> Policy {
    // Two decoders also where there is one core.
    Policy { limits: quick(), threads: 2, ..Policy::default() }
}

pub fn quick() -> Limits {
    Limits { pause: std::time::Duration::from_millis(1), ..Limits::default() }
}

pub fn open(dir: &Path, policy: Policy) -> Images {
    Images::open(&dir.join("cache"), policy).unwrap()
}

pub fn none() -> Events {
    Events::none()
}

/// A header as given, with its check sum.
pub fn header(name: &[u8], flag: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let bytes = header.as_mut_bytes();
    bytes[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    bytes[156] = flag;
    header.set_size(size);
    header.set_mode(if flag == b'5' { 0o755 } else { 0o644 });
    header.set_uid(12345);
    header.set_gid(54321);
    header.set_mtime(1_600_000_000);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Sets the check sum again after a change.
pub fn resum(block: &mut [u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&block[..512]);
    header.set_cksum();
    block[..512].copy_from_slice(header.as_bytes());
}

/// Content with its padding.
pub fn padded(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(512), 0);
    bytes
}

pub fn file(name: &str, data: &[u8]) -> Vec<u8> {
    [header(name.as_bytes(), b'0', data.len() as u64, b""), padded(data)].concat()
}

pub fn dir(name: &str) -> Vec<u8> {
    header(name.as_bytes(), b'5', 0, b"")
}

pub fn symlink(name: &str, target: &str) -> Vec<u8> {
    header(name.as_bytes(), b'2', 0, target.as_bytes())
}

pub fn hardlink(name: &str, target: &str) -> Vec<u8> {
    header(name.as_bytes(), b'1', 0, target.as_bytes())
}

/// A pax header with these records.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        write!(body, "{length} {key}=").unwrap();
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    [header(b"PaxHeaders/x", b'x', body.len() as u64, b""), padded(&body)].concat()
}

/// The two blocks that end an archive.
pub fn end() -> Vec<u8> {
    vec![0; 1024]
}

pub fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), end()].concat()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// In blocks of so many bytes, as an encoder with several threads makes them.
pub fn xz_blocks(bytes: &[u8], block: u64) -> Vec<u8> {
    let stream = liblzma::stream::MtStreamBuilder::new().preset(0).threads(2).block_size(block).encoder().unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As Aquarium Bait packs it: name `img`.
pub fn bait(inner: &[u8]) -> Vec<u8> {
    let sums = format!("{}  img.tar\n", hex::encode(sha2::Sha256::digest(inner)));
    tar(&[
        dir("img-1/"),
        file("img-1/img.tar", inner),
        file("img-1/img.yml", b"---\n"),
        file("img-1/img.sha256", sums.as_bytes()),
    ])
}

/// Bytes that do not compress, the same on every run.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A small tree with everything a normal image has.
pub fn usual() -> Vec<u8> {
    tar(&[
        dir("./"),
        dir("./bin/"),
        file("./bin/run.sh", b"#!/bin/sh\necho ok\n"),
        file("./data", &noise(300_000, 7)),
        symlink("./link", "/usr/bin/env"),
        hardlink("./hard", "./bin/run.sh"),
        file("./deep/er/file", b"x"),
    ])
}

/// Every path below `root` with what it is: for comparing before and after.
pub fn snapshot(root: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
        use std::os::unix::fs::MetadataExt as _;

        let mut entries: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                hex::encode(&sha2::Sha256::digest(std::fs::read(&path).unwrap())[..8])
            } else if meta.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else {
                String::new()
            };
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            let times = format!("{}.{}", meta.mtime(), meta.mtime_nsec());
            found.push(format!("{shown} {:o} {} {} {times} {content}", meta.mode(), meta.uid(), meta.nlink()));
            if meta.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found
}

/// Whether nothing of any image is in the cache.
pub fn assert_empty(dir: &Path) {
    for part in ["blobs", "layers", "staging", "pins"] {
        let left: Vec<_> =
            std::fs::read_dir(dir.join("cache").join(part)).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{part}: {left:?}");
    }
}

/// Polls until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
