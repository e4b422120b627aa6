//! Telling the file systems of an environment that nothing of them is wanted any more.
//!
//! The last unmount of a file system writes back what is not on disk yet: 0.4 s for 1 GB, into a file that is dropped in
//! the same moment. A file system that was shut down (`EXT4_IOC_SHUTDOWN`, and xfs has the same call) writes nothing. The
//! kernel alerts the console of it, which can take longer than writing back the little that most workloads leave.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use native_platform::{Backing, VolumeStep};

use crate::keeper::Ending;
use crate::layout::{self, Paths};
use crate::proc;
use crate::store::Record;
use crate::sys;

/// What is written back without more ado: bytes, and files.
const LITTLE: (u64, u64) = (4 << 20, 1_000);
/// Block devices of the loop driver (admin-guide/devices.txt).
const LOOP_MAJOR: u64 = 7;

/// The sized disks that are dropped with the environment, open: as long as they are, the end of its namespaces leaves them
/// mounted. Those that much was written to are shut down. Its processes must be dead but for the first one, through which
/// the disks are reached. What can't be opened or shut down is only slower to unmount.
pub(crate) fn disks(paths: &Paths, record: &Record) -> Vec<File> {
    let Some(init) = record.init.as_ref().filter(|init| proc::lives(init)) else { return Vec::new() };
    let root = PathBuf::from(format!("/proc/{}/root", init.pid));
    let dropped = |v: &&VolumeStep| matches!(v.backing, Backing::Sized { .. }) && !v.reuse;
    let open = |volume: &VolumeStep| {
        let point = paths.backstage(&record.scope.id, &volume.volume);
        let point = root.join(point.strip_prefix("/").unwrap_or(&point));
        let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(point).ok()?;
        drop(shut_down(&dir, &layout::device_name(&record.scope.id, &volume.volume)));
        Some(dir)
    };
    record.volumes.iter().filter(dropped).filter_map(open).collect()
}

/// Disks that are being let go of.
#[must_use]
pub(crate) struct Going(Vec<thread::JoinHandle<()>>);

/// Lets go of disks when the first process of their namespaces has ended. Whoever lets go of one last waits for its unmount:
/// here each has a thread, where that process would do one after the other.
pub(crate) fn let_go(disks: Vec<File>, first: Option<&Ending>) -> Going {
    let let_go = |disk: File| {
        let first = first.and_then(|first| first.try_clone().ok());
        let wait = move || {
            if let Some(first) = first {
                first.wait();
            }
            drop(disk);
        };
        // Without a thread it is let go of at once.
        thread::Builder::new().spawn(wait).ok()
    };
    Going(disks.into_iter().filter_map(let_go).collect())
}

impl Going {
    /// Waits until they are unmounted, as far as that is up to us.
    pub(crate) fn wait(self) {
        self.0.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Shuts the file system down that this directory lies on, if much was written to it and it lies on the loop device of this
/// name: any other one may be the host's.
fn shut_down(dir: &File, name: &str) -> io::Result<()> {
    let used = nix::sys::statvfs::fstatvfs(dir)?;
    let bytes = used.blocks().saturating_sub(used.blocks_free()).saturating_mul(used.fragment_size());
    if bytes <= LITTLE.0 && used.files().saturating_sub(used.files_free()) <= LITTLE.1 {
        return Ok(());
    }
    let device = dir.metadata()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if major != LOOP_MAJOR {
        return Err(io::Error::other("not on a loop device"));
    }
    let device = fs::read_link(format!("/sys/dev/block/{major}:{minor}"))?;
    let device = File::open(Path::new("/dev").join(device.file_name().unwrap_or_default()))?;
    if sys::loop_name(device.as_fd())?.as_deref() != Some(name) {
        return Err(io::Error::other("not on a disk of this environment"));
    }
    sys::shut_down(dir.as_fd(), false)
}
