//! The leftover table: everything that an environment can leave on a host, one row each, with its detector.
//!
//! With `isolation: private` most rows can't happen: the workload has its own of nearly all of these. The search is made
//! all the same: it costs little, and with `isolation: basic` it is what the promise rests on. What is documented as
//! staying (`docs/src/host-changes.md`) has no row.

mod files;
mod host;
mod table;

use std::cell::OnceCell;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use native_config::EnvironmentId;

use crate::layout::Paths;
use crate::places::Places;
use crate::store::Record;
use crate::{kill, proc, remove, sys};

/// Somewhat longer than logind waits.
const LOGIND: Duration = Duration::from_secs(20);

pub(crate) use host::{stale_locks, uids_with_keys};
use table::PROCESS;
pub use table::{ROWS, Row, render};

/// Whose leftovers are searched for.
pub(crate) struct Search<'a> {
    pub(crate) paths: &'a Paths,
    /// The environment; without one it is a search for what no record speaks of.
    pub(crate) id: Option<&'a EnvironmentId>,
    /// What root did for it.
    pub(crate) record: Option<&'a Record>,
    /// Whether a uid is of those that are searched for.
    pub(crate) owns: &'a dyn Fn(u32) -> bool,
    /// Where an account of the host can write.
    pub(crate) places: &'a Places,
    /// Processes that are certainly not the account's, in order.
    pub(crate) bystanders: &'a [i32],
    /// Whether to wait for what the kernel takes away by itself in a moment.
    pub(crate) patient: bool,
    /// The environment's loop devices, once they were looked for.
    pub(crate) devices: OnceCell<Vec<proc::LoopDevice>>,
}

impl<'a> Search<'a> {
    /// A search for what these uids left and no record speaks of.
    pub(crate) fn without_record(paths: &'a Paths, owns: &'a dyn Fn(u32) -> bool, places: &'a Places) -> Self {
        Self { paths, id: None, record: None, owns, places, bystanders: &[], patient: true, devices: OnceCell::new() }
    }

    /// Whether the name is the account's.
    fn is_name(&self, name: &std::ffi::OsStr) -> bool {
        self.id.is_some_and(|id| name == id.as_ref() as &str)
    }

    /// Whether another source of names than the files (nscd, sssd) may know the account: one that exists inside its
    /// namespaces alone was never in any.
    fn may_be_named_elsewhere(&self) -> bool {
        self.record.is_none_or(|record| record.real)
    }

    /// Whether the process has one of the uids in any column, or the account's own private group.
    fn is_process(&self, process: &proc::Process) -> bool {
        let group = self.record.map(|r| r.uid);
        let mut gids = process.gids.iter();
        !process.zombie && (process.uids.iter().any(|uid| (self.owns)(*uid)) || gids.any(|gid| group == Some(*gid)))
    }
}

/// What can be done about something that was left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// Processes of this uid.
    Process(u32),
    /// A file or a directory of this uid, or one that is called like the account.
    File(PathBuf),
    /// SysV shared memory, semaphores or a message queue, by its id.
    Ipc(&'static str, i32),
    /// A POSIX message queue, by its name.
    Queue(String),
    /// Kernel keys of this uid.
    Keys(u32),
    /// Taken away by the step that made it.
    Step,
    /// Not ours to change: a person must look.
    Alarm,
}

/// One thing that was left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    /// Where it is, or its name, for people.
    pub(crate) place: String,
    pub(crate) thing: Thing,
}

impl Found {
    pub(crate) fn file(path: PathBuf) -> Self {
        Self { place: path.display().to_string(), thing: Thing::File(path) }
    }

    pub(crate) fn step(place: impl Into<String>) -> Self {
        Self { place: place.into(), thing: Thing::Step }
    }

    /// Takes it away, if that is done here. No process of the account may live any more.
    fn remove(&self, search: &Search<'_>) -> io::Result<()> {
        match &self.thing {
            Thing::File(path) => remove::owned(path, &|uid, name| (search.owns)(uid) || search.is_name(name)),
            Thing::Ipc(kind, id) => sys::ipc_remove(kind, *id),
            Thing::Process(uid) => kill::sweep(*uid).map_err(|e| io::Error::other(e.message)),
            Thing::Queue(name) => host::remove_queue(name),
            Thing::Keys(uid) => kill::clear_keyrings(*uid).map_err(|e| io::Error::other(e.message)),
            Thing::Step | Thing::Alarm => Ok(()),
        }
    }
}

/// Everything of these uids (or of the account's name, where a file is called after it), with the row's kind.
///
/// # Errors
/// When a place that is there can't be searched: then nothing may be said to be clean.
pub(crate) fn find(search: &Search<'_>) -> io::Result<Vec<(&'static str, Found)>> {
    let mut all = Vec::new();
    for row in ROWS {
        let mut found = (row.detect)(search).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", row.kind)))?;
        found.sort();
        found.dedup();
        all.extend(found.into_iter().map(|f| (row.kind, f)));
    }
    Ok(all)
}

/// The rows of what can be removed without a step, processes of a record's account apart: whoever has one has just looked
/// for these.
fn removable(search: &Search<'_>) -> impl Iterator<Item = &'static Row> {
    let has_record = search.record.is_some();
    ROWS.iter().filter(move |row| row.by_search && !(has_record && row.kind == PROCESS))
}

/// Whether there is nothing to [`clean`], kernel keys apart, which go with the account. Forks nothing.
///
/// # Errors
/// As for [`find`].
pub(crate) fn is_clean(search: &Search<'_>) -> io::Result<bool> {
    for row in removable(search) {
        if (row.detect)(search)?.iter().any(|found| !matches!(found.thing, Thing::Keys(_))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes what can be removed without a step. What can't is the audit's to tell. With a record, no process of the account
/// may live any more.
pub(crate) fn clean(search: &Search<'_>) -> io::Result<()> {
    for row in removable(search) {
        for found in (row.detect)(search)? {
            drop(found.remove(search));
        }
    }
    Ok(())
}

/// Waits until systemd-logind has removed the runtime directory of a user whose services had been told to linger: a
/// mount of its own that goes ten seconds after the user's last process (logind.conf(5), `UserStopDelaySec`). Few ever
/// have one; one that stays is the audit's to tell.
pub(crate) fn await_logind(uid: u32) {
    let dir = PathBuf::from(format!("/run/user/{uid}"));
    let deadline = Instant::now() + LOGIND;
    while dir.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
}
