//! What the workload sees of the host: everything, read-only, but for what is its own.
//!
//! Runs as the first process of the environment's namespaces, before anything of the label does. Its order
//! matters: own file systems first (their mount points are on what becomes read-only), then the one recursive
//! `mount_setattr` (Linux 5.12), then write access back to the few places that may have it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::layout::Paths;
use crate::store::Record;
use crate::sys;
use native_platform::{VolumeName, WorkloadStep};

/// What could not be done, and why.
pub(crate) struct Unsealed {
    pub(crate) what: String,
    pub(crate) cause: io::Error,
}

fn doing<T, E: Into<io::Error>>(what: impl FnOnce() -> String, result: Result<T, E>) -> Result<T, Unsealed> {
    result.map_err(|e| Unsealed { what: what(), cause: e.into() })
}

/// World-writable places of a usual system, with the directory of the temp volume that takes their place.
const TEMPORARY: [(&str, &str); 3] = [("/tmp", "tmp"), ("/var/tmp", "var-tmp"), ("/run/lock", "lock")];
/// Sockets and directories by which a local user can make a service act for it, outside of its own cgroup.
const MASKED: [&str; 8] = [
    "/run/dbus",
    "/run/systemd/private",
    "/run/systemd/journal",
    "/run/user",
    "/run/docker.sock",
    "/run/containerd",
    "/run/podman",
    "/run/libvirt",
];

/// Closes the namespace.
///
/// # Errors
/// The first thing that could not be done: then nothing of the label may run.
pub(crate) fn seal(paths: &Paths, record: &Record, step: &WorkloadStep) -> Result<(), Unsealed> {
    let id = &record.scope.id;
    let none = None::<&str>;
    doing(|| "separate its mounts".into(), mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    doing(|| "mount /proc".into(), mount(Some("proc"), "/proc", Some("proc"), quiet, Some("hidepid=2")))?;

    let mut writable = vec![PathBuf::from("/proc")];
    let temp = paths.volume(id, &VolumeName::Temp);
    for (place, name) in TEMPORARY {
        if is_real_directory(Path::new(place)) {
            doing(|| format!("put its own {place} in place"), bind(&temp.join(name), Path::new(place)))?;
            writable.push(PathBuf::from(place));
        }
    }
    let open = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let shared_memory = format!("mode=1777,size={}", (step.limits.memory_bytes / 2).max(1 << 20));
    if is_real_directory(Path::new("/dev/shm")) {
        let done = mount(Some("shm"), "/dev/shm", Some("tmpfs"), open, Some(shared_memory.as_str()));
        doing(|| "mount its own /dev/shm".into(), done)?;
        writable.push("/dev/shm".into());
    }
    if is_real_directory(Path::new("/dev/mqueue"))
        && mount(Some("mqueue"), "/dev/mqueue", Some("mqueue"), quiet, none).is_ok()
    {
        // Without one of its own it sees the host's, read-only.
        writable.push("/dev/mqueue".into());
    }
    for place in MASKED.map(Path::new).into_iter().chain([paths.state.as_path()]) {
        doing(|| format!("hide {}", place.display()), hide(place))?;
    }
    if !record.real {
        doing(|| "show its account".into(), show_account(paths, record))?;
    }
    for path in &step.writable_paths {
        if let Some((place, _)) = TEMPORARY.iter().find(|(place, _)| path.starts_with(place)) {
            let why = format!("{place} is the environment's own; give a directory elsewhere");
            let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
            return Err(Unsealed { what: format!("open writable_paths entry {}", path.display()), cause });
        }
        doing(|| format!("open writable_paths entry {}", path.display()), bind(path, path))?;
        writable.push(path.clone());
    }
    for volume in &record.volumes {
        if volume.volume != VolumeName::Temp {
            writable.push(paths.volume(id, &volume.volume));
        }
    }
    let nosuid = if step.allow_setuid { 0 } else { sys::ATTR_NOSUID };
    doing(|| "make the host read-only".into(), sys::set_mount("/", true, sys::ATTR_RDONLY | nosuid, 0))?;
    for place in &writable {
        let path = place.to_string_lossy();
        // The home and the disks never have set-uid programs of anybody else, whatever the label may run.
        doing(
            || format!("make {path} writable"),
            sys::set_mount(&path, false, sys::ATTR_NOSUID | sys::ATTR_NODEV, sys::ATTR_RDONLY),
        )?;
    }
    // Terminals are made there; it is a mount of its own where it is at all.
    drop(sys::set_mount("/dev/pts", false, 0, sys::ATTR_RDONLY));
    Ok(())
}

/// Whether this is a directory itself and not a link to one: `/var/lock` is `/run/lock`, once is enough.
fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Puts nothing in place of something.
fn hide(place: &Path) -> io::Result<()> {
    match fs::symlink_metadata(place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if meta.is_dir() => {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            Ok(mount(Some("hidden"), place, Some("tmpfs"), flags, Some("size=4k,mode=0"))?)
        }
        Ok(meta) if meta.is_symlink() => Ok(()),
        Ok(_) => bind(Path::new("/dev/null"), place),
    }
}

/// Shows an account that the host's user database does not have, by files of its own over the host's.
fn show_account(paths: &Paths, record: &Record) -> io::Result<()> {
    let (id, own) = (&record.scope.id, paths.own(&record.scope.id));
    let home = paths.home(id);
    let lines = [
        (
            "/etc/passwd",
            format!("{id}:x:{}:{}:fish-native environment:{}:/bin/sh\n", record.uid, record.gid, home.display()),
        ),
        // A group of the label has its name already.
        ("/etc/group", if record.gid == record.uid { format!("{id}:x:{}:\n", record.gid) } else { String::new() }),
    ];
    for (file, line) in lines {
        let mut text = fs::read_to_string(file)?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&line);
        let copy = own.join(format!(".{}", file.rsplit('/').next().unwrap_or_default()));
        fs::write(&copy, text)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
        bind(&copy, Path::new(file))?;
    }
    Ok(())
}
