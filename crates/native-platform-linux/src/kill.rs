//! Killing by uid, where a cgroup is not enough: processes that others started for the account (cron, a set-uid
//! program, another environment's trick) are not in the environment's group.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use native_platform::{StepError, StepKind};
use nix::sys::wait::waitpid;

use crate::sys::{self, Forked};
use crate::{leftovers, proc};

/// Added to an environment's uid to make the uid that its sweeper has as its real one.
///
/// A sweeper that ran wholly as the environment's uid would be killed by what it sweeps. One whose real and saved
/// ids are another's can't be signalled by the account, while its effective id still lets it signal the account's
/// processes (kill(2)). The other id must belong to no process, not even to another environment's sweeper.
const HOLDER: u32 = 0x6000_0000;
/// The longest that a sweep may take.
const SWEEP: Duration = Duration::from_secs(10);

/// Kills every process that has this uid in any column, and reads back that none is left.
///
/// # Errors
/// [`native_platform::ErrorKind::Stuck`] with the processes that would not go.
pub(crate) fn sweep(uid: u32) -> Result<(), StepError> {
    let stuck = |what: String| StepError::stuck(StepKind::Workload, what);
    let deadline = Instant::now() + SWEEP;
    loop {
        let left = proc::processes_of(uid, &[]).map_err(|e| stuck(format!("list processes: {e}")))?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let names: Vec<_> = left.iter().map(|p| format!("{} ({})", p.pid, p.name)).collect();
            return Err(stuck(format!("processes of uid {uid} survived SIGKILL: {}", names.join(", ")))
                .hint("they wait for a device or a network file system; they go when that answers, or with a reboot"));
        }
        for process in &left {
            thaw(process.pid, uid);
        }
        as_uid(HOLDER + uid, uid, || {
            // One call is atomic with regard to forks; the second catches what was being created by set-uid.
            sys::kill_all_visible();
            sys::kill_all_visible();
        })
        .map_err(|e| stuck(format!("start the sweeper of uid {uid}: {e}")))?;
        thread::sleep(Duration::from_millis(1));
    }
}

/// Thaws the frozen v1 cgroup that a process is in, where nobody else is in it: there, SIGKILL has no effect until then
/// (admin-guide/cgroup-v1/freezer-subsystem.rst). Frozen groups of v2 can be killed.
fn thaw(pid: i32, uid: u32) {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|c| c == "freezer").then_some(path)
    });
    let Some(group) = group.filter(|path| *path != "/") else { return };
    let Ok(mounts) = proc::mounts() else { return };
    let is_freezer = |m: &&proc::Mount| m.kind == "cgroup" && m.super_options.split(',').any(|o| o == "freezer");
    let Some(tree) = mounts.iter().find(is_freezer) else { return };
    let dir = tree.point.join(group.trim_start_matches('/'));
    let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let Ok(ours) = proc::processes_of(uid, &[]) else { return };
    if members.lines().filter_map(|l| l.parse().ok()).all(|pid: i32| ours.iter().any(|p| p.pid == pid)) {
        drop(fs::write(dir.join("freezer.state"), "THAWED"));
    }
}

/// Takes away the kernel keyrings of this uid, which outlive all its processes. A uid without keys has none.
///
/// # Errors
/// When the child that does it can't be started or failed.
pub(crate) fn clear_keyrings(uid: u32) -> Result<(), StepError> {
    let stuck = |what: String| StepError::stuck(StepKind::Account, what);
    if !leftovers::uids_with_keys().map_err(|e| stuck(e.to_string()))?.contains(&uid) {
        return Ok(());
    }
    match sys::fork().map_err(|e| stuck(format!("fork: {e}")))? {
        Forked::Child => {
            let done = sys::set_user_ids(uid, uid, uid)
                .and_then(|()| sys::keyrings_remove())
                .and_then(|()| sys::keyring_persistent_remove());
            sys::exit_now(i32::from(done.is_err()));
        }
        Forked::Parent(pid) => match waitpid(pid, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => Ok(()),
            other => Err(stuck(format!("clear the kernel keyrings of uid {uid}: {other:?}"))),
        },
    }
}

/// Runs something in a child that has these ids, and waits for it.
fn as_uid(real: u32, effective: u32, run: impl FnOnce()) -> std::io::Result<()> {
    match sys::fork()? {
        Forked::Child => {
            if sys::set_group_ids(real, &[]).and_then(|()| sys::set_user_ids(real, effective, real)).is_ok() {
                run();
            }
            sys::exit_now(0);
        }
        Forked::Parent(pid) => waitpid(pid, None).map(drop).map_err(std::io::Error::from),
    }
}
