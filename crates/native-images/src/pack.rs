//! Makes an image of the shape that Aquarium Bait makes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use liblzma::stream::{Check, MtStreamBuilder, Stream};
use sha2::{Digest as _, Sha256};

use crate::cache::is_safe_name;
use crate::error::PackError;
use crate::image::{Algo, Checksum};

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// xz level, 0 to 9.
    pub level: u32,
    /// Encoder threads; more than one makes several blocks, which also decode on several cores.
    pub threads: u32,
    /// Uncompressed bytes of a block, with several threads. 0: as xz chooses (three dictionaries).
    pub block_size: u64,
    /// The time in the image's version, seconds since 1970. `None`: now. The same time and content make the same bytes.
    pub timestamp: Option<i64>,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { level: 6, threads: 1, block_size: 0, timestamp: None }
    }
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The archive.
    pub path: PathBuf,
    /// Its sha256.
    pub sum: Checksum,
    /// The image's name.
    pub name: String,
    /// The image's version, `<YYYYMMDD.HHMMSS>_<sum8>`.
    pub version: String,
    /// What the manifest in it says.
    pub manifest: String,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Files, directories and links in it.
    pub entries: u64,
}

/// Packs the content of `dir` as image `name` into `out_dir/NAME-<YYYYMMDD.HHMMSS>_<sum8>.tar.xz`.
///
/// # Errors
/// When something can not be read, is no file, directory or link, or the archive can not be written.
#[expect(
    clippy::disallowed_methods,
    reason = "the version of an image is the time it was packed at, as with Aquarium Bait"
)]
pub fn pack(dir: &Path, name: &str, out_dir: &Path, options: &PackOptions) -> Result<Packed, PackError> {
    if !is_safe_name(name) {
        return Err(PackError::Name { name: name.to_owned() });
    }
    let wrote = |source| PackError::Write { path: out_dir.to_owned(), source };
    fs::create_dir_all(out_dir).map_err(wrote)?;
    let seconds = options.timestamp.unwrap_or_else(|| jiff::Timestamp::now().as_second());
    let time = jiff::Timestamp::from_second(seconds).map_err(|error| wrote(io::Error::other(error)))?;

    let mut inner = tempfile::Builder::new().prefix(".fish-pack-").tempfile_in(out_dir).map_err(wrote)?;
    let mut hashed = HashWrite { inner: BufWriter::new(inner.as_file_mut()), hasher: Sha256::new(), bytes: 0 };
    let entries = pack_tree(dir, &mut hashed, wrote)?;
    let inner_sum = hex::encode(hashed.hasher.clone().finalize());
    let inner_bytes = hashed.bytes;
    drop(hashed);

    let version = format!("{}_{}", time.strftime("%Y%m%d.%H%M%S"), &inner_sum[..8]);
    let manifest = format!(
        "---\n# Made by fish-native {}\nname: {name}\nversion: {version}\nfile: {name}.tar\nsize: {inner_bytes}\n\
         entries: {entries}\nsha256: {inner_sum}\n",
        env!("CARGO_PKG_VERSION"),
    );
    let manifest_sum = hex::encode(Sha256::digest(manifest.as_bytes()));
    let sums = format!("{inner_sum}  {name}.tar\n{manifest_sum}  {name}.yml\n");

    let path = out_dir.join(format!("{name}-{version}.tar.xz"));
    let wrote = |source| PackError::Write { path: path.clone(), source };
    let mut outer = tempfile::Builder::new().prefix(".fish-pack-").tempfile_in(out_dir).map_err(wrote)?;
    let hashed = HashWrite { inner: BufWriter::new(outer.as_file_mut()), hasher: Sha256::new(), bytes: 0 };
    let encoder = encoder(options).map_err(|error| wrote(io::Error::other(error)))?;
    let finished = (|| {
        let mut tar = tar::Builder::new(liblzma::write::XzEncoder::new_stream(hashed, encoder));
        let top = format!("{name}-{version}");
        let mut header = header(tar::EntryType::Directory, 0o755, 0, seconds);
        tar.append_data(&mut header, format!("{top}/"), io::empty())?;
        for (file, content) in [("yml", manifest.as_bytes()), ("sha256", sums.as_bytes())] {
            let mut header = self::header(tar::EntryType::Regular, 0o644, content.len() as u64, seconds);
            tar.append_data(&mut header, format!("{top}/{name}.{file}"), content)?;
        }
        inner.as_file_mut().rewind()?;
        let mut header = self::header(tar::EntryType::Regular, 0o644, inner_bytes, seconds);
        tar.append_data(&mut header, format!("{top}/{name}.tar"), BufReader::new(inner.as_file_mut()))?;
        let mut hashed = tar.into_inner()?.finish()?;
        hashed.flush()?;
        Ok((hashed.hasher.finalize().to_vec(), hashed.bytes))
    })();
    let (digest, bytes) = finished.map_err(wrote)?;
    outer.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(wrote)?;
    outer.as_file().sync_all().map_err(wrote)?;
    outer.persist(&path).map_err(|error| wrote(error.error))?;
    let sum = Checksum { algo: Algo::Sha256, digest };
    Ok(Packed { path, sum, name: name.to_owned(), version, manifest, bytes, entries })
}

