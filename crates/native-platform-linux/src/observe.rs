//! What an environment is doing, from its status file and its cgroups.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use native_platform::{Observation, StepError, StepKind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use crate::cgroup::Groups;
use crate::keeper::{STATUS, Status};
use crate::proc;
use crate::store::Record;
use crate::sys;

fn failed(what: impl Into<String>) -> StepError {
    StepError::failed(StepKind::Observe, what)
}

/// What it is doing now.
pub(crate) fn now(record: Option<&Record>, groups: &Groups) -> Result<Observation, StepError> {
    let Some(record) = record else { return Ok(Observation::default()) };
    let up = record.init.as_ref().is_some_and(proc::lives);
    let exit = status(record)?.and_then(|s| s.exit);
    let usage = groups.usage();
    let disk_bytes = if up { record.init.as_ref().map_or(0, |init| disk_bytes(record, init.pid)) } else { 0 };
    Ok(Observation {
        up,
        running: up && exit.is_none(),
        exit,
        pids: if up { usage.pids } else { 0 },
        cpu_seconds: usage.cpu_seconds,
        memory_bytes: usage.memory_bytes,
        disk_bytes,
    })
}

/// The keeper's word.
fn status(record: &Record) -> Result<Option<Status>, StepError> {
    let path = record.scope.dir.join(STATUS);
    match fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|e| failed(format!("read {}: {e}", path.display())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(format!("read {}: {e}", path.display()))),
    }
}

/// Bytes used on its sized volumes, seen through the root of its first process.
fn disk_bytes(record: &Record, init: i32) -> u64 {
    let used = |point: &str| {
        let vfs = statvfs(&PathBuf::from(format!("/proc/{init}/root{point}"))).ok()?;
        Some((vfs.blocks().saturating_sub(vfs.blocks_free())).saturating_mul(vfs.fragment_size()))
    };
    let Ok(text) = fs::read_to_string(format!("/proc/{init}/mountinfo")) else { return 0 };
    let ours = format!("{}/.back-", record.scope.id);
    // One row per volume: its own file system, wherever else parts of it are shown.
    let points = text.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| p.contains(&ours));
    let is_layer = |p: &&str| p.rsplit_once('-').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
    points.filter(|p| !is_layer(p)).filter_map(used).sum()
}

/// Returns when the entry has ended, the environment is gone, or the time is over.
pub(crate) fn wait(record: &Record, at_most: Duration) -> Result<(), StepError> {
    let deadline = Instant::now() + at_most;
    // Watching first and reading then: an end in between is seen by one of the two.
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(|e| failed(e.to_string()))?;
    watch
        .add_watch(&record.scope.dir, AddWatchFlags::IN_MOVED_TO)
        .map_err(|e| failed(format!("watch {}: {e}", record.scope.dir.display())))?;
    let keeper = record.keeper.as_ref().and_then(|k| sys::pidfd_open(Pid::from_raw(k.pid)).ok());
    loop {
        let ended = status(record)?.is_some_and(|s| s.exit.is_some());
        let kept = record.keeper.as_ref().is_some_and(proc::lives);
        if ended || !kept {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let mut fds = vec![PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        fds.extend(keeper.as_ref().map(|k| PollFd::new(k.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(left.as_millis().clamp(1, 3_600_000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => drop(watch.read_events()),
            Err(e) => return Err(failed(format!("wait for the entry: {e}"))),
        }
    }
}
