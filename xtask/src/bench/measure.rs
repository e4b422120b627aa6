//! What a program costs, medians, and a disk to measure on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::run::{Run, tool};

/// What one run of a program cost, the programs that it started and waited for included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From its start to its end.
    pub(crate) wall: Duration,
    /// Processor time of all its threads and processes, in user and system mode.
    pub(crate) cpu: Duration,
    /// The largest resident set that it, or any one of its processes, ever had, in bytes.
    pub(crate) peak: u64,
}

/// Runs a program to its end. Standard output goes nowhere, standard error where ours goes.
///
/// A child counts as its own peak what the process had resident that started it, so whoever measures stays small.
///
/// # Errors
/// When it can not be started or fails.
pub(crate) fn cost(run: &Run) -> anyhow::Result<Cost> {
    let start = Instant::now();
    let child = run.spawn_quietly()?;
    let (status, usage) = wait(&child).with_context(|| format!("could not wait for {}", run.shown()))?;
    let wall = start.elapsed();
    ensure!(status.success(), "{} ended with {status}", run.shown());
    let time = |time: libc::timeval| {
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    // Linux counts kibibytes, macOS bytes: getrusage(2) of each.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let peak = u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit;
    Ok(Cost { wall, cpu: time(usage.ru_utime) + time(usage.ru_stime), peak })
}

/// Waits for a child and learns what it used, which `Child::wait` does not tell.
#[expect(unsafe_code, reason = "wait4(2) has no safe form in the standard library")]
fn wait(child: &Child) -> io::Result<(ExitStatus, libc::rusage)> {
    use std::os::unix::process::ExitStatusExt as _;

    let id = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: a `rusage` is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live variables of the right types; the child is ours and was not waited for.
        let done = unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) };
        if done == id {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Waits until some child has ended, and leaves it to whoever waits for that one. `None`: there is no child.
#[expect(unsafe_code, reason = "rustix' waitid(2) does not tell which child it was")]
pub(crate) fn ended_child() -> Option<rustix::process::Pid> {
    // SAFETY: a `siginfo_t` is plain numbers, for which zero is a value.
    let mut told: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live variable of the right type.
    let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut told, libc::WEXITED | libc::WNOWAIT) };
    // SAFETY: after a successful waitid(2) the field is set.
    (done == 0).then(|| unsafe { told.si_pid() }).and_then(rustix::process::Pid::from_raw)
}

/// Gives this program and those that it starts a place of their own in the scheduler, before everything else on the
/// host, so that times are near to what the work takes also on a host that does other things. Only root may, and only on
/// Linux: a session of its own has a group for itself (sched(7), "The autogroup feature"), and nice values count within
/// groups alone.
pub(crate) fn go_first() {
    use rustix::process::{geteuid, getpid, getsid, setsid};

    if cfg!(target_os = "linux") && geteuid().is_root() {
        // It fails for who leads a session already: then that one is its own.
        let own = setsid().is_ok() || getsid(None).is_ok_and(|session| session == getpid());
        if own {
            drop(fs::write("/proc/self/autogroup", "-20"));
        }
    }
}

/// The middle of some figures; of an even number, the lower one of the two.
pub(crate) fn median<T: Copy + PartialOrd>(figures: &[T]) -> Option<T> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// A directory to measure in. As root it lies on a file system of its own: ext4 with a journal, on a loop device with
/// direct I/O, so that figures do not depend on what the host's root is (one without a journal is twelve times slower
/// where files are removed and made again). While it lives, no other suite that changes the host runs.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    image: PathBuf,
    device: Option<String>,
    /// Released last.
    _turn: Option<File>,
}

/// The lock that suites hold while they change the host.
const TURN: &str = "/run/lock/fish-native-e2e";

impl Scratch {
    /// Makes one of this size below `parent`.
    ///
    /// # Errors
    /// When the directory or, as root, the file system can not be made.
    pub(crate) fn new(parent: &Path, size: u64) -> anyhow::Result<Self> {
        let turn = turn()?;
        fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
        let dir = parent.join(format!("fish-bench-{}", std::process::id()));
        let mut scratch = Self { image: dir.with_extension("ext4"), dir, device: None, _turn: turn };
        fs::create_dir(&scratch.dir).with_context(|| format!("could not make {}", scratch.dir.display()))?;
        if Self::can_mount() {
            scratch.mount(size)?;
        }
        Ok(scratch)
    }

    /// Where to measure.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// What the figures were taken on.
    pub(crate) fn kind() -> &'static str {
        if Self::can_mount() { "a journaled ext4 on a loop device" } else { "the file system of the target directory" }
    }

    fn can_mount() -> bool {
        cfg!(target_os = "linux") && rustix::process::geteuid().is_root()
    }

    fn mount(&mut self, size: u64) -> anyhow::Result<()> {
        let image = self.image.to_str().context("the target directory's name is not text")?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(image)?;
        file.set_len(size)?;
        tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0", image]).output()?;
        let device = tool("losetup", &["--direct-io=on", "--find", "--show", image]).output()?;
        let device = self.device.insert(device.trim().to_owned());
        let dir = self.dir.to_str().context("the target directory's name is not text")?;
        tool("mount", &["-o", "noatime", device, dir]).output()?;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            let dir = self.dir.display().to_string();
            for step in [tool("umount", &[&dir]), tool("losetup", &["--detach", device])] {
                if let Err(error) = step.output() {
                    crate::report::say(&format!("left behind: {error:#}"));
                }
            }
            drop(fs::remove_file(&self.image));
            drop(fs::remove_dir(&self.dir));
        } else {
            drop(fs::remove_dir_all(&self.dir));
        }
    }
}

/// Waits for the turn on the host, where there is a place for its lock.
pub(crate) fn turn() -> anyhow::Result<Option<File>> {
    if !Path::new(TURN).parent().is_some_and(Path::is_dir) {
        return Ok(None);
    }
    match File::options().create(true).truncate(false).write(true).open(TURN) {
        Ok(file) => {
            file.lock().with_context(|| format!("could not lock {TURN}"))?;
            Ok(Some(file))
        }
        // Without the right to it there is also none to change the host.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => bail!("could not open {TURN}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median::<u32>(&[]), None);
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.0));
    }

    #[test]
    fn a_program_costs_something() {
        let cost = cost(&tool("sh", &["-c", "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done"])).unwrap();
        assert!(cost.peak > 100_000, "{cost:?}");
        assert!(super::cost(&tool("sh", &["-c", "exit 3"])).is_err());
    }
}
