//! Volumes: a file system of a hard size in a file without a name, or a plain directory.
//!
//! A sized volume is an `O_TMPFILE` in the environment's directory behind a loop device with AUTOCLEAR, mounted
//! only inside the environment's mount namespace. Nothing of it has a name on the host, so with the last process
//! of the namespace the mount, the device and the space are gone: there is no clean-up that could be missed.
//!
//! On the volume lie `data` (what the workload sees) and `work` (the overlay's, see [`crate::layers`]), both
//! below a root directory that only root may enter.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use native_config::EnvironmentId;
use native_platform::{Backing, CommandSpec, ErrorKind, Scope, StepError, StepKind, VolumeName, VolumeStep};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::WaitStatus;
use nix::unistd::linkat;

use crate::commands::{Tools, file_system};
use crate::layout::{self, Paths};
use crate::proc::LoopDevice;
use crate::remove;
use crate::store::Record;
use crate::sys::Forked;
use crate::{copy, kept, pins, proc, sys, template};

const STEP: StepKind = StepKind::Volume;
/// How long a loop device may stay after its last user has gone: the kernel unties it when the last namespace
/// that saw the mount is torn down, which happens after the last process has ended.
const UNTIE: Duration = Duration::from_secs(10);

/// After which time one that is still there is taken to be kept by somebody.
const PINNED: Duration = Duration::from_secs(2);

/// No file system fits into less, in bytes.
const LEAST: u64 = 16 << 20;

fn failed(what: impl Into<String>) -> StepError {
    StepError::failed(STEP, what)
}

/// Adds what was being done to an I/O error.
pub(crate) fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> StepError {
    let what = what.into();
    move |e| {
        let error = failed(format!("{what}: {e}"));
        if e.raw_os_error() == Some(libc::ENOSPC) {
            error.hint("free space in the workspace's file system, or make the label's disks smaller")
        } else {
            error
        }
    }
}

/// A volume that was made.
pub(crate) struct Made {
    /// Where the workload sees it.
    pub(crate) path: PathBuf,
    /// The handle of the file that holds it, if it is a file without a name.
    pub(crate) image: Option<Vec<u8>>,
}

/// The image of a volume that goes with its environment: a file without a name, with an empty file system in it. `None`
/// for other volumes.
///
/// Of several volumes all images come before the first of them is mounted: then one commit of the journal below has all
/// of them. Whoever mounts beside another commit waits for that one, too.
pub(crate) fn prepare(
    tools: &Tools,
    paths: &Paths,
    record: &Record,
    step: &VolumeStep,
) -> Result<Option<File>, StepError> {
    match &step.backing {
        Backing::Sized { bytes, fs } if !step.reuse => {
            let (_, spec, _) = maker(step, *bytes, fs.as_deref())?;
            let image = nameless(&record.scope.dir)?;
            template::fill(tools, paths, spec, *bytes, &image)?;
            // Blocks are chosen when a file is written out: what is chosen now is in the next commit.
            sys::begin_write_out(image.as_fd());
            Ok(Some(image))
        }
        _ => Ok(None),
    }
}

/// Makes a volume, of the image that was prepared for it, and mounts it where the workload will see it, in the mount
/// namespace of this process.
pub(crate) fn create(
    tools: &Tools,
    paths: &Paths,
    record: &Record,
    step: &VolumeStep,
    image: Option<File>,
) -> Result<Made, StepError> {
    let id = &record.scope.id;
    let (back, front) = (paths.backstage(id, &step.volume), paths.volume(id, &step.volume));
    make_dir(&back, 0o700)?;
    make_dir(&front, 0o755)?;
    let (image, is_fresh) = match &step.backing {
        Backing::Sized { bytes, fs } => {
            let (kind, spec, options) = maker(step, *bytes, fs.as_deref())?;
            let (image, is_new) = match image {
                Some(image) => (image, true),
                None => kept::image(tools, paths, record, step, *bytes, spec)?,
            };
            sized(record, step, &image, (kind, options), &back)?;
            if !is_new {
                kept::give_to(&back.join("data"), record)
                    .map_err(doing(format!("give the kept {} its new owner", step.volume)))?;
            }
            // A file system without handles (overlay, FUSE) can't give the space of a disk back that somebody else keeps.
            ((!step.reuse).then(|| sys::handle_of(image.as_fd()).ok()).flatten(), is_new)
        }
        Backing::Dir => {
            let dir = directory(paths, record, &step.volume);
            if record.caller != 0 {
                let own = paths.state.join("volumes");
                make_dir(&own, 0o700)?;
                make_dir(&own.join(id.as_ref()), 0o700)?;
            }
            make_dir(&dir, 0o700)?;
            bind(&dir, &back)?;
            (None, !back.join("data").exists())
        }
    };
    let (data, owner, mode) = match step.volume {
        // What lies here appears as /tmp and /var/tmp.
        VolumeName::Temp => (back.join("temp"), None, 0o755),
        VolumeName::Home | VolumeName::Disk(_) => (back.join("data"), Some(record), 0o700),
    };
    // Most disks have them from their template.
    make_dir(&data, 0o700)?;
    make_dir(&back.join("work"), 0o700)?;
    if let Some(record) = owner {
        chown(&data, Some(record.uid), Some(record.gid)).map_err(doing(format!("give {} its owner", step.volume)))?;
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(mode)).map_err(doing("set the mode of a volume"))?;
    if is_fresh {
        copy_in(record, step, &data)?;
    }
    if step.volume == VolumeName::Temp {
        for name in ["tmp", "var-tmp", "lock"] {
            let dir = data.join(name);
            make_dir(&dir, 0o1777)?;
            // The mode of mkdir is cut by the umask.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).map_err(doing("set the mode of a volume"))?;
        }
    }
    bind(&data, &front)?;
    Ok(Made { path: front, image })
}

