//! [`FakeHost`]: the state, the numbered calls and their faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use native_config::EnvironmentId;
use native_platform::{Check, ErrorKind, Exit, HostFacts, Scope, StepError, StepKind, VolumeName};

use crate::session::FakePlatform;

/// What goes wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and has done nothing.
    FailBefore,
    /// The call does its work and then says that it failed.
    DoThenFail,
    /// The driver dies just before the call: nothing is done by this call or any later one.
    CrashBefore,
    /// The driver dies just after the call: it is done, and nothing later is.
    CrashAfter,
    /// The driver and its helper die in the middle: the platform's record is written, the effect is not made (or
    /// the effect is taken away and the record is not).
    CrashMid,
    /// The call says `Ok` and has done nothing.
    Lie,
    /// From this call on, the step's revert (or the purge) can't be confirmed: a pinned disk, an account that
    /// can't be deleted. Until [`FakeHost::heal`].
    Stuck,
    /// The call takes this long.
    Hang(Duration),
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its uid.
    pub uid: u32,
    /// Its groups.
    pub groups: Vec<String>,
    /// Whether a driver made it.
    pub ours: bool,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its size; `None` for a plain directory.
    pub bytes: Option<u64>,
    /// The layers over it.
    pub layers: Vec<String>,
    /// Whether a driver made it.
    pub ours: bool,
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its entry's process id.
    pub pid: u32,
    /// Its entry.
    pub entry: String,
    /// Its variables.
    pub variables: Vec<(String, String)>,
    /// How its entry ended; it runs while this is `None`.
    pub exit: Option<Exit>,
    /// Whether a driver made it.
    pub ours: bool,
}

/// Everything that is on the host. Two equal states are two hosts nobody can tell apart, but for the uid counter,
/// which never goes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    /// Accounts by name.
    pub accounts: BTreeMap<String, Account>,
    /// Groups.
    pub groups: BTreeSet<String>,
    /// Volumes by environment and name.
    pub volumes: BTreeMap<(String, VolumeName), Volume>,
    /// Workloads by environment.
    pub workloads: BTreeMap<String, Workload>,
    /// The platform's own records: an environment's scope and which kinds of steps it began.
    pub records: BTreeMap<String, (String, BTreeSet<String>)>,
}

/// A call that was made, for tests that want to know what a fault would hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: &'static str,
    /// The environment.
    pub id: Option<EnvironmentId>,
    /// What it was about.
    pub what: String,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) state: HostState,
    pub(crate) scopes: BTreeMap<String, Scope>,
    pub(crate) calls: Vec<Call>,
    faults: BTreeMap<usize, Fault>,
    pub(crate) pinned: BTreeSet<(String, String)>,
    pub(crate) generation: u64,
    dead: bool,
    pub(crate) helper_survives: bool,
    pub(crate) next_uid: u32,
    pub(crate) next_pid: u32,
    pub(crate) checks: Vec<Check>,
    pub(crate) facts: Option<HostFacts>,
}