fn encoder(options: &PackOptions) -> Result<Stream, liblzma::stream::Error> {
    if options.threads <= 1 && options.block_size == 0 {
        return Stream::new_easy_encoder(options.level.min(9), Check::Crc64);
    }
    let mut builder = MtStreamBuilder::new();
    builder.preset(options.level.min(9)).threads(options.threads.max(1)).block_size(options.block_size);
    builder.check(Check::Crc64).encoder()
}

fn header(kind: tar::EntryType, mode: u32, size: u64, mtime: i64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header
}

/// Writes the tar archive of a directory's content, sorted by name. Returns how many entries it has.
fn pack_tree(dir: &Path, out: &mut impl Write, wrote: impl Fn(io::Error) -> PackError) -> Result<u64, PackError> {
    let mut tar = tar::Builder::new(out);
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut entries = 0;
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        let path = dir.join(&relative);
        let read = |source| PackError::Read { path: path.clone(), source };
        let root = relative.as_os_str().is_empty();
        let meta = if root { fs::metadata(&path) } else { fs::symlink_metadata(&path) }.map_err(read)?;
        let kind = meta.file_type();
        let mode = meta.permissions().mode() & 0o777;
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>())
                .map_err(read)?;
            names.sort_unstable_by(|a, b| b.cmp(a));
            todo.extend(names.into_iter().map(|name| relative.join(name)));
            if !root {
                let mut header = header(tar::EntryType::Directory, mode, 0, meta.mtime());
                tar.append_data(&mut header, &relative, io::empty()).map_err(&wrote)?;
                entries += 1;
            }
            continue;
        }
        entries += 1;
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(read)?;
            let mut header = header(tar::EntryType::Symlink, 0o777, 0, meta.mtime());
            tar.append_link(&mut header, &relative, &target).map_err(&wrote)?;
        } else if kind.is_file() {
            if meta.nlink() > 1 {
                if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
                    let mut header = header(tar::EntryType::Link, mode, 0, meta.mtime());
                    tar.append_link(&mut header, &relative, first).map_err(&wrote)?;
                    continue;
                }
                links.insert((meta.dev(), meta.ino()), relative.clone());
            }
            let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
            let file = File::options().read(true).custom_flags(flags).open(&path).map_err(read)?;
            // A file that grows or shrinks meanwhile must not shift what follows it.
            let mut content = Exactly { inner: file.take(meta.len()), left: meta.len() };
            let mut header = header(tar::EntryType::Regular, mode, meta.len(), meta.mtime());
            tar.append_data(&mut header, &relative, &mut content).map_err(&wrote)?;
        } else {
            return Err(PackError::Kind { path });
        }
    }
    tar.into_inner().and_then(|out| out.flush()).map_err(wrote)?;
    Ok(entries)
}

/// Gives exactly so many bytes, or an error.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.left -= got as u64;
        if got == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was packed"));
        }
        Ok(got)
    }
}

struct HashWrite<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for HashWrite<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let wrote = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..wrote]);
        self.bytes += wrote as u64;
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