/// Takes a volume's mounts in this process's namespace away, if there are any, and waits until its device is
/// untied; removes a directory volume.
pub(crate) fn remove(paths: &Paths, record: &Record, step: &VolumeStep) -> Result<(), StepError> {
    let id = &record.scope.id;
    for point in [paths.volume(id, &step.volume), paths.backstage(id, &step.volume)] {
        unmount_all(&point)?;
        // The home's mount point is the account's.
        if step.volume != VolumeName::Home || point != paths.home(id) {
            remove_point(&point)?;
        }
    }
    let name = layout::device_name(id, &step.volume);
    let tag = layout::tag(&step.volume);
    let image = record.images.iter().find(|(of, _)| *of == tag).map(|(_, handle)| (&*record.scope.dir, &**handle));
    untie(paths, id, &format!("{} of {id}", step.volume), image, &|device| device.name == name)?;
    if matches!(step.backing, Backing::Dir) {
        let dir = directory(paths, record, &step.volume);
        remove::tree(&dir).map_err(|e| StepError::stuck(STEP, format!("remove {}: {e}", dir.display())))?;
        if record.caller != 0 {
            // The last one of the environment takes their directory with it.
            drop(fs::remove_dir(paths.state.join("volumes").join(id.as_ref())));
        }
    }
    Ok(())
}

/// Unties what is left of the environment's devices, whatever its volumes were called.
pub(crate) fn untie_strays(paths: &Paths, scope: &Scope) -> Result<(), StepError> {
    let ours = |device: &LoopDevice| layout::is_device_of(device, &scope.id, Some(&scope.dir));
    untie(paths, &scope.id, &format!("a disk of {}", scope.id), None, &ours)
}

