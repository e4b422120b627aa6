//! Image layers over a volume, at the speed of a mount.
//!
//! A cached layer is a tree of files that belong to the driver's user. It is cloned as a mount whose ids are
//! mapped to the environment's, read-only, and becomes the lower directory of an overlay whose upper directory
//! is the volume's `data`: nothing is copied, nothing in the cache changes, and what the workload writes counts
//! against the volume's size. Where the kernel or a file system can't do that, the layers are copied by several threads;
//! files on one xfs or btrfs (a disk of `type: dir` beside the cache) share their blocks with the cached ones.
//!
//! Overlay on idmapped lower directories needs Linux 5.19; `volatile` (no fsync of what is thrown away anyway)
//! 5.10; `metacopy` keeps `chmod -R` from copying file contents.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use native_platform::{LayersStep, StepError, StepKind};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::wait::waitpid;

use crate::layout::Paths;
use crate::store::Record;
use crate::sys::{self, Forked};
use crate::{copy, volume};

const STEP: StepKind = StepKind::Layers;

fn failed(what: impl Into<String>) -> StepError {
    StepError::failed(STEP, what)
}

/// How layers can be put over a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Overlay,
    Reflink,
    Copy,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        }
    }
}

/// Puts the layers over the volume. Tells how, and why not in the quickest way.
pub(crate) fn apply(
    paths: &Paths,
    record: &Record,
    step: &LayersStep,
    keep_files: bool,
) -> Result<(Method, Option<String>), StepError> {
    for layer in &step.layers {
        if !layer.dir.is_absolute() || !layer.dir.is_dir() {
            return Err(failed(format!("layer {} is not at {}", layer.image, layer.dir.display()))
                .hint("run `fish-native images verify`"));
        }
    }
    let mut why = "the disk is kept: what is on it must not go with a mount".to_owned();
    if !keep_files {
        // What the kernel can't do, a copy can; what is wrong with the volume will fail the copy as well.
        match overlay(paths, record, step) {
            Ok(()) => return Ok((Method::Overlay, None)),
            // Root would walk, by path, a tree that the caller can change under its feet.
            Err(Unfit(why)) if record.caller != 0 => {
                return Err(failed(format!("mount the layers over {}: {why}", step.volume))
                    .hint("without overlay on idmapped mounts (Linux 5.19) the driver must run as root"));
            }
            Err(Unfit(cause)) => why = format!("mount them: {cause}"),
        }
    }
    let target = paths.volume(&record.scope.id, &step.volume);
    let (mut cloned, mut copied) = (0, 0);
    for layer in &step.layers {
        let done = copy::tree(&layer.dir, &target, Some((record.uid, record.gid))).map_err(|e| {
            let error = failed(format!("copy {} to {}: {e}", layer.image, step.volume));
            if e.kind() == io::ErrorKind::StorageFull {
                error.hint("make the disk larger, or set home_size")
            } else {
                error
            }
        })?;
        (cloned, copied) = (cloned + done.cloned, copied + done.copied);
    }
    Ok((if cloned > 0 && copied == 0 { Method::Reflink } else { Method::Copy }, Some(why)))
}

/// Why an overlay can't be had here.
struct Unfit(io::Error);

