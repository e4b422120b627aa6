//! What an account can leave outside of its own volumes: files in places where everybody may write, and SysV IPC.
//!
//! With `isolation: private` the workload has its own of all of these and there is nothing to find. The search is
//! made all the same: it costs little, and with `isolation: basic` it is what the promise rests on.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{remove, sys};

/// Directories where an account can leave a file. Spools are among them because cron and at write there on behalf
/// of the account, and run what they find there as that uid later.
const PLACES: [&str; 11] = [
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/dev/mqueue",
    "/run/lock",
    "/run/user",
    "/var/spool/cron/crontabs",
    "/var/spool/cron/atjobs",
    "/var/spool/at",
    "/var/mail",
    "/var/lib/systemd/linger",
];

/// One thing that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A file or a directory.
    File(PathBuf),
    /// SysV shared memory, semaphores or a message queue, by its id.
    Ipc(&'static str, i32),
}

impl Leftover {
    /// The kind and the place, as an audit tells them.
    pub(crate) fn describe(&self) -> (&'static str, String) {
        match self {
            Self::File(path) => ("file", path.display().to_string()),
            Self::Ipc(kind, id) => ("ipc", format!("{kind} {id}")),
        }
    }

    fn remove(&self) -> io::Result<()> {
        match self {
            Self::File(path) if fs::symlink_metadata(path)?.is_dir() => remove::tree(path),
            Self::File(path) => fs::remove_file(path),
            Self::Ipc(kind, id) => sys::ipc_remove(kind, *id),
        }
    }
}

/// Everything of this uid (or of the account's name, where a file is called after it).
///
/// # Errors
/// When a place that is there can't be searched: then nothing may be said to be clean.
pub(crate) fn find(uid: u32, name: &str) -> io::Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let mut places: Vec<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    while let Some(place) = places.pop() {
        let entries = match fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(io::Error::new(e.kind(), format!("list {}: {e}", place.display()))),
        };
        for entry in entries {
            let entry = entry?;
            // What went away in this moment is not left.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.uid() == uid || entry.file_name() == name {
                found.push(Leftover::File(entry.path()));
            } else if meta.is_dir() && meta.mode() & 0o002 != 0 {
                // Somebody else's directory that everybody may write to.
                places.push(entry.path());
            }
        }
    }
    for kind in ["shm", "sem", "msg"] {
        match fs::read_to_string(Path::new("/proc/sysvipc").join(kind)) {
            Ok(text) => found.extend(parse_ipc(&text, uid).into_iter().map(|id| Leftover::Ipc(kind, id))),
            // A kernel without SysV IPC keeps none.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io::Error::new(e.kind(), format!("list SysV {kind}: {e}"))),
        }
    }
    Ok(found)
}

/// Removes everything of this uid. No process of it may live any more. What can't be removed is the audit's to tell.
pub(crate) fn clean(uid: u32, name: &str) -> io::Result<()> {
    for leftover in find(uid, name)? {
        drop(leftover.remove());
    }
    Ok(())
}

/// The ids of the rows whose `uid` or `cuid` is this one. The columns are named in the first line.
fn parse_ipc(text: &str, uid: u32) -> Vec<i32> {
    let mut lines = text.lines();
    let Some(header) = lines.next() else { return Vec::new() };
    let column = |name: &str| header.split_whitespace().position(|c| c == name);
    let (Some(owner), Some(maker)) = (column("uid"), column("cuid")) else { return Vec::new() };
    let uid = uid.to_string();
    let ours = |fields: &[&str]| fields.get(owner) == Some(&uid.as_str()) || fields.get(maker) == Some(&uid.as_str());
    let rows = lines.map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|f| ours(f));
    rows.filter_map(|f| f.get(1)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ipc_by_owner_and_by_maker() {
        let text = "       key      shmid perms size cpid lpid nattch uid gid cuid cgid\n\
                    0 5 600 4096 1 1 0 70001 70001 70001 70001\n\
                    0 6 600 4096 1 1 0 0 0 70001 0\n\
                    0 7 600 4096 1 1 0 700010 0 0 0\n";
        assert_eq!(parse_ipc(text, 70001), [5, 6]);
        assert!(parse_ipc("", 70001).is_empty());
    }
}