/// Waits until a device is untied. One that somebody else keeps is ended, and told.
fn untie(
    paths: &Paths,
    id: &EnvironmentId,
    what: &str,
    image: Option<pins::Image<'_>>,
    ours: &dyn Fn(&LoopDevice) -> bool,
) -> Result<(), StepError> {
    let stuck = |what: String| StepError::stuck(STEP, what);
    let find = || layout::devices_near(id).map(|all| all.into_iter().find(ours));
    let start = Instant::now();
    let mut asked = false;
    loop {
        let Some(left) = find().map_err(|e| stuck(format!("list loop devices: {e}")))? else { return Ok(()) };
        let waited = start.elapsed();
        let holders = if waited >= PINNED {
            pins::holders(&left).map_err(|e| stuck(format!("look who holds {}: {e}", left.device.display())))?
        } else {
            if waited >= PINNED / 10 && !asked {
                // To go with its last user, also where whoever tied it did not ask for that.
                asked = pins::detach(&left).is_ok();
            }
            Vec::new()
        };
        if holders.is_empty() && waited < UNTIE {
            // When there is something else to be done about it.
            let until = match waited {
                w if w < PINNED / 10 => start + PINNED / 10,
                w if w < PINNED => start + PINNED,
                w => start + w + Duration::from_millis(100),
            };
            let mut pause = Duration::from_micros(100);
            while proc::is_tied(&left) && Instant::now() < until {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            continue;
        }
        let ended = match pins::end(&left, &paths.run, image) {
            Ok(()) if image.is_none() => "its file system was shut down".to_owned(),
            Ok(()) => "its file system was shut down and its space given back".to_owned(),
            Err(e) => format!("its file system could not be shut down, or its space not be given back: {e}"),
        };
        // The holder may have gone in the meantime.
        if matches!(find(), Ok(None)) {
            return Ok(());
        }
        let who: Vec<String> = holders.iter().map(ToString::to_string).collect();
        let (who, hint) = if who.is_empty() {
            // It waits in a socket between two processes.
            ("nobody who can be found".to_owned(), "deallocate the environments that worked with it")
        } else {
            (who.join(", "), "end those processes (another environment's: deallocate it)")
        };
        return Err(stuck(format!("{what} ({}) is kept by {who}; {ended}", left.device.display()))
            .hint(format!("{hint}, then `fish-native audit --fix`")));
    }
}

/// Takes every mount at or below these directories away, the last one first: whoever mounted there, what is mounted
/// stays as it is.
pub(crate) fn unmount_below(dirs: &[PathBuf]) -> Result<(), StepError> {
    let mounts = proc::mounts().map_err(|e| StepError::stuck(STEP, format!("list mounts: {e}")))?;
    for mount in mounts.iter().rev().filter(|m| dirs.iter().any(|dir| m.point.starts_with(dir))) {
        if let Err(error) = unmount_all(&mount.point) {
            // Busy for longer than it may be: out of the way at least. What it holds is found by the audit.
            umount2(&mount.point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).map_err(|_| error)?;
        }
    }
    Ok(())
}

/// Whether anything of the volume is there, seen from this process's namespace.
pub(crate) fn present(paths: &Paths, record: &Record, step: &VolumeStep) -> Result<bool, StepError> {
    let name = layout::device_name(&record.scope.id, &step.volume);
    let loops = layout::devices_near(&record.scope.id).map_err(doing("list loop devices"))?;
    Ok(loops.iter().any(|l| l.name == name)
        || matches!(step.backing, Backing::Dir) && directory(paths, record, &step.volume).exists())
}

/// Where a directory volume lies: in the environment's own directory. A caller who is not root owns that one and could
/// put a link there for root to follow; its volumes lie among root's records.
pub(crate) fn directory(paths: &Paths, record: &Record, volume: &VolumeName) -> PathBuf {
    let name = format!("disk-{}", layout::tag(volume));
    match record.caller {
        0 => record.scope.dir.join(name),
        _ => paths.state.join("volumes").join(record.scope.id.as_ref()).join(name),
    }
}

/// What the file system of a sized volume is, how it is made, and what it is mounted with.
fn maker<'a>(
    step: &VolumeStep,
    bytes: u64,
    fs: Option<&'a str>,
) -> Result<(&'a str, &'static CommandSpec, &'static str), StepError> {
    if bytes < LEAST {
        return Err(StepError::new(STEP, ErrorKind::Invalid, format!("{} has no size", step.volume))
            .hint("give the disk a `size` in GB"));
    }
    let kind = fs.unwrap_or("ext4");
    let (spec, options) = file_system(kind).ok_or_else(|| {
        let message = format!("{} has type {kind:?}, which Linux can't make here", step.volume);
        StepError::new(STEP, ErrorKind::Invalid, message).hint("use type: ext4, xfs, btrfs or dir, or leave type out")
    })?;
    Ok((kind, spec, options))
}

/// A loop device under an image, mounted at `back`.
fn sized(
    record: &Record,
    step: &VolumeStep,
    image: &File,
    (kind, options): (&str, &str),
    back: &Path,
) -> Result<(), StepError> {
    let device = attach(image, &layout::device_name(&record.scope.id, &step.volume))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // A disk that is kept must survive a crash of the host: with the file system's own, safe, options.
    let options = if step.reuse { "" } else { options };
    mount(Some(device.0.as_path()), back, Some(kind), flags, Some(options))
        .map_err(|e| failed(format!("mount the {kind} of {}: {e}", step.volume)))?;
    fs::set_permissions(back, fs::Permissions::from_mode(0o700)).map_err(doing("close a volume's root"))
}

/// Gives a file without a name one. There must be none with it yet.
pub(crate) fn name(file: &File, path: &Path) -> io::Result<()> {
    let ours = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, ours.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

/// A file without a name in this directory.
pub(crate) fn nameless(dir: &Path) -> Result<File, StepError> {
    let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(dir);
    open().map_err(doing(format!("create an image in {}", dir.display()))).map_err(|e| {
        // NFS, overlayfs before 6.1 and FUSE have no O_TMPFILE.
        if e.message.contains("not supported") {
            e.hint("put workspace_path on a local file system (ext4, xfs, btrfs)")
        } else {
            e
        }
    })
}

/// Ties the image to a free loop device. The device goes when the returned file and every mount of it have gone.
fn attach(image: &File, name: &str) -> Result<(PathBuf, File), StepError> {
    let control = File::open("/dev/loop-control").map_err(|e| {
        StepError::new(STEP, ErrorKind::NotReady, format!("open /dev/loop-control: {e}")).hint("modprobe loop")
    })?;
    let deadline = Instant::now() + Duration::from_secs(10);
    // For direct I/O the kernel writes out what the image has (loop_configure). Here those who make disks at once wait
    // for one commit together, rather than one after the other in their turn.
    image.sync_all().map_err(doing("write an image out"))?;
    // All who ask at once are told the same free device, and then wait for each other at its door. Without the lock
    // everything works, only slower: a holder that is stopped stops nobody.
    let turn = Instant::now() + Duration::from_secs(1);
    while matches!(control.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < turn {
        thread::sleep(Duration::from_micros(200));
    }
    loop {
        let number = sys::loop_get_free(control.as_fd()).map_err(doing("ask for a free loop device"))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let tied = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .and_then(|device| sys::loop_configure(device.as_fd(), image.as_fd(), name).map(|()| device));
        match tied {
            Ok(device) => return Ok((path, device)),
            // Somebody else took it between the two calls, or its node is not there yet.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOENT | libc::ENXIO))
                    && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_micros(200));
            }
            Err(e) => return Err(failed(format!("tie an image to {}: {e}", path.display()))),
        }
    }
}

