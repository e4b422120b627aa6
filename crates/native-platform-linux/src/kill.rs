//! Killing by uid, where a cgroup is not enough: processes that others started for the account (cron, a set-uid
//! program, another environment's trick) are not in the environment's group.

use std::thread;
use std::time::{Duration, Instant};

use native_platform::{StepError, StepKind};
use nix::sys::wait::waitpid;

use crate::proc;
use crate::sys::{self, Forked};

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
        let left = proc::processes_of(uid).map_err(|e| stuck(format!("list processes: {e}")))?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let names: Vec<_> = left.iter().map(|p| format!("{} ({})", p.pid, p.name)).collect();
            return Err(stuck(format!("processes of uid {uid} survived SIGKILL: {}", names.join(", ")))
                .hint("they wait for a device or a network file system; they go when that answers, or with a reboot"));
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

/// Empties the kernel keyrings of this uid, which outlive all its processes.
///
/// # Errors
/// When the child that does it can't be started or failed.
pub(crate) fn clear_keyrings(uid: u32) -> Result<(), StepError> {
    let stuck = |what: String| StepError::stuck(StepKind::Account, what);
    match sys::fork().map_err(|e| stuck(format!("fork: {e}")))? {
        Forked::Child => {
            let done = sys::set_user_ids(uid, uid, uid).and_then(|()| sys::keyrings_clear());
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
