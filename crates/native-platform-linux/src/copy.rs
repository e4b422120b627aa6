//! Copying a tree that the workload has no hand in (a cached layer, a label's `clone`) onto a fresh volume.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::UtimensatFlags;
use nix::sys::time::TimeSpec;

use crate::remove;

/// Copies what is in `from` into the directory `to`, over what is there: a directory merges with a directory,
/// anything else replaces what has its name. Everything copied belongs to `owner`, if one is given. Returns how
/// many entries were copied.
///
/// # Errors
/// The first thing that can't be copied, with its path.
pub(crate) fn tree(from: &Path, to: &Path, owner: Option<(u32, u32)>) -> io::Result<u64> {
    let mut copied = 0;
    // Files with several names, by device and inode: their other names become links to the first copy.
    let mut linked = HashMap::new();
    let mut directories = vec![(from.to_owned(), to.to_owned())];
    let mut times = Vec::new();
    while let Some((from, to)) = directories.pop() {
        for entry in named(&from, fs::read_dir(&from))? {
            let source = named(&from, entry)?.path();
            let meta = named(&source, fs::symlink_metadata(&source))?;
            let target = to.join(source.file_name().unwrap_or_default());
            let is_dir = named(&target, one(&source, &meta, &target, &mut linked))?;
            if let Some((uid, gid)) = owner {
                named(&target, lchown(&target, Some(uid), Some(gid)))?;
            }
            if !meta.file_type().is_symlink() {
                // After the owner: changing that takes bits away.
                named(&target, fs::set_permissions(&target, fs::Permissions::from_mode(meta.mode() & 0o1777)))?;
            }
            if is_dir {
                // What is put into a directory changes its time: set it when all is in.
                times.push((target.clone(), meta));
                directories.push((source, target));
            } else {
                named(&target, set_time(&target, &meta))?;
            }
            copied += 1;
        }
    }
    for (path, meta) in &times {
        named(path, set_time(path, meta))?;
    }
    Ok(copied)
}

/// Copies one entry without its owner and mode; says whether it is a directory.
fn one(source: &Path, meta: &Metadata, target: &Path, linked: &mut HashMap<(u64, u64), PathBuf>) -> io::Result<bool> {
    let kind = meta.file_type();
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() && kind.is_dir() => return Ok(true),
        Ok(there) if there.is_dir() => remove::tree(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    if kind.is_dir() {
        fs::create_dir(target)?;
        return Ok(true);
    }
    if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
    } else if kind.is_file() {
        let key = (meta.dev(), meta.ino());
        if meta.nlink() > 1
            && let Some(first) = linked.get(&key)
        {
            fs::hard_link(first, target)?;
        } else {
            fs::copy(source, target)?;
            if meta.nlink() > 1 {
                linked.insert(key, target.to_owned());
            }
        }
    } else if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file, a directory nor a link"));
    }
    Ok(false)
}

fn set_time(path: &Path, meta: &Metadata) -> io::Result<()> {
    let time = TimeSpec::new(meta.mtime(), meta.mtime_nsec());
    let done = nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink);
    Ok(done?)
}

fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_tree_overrides_an_earlier_one_whatever_the_kinds() {
        let dir = tempfile::Builder::new().prefix("fish-copy-").tempdir().unwrap();
        let (low, high, to) = (dir.path().join("low"), dir.path().join("high"), dir.path().join("to"));
        for d in ["low/both", "low/dir-then-file/deep", "high/both", "high/file-then-dir", "to"] {
            fs::create_dir_all(dir.path().join(d)).unwrap();
        }
        fs::write(low.join("both/low"), "low").unwrap();
        fs::write(low.join("both/x"), "low").unwrap();
        fs::write(low.join("file-then-dir"), "").unwrap();
        symlink("/etc", low.join("link-then-file")).unwrap();
        fs::write(high.join("both/x"), "high").unwrap();
        fs::write(high.join("dir-then-file"), "").unwrap();
        fs::write(high.join("file-then-dir/in"), "").unwrap();
        fs::write(high.join("link-then-file"), "mine").unwrap();
        fs::hard_link(high.join("both/x"), high.join("both/y")).unwrap();
        fs::set_permissions(high.join("both/x"), fs::Permissions::from_mode(0o4755)).unwrap();
        tree(&low, &to, None).unwrap();
        tree(&high, &to, None).unwrap();
        let read = |p: &str| fs::read_to_string(to.join(p)).unwrap();
        assert_eq!(
            (read("both/low"), read("both/x"), read("link-then-file")),
            ("low".into(), "high".into(), "mine".into())
        );
        assert!(to.join("dir-then-file").is_file() && to.join("file-then-dir/in").is_file());
        let (x, y) = (fs::metadata(to.join("both/x")).unwrap(), fs::metadata(to.join("both/y")).unwrap());
        assert_eq!((x.ino(), x.mode() & 0o7777), (y.ino(), 0o755), "links stay links, set-uid bits go");
    }
}
