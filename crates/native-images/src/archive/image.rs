//! Finds the layers of an image in its archive, while it streams by, and unpacks them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::budget::Budget;
use super::error::{ArchiveError, Refusal, show};
use super::reader::{Entry, Kind, TarReader};
use super::tree::TreeWriter;
use crate::image::Layout;

/// Companion files that are kept in memory until the layout is known.
const MAX_PENDING: usize = 64;
const MAX_COMPANION: u64 = 1 << 20;
const BUFFER: usize = 256 * 1024;

/// A layer in staging: `dir/tree` and `dir/list`.
#[derive(Debug)]
pub(crate) struct StagedLayer {
    pub(crate) name: String,
    /// `sha256:` of its tar archive.
    pub(crate) digest: String,
    pub(crate) dir: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// What to look for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) layout: Layout,
}

/// Everything that came out of an archive.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) layers: Vec<StagedLayer>,
}

/// Reads the whole of `input` (a tar archive, already decoded) and unpacks its layers below `staging`.
pub(crate) fn unpack(
    input: &mut dyn Read,
    wanted: &Wanted,
    staging: &Path,
    budget: &Budget,
) -> Result<Staged, ArchiveError> {
    let mut outer = TarReader::new(HashRead::new(input), budget);
    let mut buffer = vec![0u8; BUFFER];
    let mut pending: Vec<(Entry, Vec<u8>)> = Vec::new();
    let first = if wanted.layout == Layout::Plain {
        outer.next()?
    } else {
        loop {
            let Some(entry) = outer.next()? else { break None };
            let companion = match entry.kind {
                Kind::Directory => true,
                Kind::File => {
                    entry.sparse.is_none()
                        && entry.size <= MAX_COMPANION
                        && (entry.path.ends_with(b".yml") || entry.path.ends_with(b".sha256"))
                }
                Kind::Symlink | Kind::Hardlink => false,
            };
            if !companion || pending.len() >= MAX_PENDING {
                break Some(entry);
            }
            let content = read_all(&mut outer, &mut buffer)?;
            pending.push((entry, content));
        }
    };
    let bait = match (wanted.layout, &first) {
        (Layout::Bait, _) => true,
        (Layout::Plain, _) | (Layout::Auto, None) => false,
        (Layout::Auto, Some(entry)) => inner_archive(entry).is_some(),
    };
    if bait {
        outer.get_mut().stop();
        return bait_layers(outer, pending, first, wanted, staging, budget, &mut buffer);
    }
    if pending.is_empty() && first.is_none() {
        return Err(ArchiveError::NoLayer { wanted: "entry at all".to_owned() });
    }
    let dir = layer_dir(staging, 0)?;
    let mut tree = TreeWriter::create(&dir.join("tree"), &dir.join("list"), &budget.limits)?;
    for (entry, content) in pending {
        let mut rest = &content[..];
        tree.put(&entry, |buffer| rest.read(buffer).map_err(super::reader::from_io), &mut buffer)?;
    }
    let mut next = first;
    while let Some(entry) = next {
        tree.put(&entry, |buffer| outer.content(buffer), &mut buffer)?;
        next = outer.next()?;
    }
    let (bytes, entries) = tree.finish()?;
    let digest = outer.get_mut().digest();
    let layer = StagedLayer { name: wanted.name.clone(), digest: format!("sha256:{digest}"), dir, bytes, entries };
    Ok(Staged { layers: vec![layer] })
}

/// `<name>` of an entry `<name>-<anything>/<name>.tar`.
fn inner_archive(entry: &Entry) -> Option<&str> {
    if entry.kind != Kind::File || entry.sparse.is_some() {
        return None;
    }
    let path = std::str::from_utf8(&entry.path).ok()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    let (dir, file) = (parts.next()?, parts.next()?);
    let name = file.strip_suffix(".tar").filter(|name| crate::cache::is_safe_name(name))?;
    let belongs = dir.strip_prefix(name)?.starts_with('-');
    (belongs && parts.next().is_none()).then_some(name)
}

