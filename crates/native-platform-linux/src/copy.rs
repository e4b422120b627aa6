//! Copying a tree that the workload has no hand in (a cached layer, a label's `clone`) onto a fresh volume.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use nix::sys::stat::UtimensatFlags;
use nix::sys::time::TimeSpec;

use crate::{remove, sys};

/// Threads that copy files. Making an inode is most of the work, and more threads than this wait for each other.
const THREADS: usize = 4;
/// Files that wait for a thread.
const QUEUE: usize = 1024;

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Entries of every kind.
    pub(crate) entries: u64,
    /// Files whose blocks are shared with the original (`FICLONE`): both lie on one xfs or btrfs.
    pub(crate) cloned: u64,
    /// Files whose bytes were copied.
    pub(crate) copied: u64,
}

/// A file to copy.
struct Job {
    source: PathBuf,
    target: PathBuf,
    meta: Metadata,
}

/// What the threads share.
struct Shared {
    owner: Option<(u32, u32)>,
    /// Whether blocks can be shared is found out with the first file.
    clones: AtomicBool,
    cloned: AtomicU64,
    copied: AtomicU64,
    error: Mutex<Option<io::Error>>,
}

/// Copies what is in `from` into the directory `to`, over what is there: a directory merges with a directory,
/// anything else replaces what has its name. Everything copied belongs to `owner`, if one is given. Several threads
/// copy; when this returns, the process has as many as before.
///
/// # Errors
/// The first thing that can't be copied, with its path.
pub(crate) fn tree(from: &Path, to: &Path, owner: Option<(u32, u32)>) -> io::Result<Copied> {
    let shared = Shared {
        owner,
        clones: AtomicBool::new(true),
        cloned: AtomicU64::new(0),
        copied: AtomicU64::new(0),
        error: Mutex::new(None),
    };
    let (send, receive) = mpsc::sync_channel::<Job>(QUEUE);
    let receive = Mutex::new(receive);
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS);
    let walked = thread::scope(|scope| {
        let work = |_| thread::Builder::new().spawn_scoped(scope, || shared.work(&receive)).is_ok();
        let any = (0..threads).map(work).fold(false, |any, started| any | started);
        // A host that has no room for a thread gets its files copied by the walk itself.
        walk(from, to, &shared, any.then_some(send))
    });
    // A thread's error made the walk end, if it had not come to its own.
    if let Some(error) = shared.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let (entries, times) = walked?;
    for (path, meta) in &times {
        named(path, set_time(path, meta))?;
    }
    Ok(Copied { entries, cloned: shared.cloned.into_inner(), copied: shared.copied.into_inner() })
}

/// Makes everything but files, which it hands to the threads. Returns how many entries there are, and the directories,
/// whose times are to be set when all is in.
fn walk(
    from: &Path,
    to: &Path,
    shared: &Shared,
    send: Option<mpsc::SyncSender<Job>>,
) -> io::Result<(u64, Vec<(PathBuf, Metadata)>)> {
    let mut entries = 0;
    // Files with several names, by device and inode: their other names become links to the first copy.
    let mut linked = HashMap::new();
    let mut directories = vec![(from.to_owned(), to.to_owned())];
    let mut times = Vec::new();
    while let Some((from, to)) = directories.pop() {
        for entry in named(&from, fs::read_dir(&from))? {
            let source = named(&from, entry)?.path();
            let meta = named(&source, fs::symlink_metadata(&source))?;
            let target = to.join(source.file_name().unwrap_or_default());
            entries += 1;
            let kind = meta.file_type();
            if named(&target, make_way(&target, &meta))? {
                // Both are directories.
            } else if kind.is_dir() {
                named(&target, fs::create_dir(&target))?;
            } else if kind.is_symlink() {
                named(&target, fs::read_link(&source).and_then(|to| symlink(to, &target)))?;
                shared.own(&target, &meta)?;
            } else if kind.is_file() {
                let job = Job { source, target, meta };
                if job.meta.nlink() > 1 {
                    let first = linked.entry((job.meta.dev(), job.meta.ino()));
                    match first {
                        std::collections::hash_map::Entry::Occupied(first) => {
                            named(&job.target, fs::hard_link(first.get(), &job.target))?;
                        }
                        std::collections::hash_map::Entry::Vacant(first) => {
                            // At once: the next of its names may come before a thread has time.
                            first.insert(job.target.clone());
                            shared.copy(&job)?;
                        }
                    }
                } else if let Some(send) = &send {
                    // The threads live until we hang up.
                    drop(send.send(job));
                    if shared.failed() {
                        return Ok((entries, times));
                    }
                } else {
                    shared.copy(&job)?;
                }
                continue;
            } else if !kind.is_socket() {
                let what = "neither a file, a directory nor a link";
                return named(&source, Err(io::Error::new(io::ErrorKind::InvalidInput, what)));
            }
            if kind.is_dir() {
                shared.own(&target, &meta)?;
                // What is put into a directory changes its time: set it when all is in.
                times.push((target.clone(), meta));
                directories.push((source, target));
            }
        }
    }
    Ok((entries, times))
}

/// Takes away what is in the way of an entry; says whether both are directories, which merge.
fn make_way(target: &Path, meta: &Metadata) -> io::Result<bool> {
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() && meta.is_dir() => return Ok(true),
        Ok(there) if there.is_dir() => remove::tree(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(false)
}

impl Shared {
    fn failed(&self) -> bool {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Copies files until there are no more, or one can't be copied.
    fn work(&self, receive: &Mutex<mpsc::Receiver<Job>>) {
        loop {
            let job = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            // After an error the rest is only taken, so that the walk never waits for room in the queue.
            if self.failed() {
                continue;
            }
            if let Err(error) = self.copy(&job) {
                self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }

    fn copy(&self, job: &Job) -> io::Result<()> {
        let Job { source, target, meta } = job;
        let copied = (|| {
            let (mut from, mut to) = (File::open(source)?, File::create_new(target)?);
            if meta.len() > 0 && self.clones.load(Ordering::Relaxed) {
                if sys::clone_file(to.as_fd(), from.as_fd()).is_ok() {
                    self.cloned.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                self.clones.store(false, Ordering::Relaxed);
            }
            self.copied.fetch_add(1, Ordering::Relaxed);
            io::copy(&mut from, &mut to).map(drop)
        })();
        named(target, copied)?;
        self.own(target, meta)
    }

    /// Gives a copy its owner, mode and time. A directory's time comes last of all.
    fn own(&self, target: &Path, meta: &Metadata) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            named(target, lchown(target, Some(uid), Some(gid)))?;
        }
        if !meta.file_type().is_symlink() {
            // After the owner: changing that takes bits away.
            named(target, fs::set_permissions(target, fs::Permissions::from_mode(meta.mode() & 0o1777)))?;
        }
        if meta.is_dir() { Ok(()) } else { named(target, set_time(target, meta)) }
    }
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
        fs::write(low.join("dir-then-file/deep/sock"), "").unwrap();
        assert_eq!(tree(&low, &to, None).unwrap().entries, 8);
        let Copied { entries, cloned, copied } = tree(&high, &to, None).unwrap();
        assert_eq!((entries, cloned + copied), (7, 4), "one of five files is another's second name");
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