impl<E: Into<io::Error>> From<E> for Unfit {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

fn overlay(paths: &Paths, record: &Record, step: &LayersStep) -> Result<(), Unfit> {
    let (id, back) = (&record.scope.id, paths.backstage(&record.scope.id, &step.volume));
    let target = paths.volume(id, &step.volume);
    let mut lower = Vec::new();
    for (n, layer) in step.layers.iter().enumerate() {
        let point = lower_point(paths, record, step, n);
        fs::create_dir(&point)?;
        let dir = open_layer(&layer.dir, record.caller)?;
        let meta = dir.metadata()?;
        let userns = mapping((meta.uid(), meta.gid()), (record.uid, record.gid))?;
        let tree = sys::open_tree(dir.as_fd())?;
        sys::idmap_readonly(tree.as_fd(), userns.as_fd())?;
        sys::move_mount(tree.as_fd(), &point.to_string_lossy())?;
        lower.push(point.to_string_lossy().into_owned());
    }
    // The first lower directory of an overlay is its topmost.
    lower.reverse();
    let (upper, work) = (back.join("data"), back.join("work"));
    let base = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mut last = nix::Error::EINVAL;
    for options in ["volatile,metacopy=on", "volatile", ""] {
        let options = format!("{base},{options}");
        match mount(Some("fish-native"), &target, Some("overlay"), flags, Some(options.trim_end_matches(','))) {
            Ok(()) => return Ok(()),
            Err(e) => last = e,
        }
    }
    for n in 0..step.layers.len() {
        let point = lower_point(paths, record, step, n);
        volume::unmount_all(&point).map_err(|e| io::Error::other(e.message))?;
        fs::remove_dir(&point)?;
    }
    Err(last.into())
}

/// Opens a layer's tree, which must be what it seems: no component of its path may be a link, and the caller must own
/// it. Otherwise a caller who is not root could swap a link for it and have the mapping show root's files as its own.
fn open_layer(path: &Path, caller: u32) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // Root chooses its own paths: links in those are the operator's.
    let dir = if caller == 0 {
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)?
    } else {
        File::from(openat2(AT_FDCWD, path, how)?)
    };
    if caller != 0 && dir.metadata()?.uid() != caller {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the layer is not the caller's"));
    }
    Ok(dir)
}

/// Where a layer is mounted for the overlay. Short names without `:` or `,`: the option string has one page.
fn lower_point(paths: &Paths, record: &Record, step: &LayersStep, n: usize) -> PathBuf {
    let back = paths.backstage(&record.scope.id, &step.volume);
    let name = back.file_name().unwrap_or_default().to_string_lossy().into_owned();
    back.with_file_name(format!("{name}-{n}"))
}

/// Takes the overlay and its layers away from this process's namespace, if they are there.
pub(crate) fn remove(paths: &Paths, record: &Record, step: &LayersStep) -> Result<(), StepError> {
    let target = paths.volume(&record.scope.id, &step.volume);
    let mounts = crate::proc::mounts().map_err(|e| StepError::stuck(STEP, format!("list mounts: {e}")))?;
    let is_overlay = mounts.iter().rfind(|m| m.point == target).is_some_and(|m| m.kind == "overlay");
    if is_overlay {
        nix::mount::umount2(&target, nix::mount::MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|e| StepError::stuck(STEP, format!("unmount {}: {e}", target.display())))?;
    }
    for n in 0..step.layers.len() {
        let point = lower_point(paths, record, step, n);
        volume::unmount_all(&point)?;
        volume::remove_point(&point)?;
    }
    Ok(())
}

/// A user namespace in which `from` on disk is `to` as seen. It lives as long as the descriptor.
fn mapping(from: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    // The namespace comes from a child that waits until its maps are written and it has been opened.
    let (wait, go) = nix::unistd::pipe()?;
    match sys::clone_into(libc::CLONE_NEWUSER, None)? {
        Forked::Child => {
            drop(go);
            let mut byte = [0];
            drop(File::from(wait).read(&mut byte));
            sys::exit_now(0);
        }
        Forked::Parent(pid) => {
            drop(wait);
            let opened = (|| {
                let dir = PathBuf::from(format!("/proc/{pid}"));
                write_map(&dir.join("uid_map"), from.0, to.0)?;
                write_map(&dir.join("gid_map"), from.1, to.1)?;
                File::open(dir.join("ns/user")).map(OwnedFd::from)
            })();
            drop(go);
            waitpid(pid, None)?;
            opened
        }
    }
}

fn write_map(path: &Path, inside: u32, outside: u32) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(format!("{inside} {outside} 1").as_bytes())
}