/// A host in memory. Clones are the same host.
#[derive(Debug, Clone)]
pub struct FakeHost {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    pub(crate) changed: Condvar,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the host changes, or the time is over.
    pub(crate) fn wait<'a>(&'a self, inner: MutexGuard<'a, Inner>, at_most: Duration) -> MutexGuard<'a, Inner> {
        self.changed.wait_timeout(inner, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// A host of 8 CPUs and 32 GB with nothing of ours on it.
    pub fn new() -> Self {
        let mut inner = Inner { next_uid: 70000, next_pid: 1000, ..Inner::default() };
        inner.facts = Some(HostFacts { cpus: 8, memory_bytes: 32 << 30 });
        inner
            .state
            .accounts
            .insert("root".to_owned(), Account { uid: 0, groups: vec!["root".to_owned()], ours: false });
        inner.state.groups = ["root", "staff", "users"].map(str::to_owned).into();
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new() }) }
    }

    /// The platform of this host, for a process that starts now. After [`Self::restart`], earlier ones are dead.
    pub fn platform(&self) -> FakePlatform {
        FakePlatform { shared: Arc::clone(&self.shared), generation: self.shared.lock().generation }
    }

    /// What is on it.
    pub fn state(&self) -> HostState {
        self.shared.lock().state.clone()
    }

    /// How many calls were made.
    pub fn calls(&self) -> usize {
        self.shared.lock().calls.len()
    }

    /// The calls that were made.
    pub fn log(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    /// Lets the call with this number (from 0, counted from the host's beginning) go wrong.
    pub fn fault(&self, call: usize, fault: Fault) {
        self.shared.lock().faults.insert(call, fault);
    }

    /// Forgets all faults, and lets go of what was pinned.
    pub fn heal(&self) {
        let mut inner = self.shared.lock();
        inner.faults.clear();
        inner.pinned.clear();
    }

    /// The driver's process dies now: no call of it has an effect any more.
    pub fn kill(&self) {
        self.shared.lock().dead = true;
        self.shared.changed.notify_all();
    }

    /// Whether a session whose driver died is reverted by its helper, as one that was dropped is. Else the helper
    /// dies with the driver (the default).
    pub fn set_helper_survives(&self, survives: bool) {
        self.shared.lock().helper_survives = survives;
    }

    /// Whether the driver's process is dead.
    pub fn is_dead(&self) -> bool {
        self.shared.lock().dead
    }

    /// A new process may begin. Platforms and sessions of before stay dead.
    pub fn restart(&self) {
        let mut inner = self.shared.lock();
        inner.dead = false;
        inner.generation += 1;
    }

    /// Puts CPUs and memory in place of the usual ones.
    pub fn set_facts(&self, facts: HostFacts) {
        self.shared.lock().facts = Some(facts);
    }

    /// What [`native_platform::Platform::checks`] says from now on.
    pub fn set_checks(&self, checks: Vec<Check>) {
        self.shared.lock().checks = checks;
    }

    /// An administrator's account of this name, which no driver made.
    pub fn plant_account(&self, name: &str, uid: u32) {
        let account = Account { uid, groups: vec![name.to_owned()], ours: false };
        self.shared.lock().state.accounts.insert(name.to_owned(), account);
    }

    /// A file system of an administrator, at the place of a volume.
    pub fn plant_volume(&self, id: &EnvironmentId, volume: VolumeName) {
        let planted = Volume { bytes: None, layers: Vec::new(), ours: false };
        self.shared.lock().state.volumes.insert((id.to_string(), volume), planted);
    }

    /// A workload's entry ends.
    pub fn end(&self, id: &EnvironmentId, code: i32) {
        let mut inner = self.shared.lock();
        if let Some(workload) = inner.state.workloads.get_mut(id.as_str()) {
            workload.exit = Some(Exit { code, signal: None, out_of_memory: false, lifetime_over: false });
        }
        self.shared.changed.notify_all();
    }
}

impl Inner {
    /// Whether this process is dead.
    pub(crate) fn is_dead(&self, generation: u64) -> bool {
        self.dead || self.generation != generation
    }

    /// Numbers a call, and says what happens to it. An error: nothing of it happens.
    pub(crate) fn begin(
        &mut self,
        generation: u64,
        method: &'static str,
        step: StepKind,
        id: Option<&EnvironmentId>,
        what: String,
    ) -> Result<Option<Fault>, StepError> {
        if self.is_dead(generation) {
            return Err(dead(step));
        }
        let number = self.calls.len();
        self.calls.push(Call { method, id: id.cloned(), what });
        match self.faults.remove(&number) {
            Some(Fault::CrashBefore) => {
                self.dead = true;
                Err(dead(step))
            }
            Some(Fault::FailBefore) => Err(StepError::failed(step, format!("scripted failure of call {number}"))),
            other => Ok(other),
        }
    }

    /// What the caller is told after the work was done.
    pub(crate) fn end<T>(&mut self, fault: Option<Fault>, step: StepKind, result: T) -> Result<T, StepError> {
        match fault {
            Some(Fault::CrashAfter | Fault::CrashMid) => {
                self.dead = true;
                Err(dead(step))
            }
            Some(Fault::DoThenFail) => {
                Err(StepError::new(step, ErrorKind::Failed, "scripted failure after the work was done"))
            }
            _ => Ok(result),
        }
    }
}

/// What a process that is dead is told. It can't act on it.
pub(crate) fn dead(step: StepKind) -> StepError {
    StepError::failed(step, "this process is dead")
}