fn bait_layers(
    mut outer: TarReader<'_, HashRead<&mut dyn Read>>,
    pending: Vec<(Entry, Vec<u8>)>,
    first: Option<Entry>,
    wanted: &Wanted,
    staging: &Path,
    budget: &Budget,
    buffer: &mut [u8],
) -> Result<Staged, ArchiveError> {
    let mut layers: Vec<StagedLayer> = Vec::new();
    let mut sums: BTreeMap<String, String> = BTreeMap::new();
    let mut lists: Vec<Vec<u8>> = Vec::new();
    let mut companion = |entry: &Entry, content: Vec<u8>, sums: &mut BTreeMap<String, String>| {
        if entry.kind != Kind::File {
            return;
        }
        sums.insert(base_name(&entry.path), hex::encode(Sha256::digest(&content)));
        if entry.path.ends_with(b".sha256") {
            lists.push(content);
        }
    };
    for (entry, content) in pending {
        companion(&entry, content, &mut sums);
    }
    let mut next = first;
    while let Some(entry) = next {
        match entry.kind {
            Kind::Directory => {}
            Kind::Symlink | Kind::Hardlink => return Err(ArchiveError::entry(&entry.path, Refusal::UnknownType)),
            Kind::File => {
                let name = inner_archive(&entry)
                    .filter(|name| *name == wanted.name || wanted.layout == Layout::Auto)
                    .map(str::to_owned);
                let listed = entry.path.ends_with(b".sha256") || entry.path.ends_with(b".yml");
                if let Some(name) = name {
                    if !layers.is_empty() {
                        return Err(ArchiveError::Entry { entry: show(&entry.path), refusal: Refusal::SecondLayer });
                    }
                    let layer = inner(&mut outer, name, layer_dir(staging, layers.len())?, budget, buffer)?;
                    sums.insert(base_name(&entry.path), layer.digest.trim_start_matches("sha256:").to_owned());
                    layers.push(layer);
                } else if listed && entry.size <= MAX_COMPANION {
                    let content = read_all(&mut outer, buffer)?;
                    companion(&entry, content, &mut sums);
                } else {
                    let mut hasher = Sha256::new();
                    loop {
                        let got = outer.content(buffer)?;
                        if got == 0 {
                            break;
                        }
                        hasher.update(&buffer[..got]);
                    }
                    sums.insert(base_name(&entry.path), hex::encode(hasher.finalize()));
                }
            }
        }
        next = outer.next()?;
    }
    if layers.is_empty() {
        return Err(ArchiveError::NoLayer { wanted: format!("{0}-<version>/{0}.tar", wanted.name) });
    }
    for list in &lists {
        check_list(list, &sums)?;
    }
    Ok(Staged { layers })
}

/// Unpacks the tar archive that is the content of the present entry.
fn inner(
    outer: &mut TarReader<'_, HashRead<&mut dyn Read>>,
    name: String,
    dir: PathBuf,
    budget: &Budget,
    buffer: &mut [u8],
) -> Result<StagedLayer, ArchiveError> {
    let content = Content { outer };
    let mut tar = TarReader::new(HashRead::new(content), budget);
    let mut tree = TreeWriter::create(&dir.join("tree"), &dir.join("list"), &budget.limits)?;
    while let Some(entry) = tar.next()? {
        tree.put(&entry, |buffer| tar.content(buffer), buffer)?;
    }
    let (bytes, entries) = tree.finish()?;
    let digest = tar.get_mut().digest();
    Ok(StagedLayer { name, digest: format!("sha256:{digest}"), dir, bytes, entries })
}

/// Lines of `sha256sum`: digits, space, space or `*`, name.
fn check_list(list: &[u8], sums: &BTreeMap<String, String>) -> Result<(), ArchiveError> {
    let text = String::from_utf8_lossy(list);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let problem = |why| ArchiveError::InnerSumFile { why, line: line.chars().take(200).collect() };
        let (digits, file) = line.split_once(char::is_whitespace).ok_or_else(|| problem("has a malformed line"))?;
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(problem("has a malformed line"));
        }
        let file = base_name(file.trim_start().trim_start_matches('*').as_bytes());
        match sums.get(&file) {
            None => return Err(problem("names a file that is not in the archive")),
            Some(sum) if sum.eq_ignore_ascii_case(digits) => {}
            Some(_) => return Err(ArchiveError::InnerSum { file }),
        }
    }
    Ok(())
}

fn base_name(path: &[u8]) -> String {
    let name = path.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn layer_dir(staging: &Path, index: usize) -> Result<PathBuf, ArchiveError> {
    let dir = staging.join(format!("layer-{index}"));
    std::fs::create_dir(&dir).map_err(|source| ArchiveError::Write { path: dir.clone(), source })?;
    Ok(dir)
}

fn read_all(tar: &mut TarReader<'_, HashRead<&mut dyn Read>>, buffer: &mut [u8]) -> Result<Vec<u8>, ArchiveError> {
    let mut content = Vec::new();
    loop {
        let got = tar.content(buffer)?;
        if got == 0 {
            return Ok(content);
        }
        content.extend_from_slice(&buffer[..got]);
    }
}

/// The content of an outer entry, as a stream.
struct Content<'a, 'b, R> {
    outer: &'a mut TarReader<'b, R>,
}

impl<R: Read> Read for Content<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.outer.content(buffer).map_err(io::Error::other)
    }
}

/// Hashes what is read through it.
struct HashRead<R> {
    inner: R,
    hasher: Option<Sha256>,
}

impl<R> HashRead<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Some(Sha256::new()) }
    }

    /// Nobody wants the digest any more.
    fn stop(&mut self) {
        self.hasher = None;
    }

    fn digest(&mut self) -> String {
        self.hasher.take().map(|hasher| hex::encode(hasher.finalize())).unwrap_or_default()
    }
}

impl<R: Read> Read for HashRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
        }
        Ok(got)
    }
}