/// Fills a fresh volume from the directory that the label's `clone` names, as the environment's user: a label is to
/// copy nothing that its workload could not read anyway.
fn copy_in(record: &Record, step: &VolumeStep, data: &Path) -> Result<(), StepError> {
    let Some(source) = &step.clone_from else { return Ok(()) };
    let refused = |why: String| {
        StepError::new(STEP, ErrorKind::Invalid, format!("start {} from {}: {why}", step.volume, source.display()))
    };
    if !source.is_dir() {
        return Err(refused("it is not a directory".to_owned()));
    }
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(format!("make a pipe: {e}")))?;
    let child = match sys::fork().map_err(doing("fork"))? {
        Forked::Child => {
            drop(read);
            // Entered while still root: the way there is closed to the user.
            let copied = std::env::set_current_dir(data)
                .and_then(|()| sys::set_group_ids(record.gid, &record.groups))
                .and_then(|()| sys::set_user_ids(record.uid, record.uid, record.uid))
                .and_then(|()| copy::tree(source, Path::new("."), None));
            if let Err(error) = copied {
                let _ = File::from(write).write_all(error.to_string().as_bytes());
            }
            sys::exit_now(0);
        }
        Forked::Parent(pid) => pid,
    };
    drop(write);
    let mut why = String::new();
    let told = File::from(read).read_to_string(&mut why);
    let ended = nix::sys::wait::waitpid(child, None);
    match (told, ended) {
        (Ok(0), Ok(WaitStatus::Exited(_, 0))) => Ok(()),
        (Ok(_), _) if !why.is_empty() => Err(refused(why)),
        (_, ended) => Err(failed(format!("the copy from {} ended with {ended:?}", source.display()))),
    }
}

pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<(), StepError> {
    match fs::DirBuilder::new().recursive(false).mode(mode).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(doing(format!("create {}", dir.display()))(e)),
        _ => Ok(()),
    }
}

/// Shows one directory at another place.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<(), StepError> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| failed(format!("show {} at {}: {e}", from.display(), to.display())))
}

/// Removes an empty mount point.
pub(crate) fn remove_point(point: &Path) -> Result<(), StepError> {
    match fs::remove_dir(point) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(StepError::stuck(STEP, format!("remove the mount point {}: {e}", point.display())))
        }
        _ => Ok(()),
    }
}

/// Takes away every mount at this very point, the last one first.
pub(crate) fn unmount_all(point: &Path) -> Result<(), StepError> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any more), or not there.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(nix::Error::EBUSY) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Err(e) => return Err(StepError::stuck(STEP, format!("unmount {}: {e}", point.display()))),
        }
    }
}

/// The environment's own mount namespace, held by this process until it starts the workload.
///
/// Everything that is mounted below `run` and at the home is then seen by this process and by the workload that
/// it starts, by nothing else on the host.
pub(crate) fn enter_private(paths: &Paths, id: &EnvironmentId) -> Result<(), StepError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(|e| {
        StepError::new(STEP, ErrorKind::NotReady, format!("create a mount namespace: {e}"))
            .hint("run as root with CAP_SYS_ADMIN, or set isolation: basic")
    })?;
    // What the host mounts later shall appear here too, what is mounted here must not appear there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|e| failed(format!("separate the mount namespace: {e}")))?;
    make_dir(&paths.run, 0o755)?;
    mount(
        Some("fish-native"),
        &paths.run,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755,size=1m"),
    )
    .map_err(|e| failed(format!("mount a tmpfs at {}: {e}", paths.run.display())))?;
    make_dir(&paths.own(id), 0o711)
}

/// The same place for `isolation: basic`: on the host itself, where everything mounted is taken away step by step.
pub(crate) fn stay_on_host(paths: &Paths, id: &EnvironmentId) -> Result<(), StepError> {
    make_dir(&paths.run, 0o755)?;
    make_dir(&paths.own(id), 0o711)
}
