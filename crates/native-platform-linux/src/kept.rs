//! Disks that are kept for the next environment which asks for the same name and label.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use native_platform::{CommandSpec, StepError, StepKind, VolumeStep};

use crate::commands::Tools;
use crate::layout::{self, Paths};
use crate::store::Record;
use crate::{template, volume};

fn failed(what: impl Into<String>) -> StepError {
    StepError::failed(StepKind::Volume, what)
}

/// The image of a disk that is kept for the next environment, and whether it is a new one. That gets its name when it is
/// whole.
pub(crate) fn image(
    tools: &Tools,
    paths: &Paths,
    record: &Record,
    step: &VolumeStep,
    bytes: u64,
    spec: &CommandSpec,
) -> Result<(File, bool), StepError> {
    let path = path_of(paths, record, step)?;
    if let Some(image) = take(&path)? {
        return Ok((image, false));
    }
    let image = volume::nameless(path.parent().unwrap_or(&record.scope.dir))?;
    // Disks that are kept are few, and people see their labels.
    let label: String =
        step.label.as_deref().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    template::make(tools, spec, if label.is_empty() { "fish" } else { &label }, bytes, &image)?;
    lock(&image, &path)?;
    volume::name(&image, &path).map_err(|e| volume::doing(format!("keep an image as {}", path.display()))(e))?;
    Ok((image, true))
}

/// Where a disk that is kept for the next environment lies: beside the environments of its workspace, or, as for
/// [`volume::directory`], among root's records.
fn path_of(paths: &Paths, record: &Record, step: &VolumeStep) -> Result<PathBuf, StepError> {
    let dir = match record.caller {
        0 => record.scope.dir.parent().unwrap_or(&record.scope.dir).join("kept"),
        caller => paths.state.join(format!("kept-{caller}")),
    };
    volume::make_dir(&dir, 0o700)?;
    let label = step.label.as_deref().unwrap_or_default();
    let label: String = label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    Ok(dir.join(format!("{}@{label}.img", layout::tag(&step.volume))))
}

/// The disk that an earlier environment left, if there is one.
fn take(path: &Path) -> Result<Option<File>, StepError> {
    match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(image) => lock(&image, path).map(|()| Some(image)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(volume::doing(format!("open {}", path.display()))(e)),
    }
}

/// Takes a kept disk for this environment alone. The loop device holds the open file, and so the lock, until the
/// environment's last process has ended.
fn lock(image: &File, path: &Path) -> Result<(), StepError> {
    image.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => {
            failed(format!("the kept disk {} is in use by another environment", path.display()))
                .hint("wait for that environment, or give the disk another name or label")
        }
        TryLockError::Error(e) => volume::doing(format!("lock {}", path.display()))(e),
    })
}

/// Gives everything in a tree to the environment's user. Nobody but root can reach the tree at this point.
pub(crate) fn give_to(dir: &Path, record: &Record) -> io::Result<()> {
    let mut directories = vec![dir.to_owned()];
    while let Some(dir) = directories.pop() {
        lchown(&dir, Some(record.uid), Some(record.gid))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                lchown(entry.path(), Some(record.uid), Some(record.gid))?;
            }
        }
    }
    Ok(())
}
