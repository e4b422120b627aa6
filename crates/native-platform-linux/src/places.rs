//! Directories of the host where an account that is not root may write: a list that is made now and then, because
//! making it means to look at every directory (about two seconds for a million files).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::document;
use crate::layout::Paths;
use crate::store::{self, StoreError};
use crate::{proc, sys};

/// The version of the document.
const VERSION: u32 = 1;
/// How long a list is believed, in ms.
const HOUR: u64 = 3_600_000;
/// File systems of this host that hold files. Others are views of the kernel, or somebody else's.
const LOCAL: &[&str] =
    &["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "overlay", "zfs", "bcachefs", "ramfs"];
/// What the table searches by itself, to any depth.
const SEARCHED: &[&str] = &["/tmp", "/var/tmp", "/dev/shm"];

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    version: u32,
    boot: String,
    made_ms: u64,
    /// Where all may write.
    pub(crate) world: Vec<PathBuf>,
    /// Where a group may write, with its gid. Root's own and private groups are left out.
    pub(crate) group: Vec<(PathBuf, u32)>,
}

/// How old a list may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// Whatever there is; nothing if there is none.
    Any,
    /// At most an hour: else it is made.
    Hour,
}

impl Places {
    /// The list.
    ///
    /// # Errors
    /// When it has to be made and can't be kept.
    pub(crate) fn load(paths: &Paths, age: Age) -> Result<Self, StoreError> {
        let file = paths.state.join("places.json");
        // One that can't be read is made anew: nothing depends on its past.
        let kept = document::read::<Self>(&file).ok().flatten().filter(|p| p.version == VERSION);
        match (kept, age) {
            (Some(kept), Age::Any) => return Ok(kept),
            (None, Age::Any) => return Ok(Self::default()),
            (Some(kept), Age::Hour) if kept.boot == store::boot_id() && sys::boot_time_ms() < kept.made_ms + HOUR => {
                return Ok(kept);
            }
            (_, Age::Hour) => {}
        }
        let mut made = Self::make(paths).map_err(|source| StoreError::Io { path: file.clone(), source })?;
        made.version = VERSION;
        made.boot = store::boot_id();
        made.made_ms = sys::boot_time_ms();
        document::write(&file, &made)?;
        Ok(made)
    }

    fn make(paths: &Paths) -> io::Result<Self> {
        let mut places = Self::default();
        let mut roots: Vec<PathBuf> =
            proc::mounts()?.into_iter().filter(|m| LOCAL.contains(&m.kind.as_str())).map(|m| m.point).collect();
        roots.sort();
        roots.dedup();
        let skipped = |path: &Path| {
            SEARCHED.iter().any(|s| path.starts_with(s))
                || path.starts_with(&paths.run)
                || path.starts_with(&paths.state)
        };
        for root in roots {
            // Another mount may lie over this one.
            let Ok(top) = fs::symlink_metadata(&root) else { continue };
            let mut open = vec![root];
            while let Some(dir) = open.pop() {
                if skipped(&dir) {
                    continue;
                }
                // A directory that went away in this moment, or one that even root may not list (FUSE).
                let Ok(meta) = fs::symlink_metadata(&dir) else { continue };
                if !meta.is_dir() || meta.dev() != top.dev() {
                    continue;
                }
                // Nobody but its owner and group gets below: what is there is reached through nothing else.
                let closed = meta.mode() & 0o011 == 0;
                if meta.mode() & 0o002 != 0 {
                    places.world.push(dir.clone());
                } else if meta.mode() & 0o020 != 0 && meta.gid() != 0 && meta.gid() != meta.uid() {
                    places.group.push((dir.clone(), meta.gid()));
                }
                let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
                if !closed {
                    open.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
                }
            }
        }
        places.world.sort();
        places.world.dedup();
        places.group.sort();
        places.group.dedup();
        Ok(places)
    }
}
