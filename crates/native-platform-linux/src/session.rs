//! One operation on one environment, and the platform that opens it.
//!
//! A session that makes an environment moves its whole process into a mount namespace of its own: it runs in the
//! helper, one session per process, and never in a program with other things to do.

mod make;

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use native_config::{DiskName, EnvironmentId};
use native_platform::{
    Check, Enter, EnterIo, ErrorKind, Executed, HostFacts, Leak, Observation, Platform, Presence, Receipt, Runner,
    Scope, Session, Step, StepError, StepKind, WorkloadStep, one_by_one,
};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::cgroup::{Groups, Trees};
use crate::commands::Tools;
use crate::init::Report;
use crate::keeper::{self, Keeper};
use crate::layout::Paths;
use crate::leftovers::{self, Search};
use crate::store::{Record, Store};
use crate::sys::{self, Forked};
use crate::{account, audit, bystanders, checks, discard, enter, kill, layers, observe, proc, volume};

/// How long the kernel may take to end killed processes.
const KILL: Duration = Duration::from_secs(10);

/// A Linux host.
#[derive(Debug, Clone)]
pub struct LinuxPlatform {
    pub(crate) paths: Paths,
    pub(crate) tools: Tools,
    /// The user who asks: root itself, or who called the helper through sudo.
    pub(crate) caller: u32,
}

impl LinuxPlatform {
    /// This host. `caller` is the uid on whose behalf root acts.
    pub fn new(paths: Paths, runner: Arc<dyn Runner>, caller: u32) -> Self {
        Self { paths, tools: Tools::new(runner), caller }
    }

    /// Whether an environment is the caller's. Root may see all.
    pub(crate) fn may_see(&self, record: &Record) -> bool {
        self.caller == 0 || record.caller == self.caller
    }

    pub(crate) fn store(&self, step: StepKind) -> Result<Store, StepError> {
        Store::open(&self.paths.state).map_err(|e| {
            let error = e.of_step(step);
            // Not being root is by far the most common reason.
            if nix::unistd::geteuid().is_root() {
                error
            } else {
                StepError { kind: ErrorKind::NotReady, ..error }.hint("run it as root, or install the helper")
            }
        })
    }
}

impl Platform for LinuxPlatform {
    fn name(&self) -> &'static str {
        "linux"
    }

    fn home(&self, id: &EnvironmentId) -> PathBuf {
        self.paths.home(id)
    }

    fn disk(&self, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
        self.paths.disk(id, disk)
    }

    fn sizes_homes(&self) -> bool {
        true
    }

    fn facts(&self) -> Result<HostFacts, StepError> {
        checks::facts()
    }

    fn checks(&self) -> Result<Vec<Check>, StepError> {
        Ok(checks::all(&self.paths))
    }

    fn open(&self, scope: &Scope) -> Result<Box<dyn Session>, StepError> {
        let store = self.store(StepKind::Platform)?;
        let record = store.record(&scope.id).map_err(|e| e.of_step(StepKind::Platform))?;
        if let Some(record) = &record
            && (!self.may_see(record) || record.scope.dir != scope.dir)
        {
            return Err(StepError::new(
                StepKind::Platform,
                ErrorKind::Foreign,
                format!("{} was made for another user or workspace ({})", scope.id, record.scope.dir.display()),
            ));
        }
        let session = LinuxSession {
            platform: self.clone(),
            store,
            scope: scope.clone(),
            record,
            host: None,
            lock: None,
            executed: Vec::new(),
            less: false,
            finished: false,
        };
        Ok(Box::new(session))
    }

    fn known(&self) -> Result<Vec<Scope>, StepError> {
        let records = self.store(StepKind::Audit)?.records().map_err(|e| e.of_step(StepKind::Audit))?;
        Ok(records.into_iter().filter(|r| self.may_see(r)).map(|r| r.scope).collect())
    }

    fn audit(&self, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
        audit::host(self, alive)
    }

    fn sweep(&self) -> Result<(), StepError> {
        audit::sweep(self)
    }
}

struct LinuxSession {
    platform: LinuxPlatform,
    store: Store,
    scope: Scope,
    record: Option<Record>,
    /// The host's mount namespace, once this process has left it.
    host: Option<OwnedFd>,
    /// The environment's lock, from the first call that changes something on.
    lock: Option<File>,
    executed: Vec<Step>,
    /// Whether there is less than what the record on disk says.
    less: bool,
    finished: bool,
}

impl LinuxSession {
    /// Takes the environment for this session alone. Whoever had it before may have changed its record.
    fn own(&mut self, step: StepKind) -> Result<(), StepError> {
        if self.lock.is_none() {
            self.lock = Some(self.store.lock_environment(&self.scope.id).map_err(|e| e.of_step(step))?);
            self.record = self.store.record(&self.scope.id).map_err(|e| e.of_step(step))?;
        }
        Ok(())
    }

    fn record(&self, step: StepKind) -> Result<&Record, StepError> {
        self.record.as_ref().ok_or_else(|| {
            StepError::new(step, ErrorKind::Absent, format!("{} has no account on this host", self.scope.id))
        })
    }

    fn groups(&self, step: StepKind) -> Result<Groups, StepError> {
        let trees = Trees::find().map_err(|e| {
            StepError::new(step, ErrorKind::NotReady, format!("find the cgroups: {e}"))
                .hint("mount -t cgroup2 none /sys/fs/cgroup")
        })?;
        Ok(trees.of(&self.scope.id))
    }

    /// Changes the record by what a power cut takes away by itself.
    fn note(&mut self, step: StepKind, change: impl FnOnce(&mut Record)) -> Result<(), StepError> {
        let mut record = self.record(step)?.clone();
        change(&mut record);
        self.store.note(&record).map_err(|e| e.of_step(step))?;
        self.record = Some(record);
        Ok(())
    }

    /// Changes the record by what can outlive a power cut.
    fn keep(&mut self, step: StepKind, change: impl FnOnce(&mut Record)) -> Result<(), StepError> {
        let mut record = self.record(step)?.clone();
        change(&mut record);
        self.store.keep(&record).map_err(|e| e.of_step(step))?;
        self.record = Some(record);
        Ok(())
    }

    /// Remembers what is less than before. It is noted when the session ends, unless nothing is left then: until that the
    /// record says more than is there, which the next one finds out.
    fn note_less(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            change(record);
            self.less = true;
        }
    }

    /// That it can't be written (a full disk) does not stop a removal.
    fn note_what_is_less(&mut self) {
        if self.less
            && let Some(record) = &self.record
        {
            drop(self.store.note(record));
        }
        self.less = false;
    }

    fn delete_account(&mut self) -> Result<(), StepError> {
        let Some(record) = &self.record else { return Ok(()) };
        let (own, home) = (self.platform.paths.own(&self.scope.id), self.platform.paths.home(&self.scope.id));
        volume::unmount_below(&[own.clone(), home])?;
        remove_own(&own)?;
        account::delete(&self.platform.tools, &self.store, record, &self.platform.paths.home(&self.scope.id))
    }

    /// Undoes the half of a step that failed; a failed clean-up never hides the first error.
    fn undo(
        &mut self,
        step: StepKind,
        error: StepError,
        revert: impl FnOnce(&mut Self) -> Result<(), StepError>,
    ) -> StepError {
        match revert(self) {
            Ok(()) => error,
            Err(left) => StepError {
                step,
                kind: ErrorKind::Stuck,
                message: format!("{}; and cleaning up: {}", error.message, left.message),
                hint: left.hint.or(error.hint),
            },
        }
    }

    fn start(&mut self, step: &WorkloadStep) -> Result<Receipt, StepError> {
        const STEP: StepKind = StepKind::Workload;
        let groups = self.groups(STEP)?;
        self.note(STEP, |r| {
            r.stop_grace_ms = step.stop_grace_ms;
            r.open_files = step.limits.open_files;
            r.allow_setuid = step.allow_setuid;
            r.writable_paths.clone_from(&step.writable_paths);
        })?;
        groups.create(&step.limits).map_err(|e| {
            let error = StepError::failed(STEP, format!("create the cgroup: {e}"));
            if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem {
                error.hint("the cgroup file system is read-only here: run outside of a container, or with limits: off")
            } else {
                error
            }
        })?;
        let dir = openat(
            nix::fcntl::AT_FDCWD,
            &self.scope.dir,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| StepError::failed(STEP, format!("open {}: {e}", self.scope.dir.display())))?;
        let (read, write) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| StepError::failed(STEP, format!("make a pipe: {e}")))?;
        // All that can fail is done before the fork: the child must never come back here.
        let record = self.record(STEP)?.clone();
        let host = self.host.take();
        let group =
            groups.open_keeper().map_err(|e| StepError::failed(STEP, format!("open the keeper's cgroup: {e}")))?;
        let started = sys::clone_into(0, Some(group.as_fd()));
        let keeper = match started.map_err(|e| StepError::failed(STEP, format!("start the keeper: {e}")))? {
            Forked::Child => {
                // The lock belongs to the open file, which the two of us share: the keeper must not prolong it.
                drop((read, group, self.lock.take()));
                let paths = &self.platform.paths;
                keeper::run(Keeper {
                    paths,
                    record: &record,
                    step,
                    groups: &groups,
                    dir,
                    host,
                    report: File::from(write),
                })
            }
            Forked::Parent(pid) => pid.as_raw(),
        };
        drop(write);
        let (mut init, mut entry, mut problem) = (None, None, None);
        for line in BufReader::new(File::from(read)).lines() {
            let line = line.map_err(|e| StepError::failed(STEP, format!("read from the keeper: {e}")))?;
            match serde_json::from_str(&line) {
                Ok(Report::Init(pid)) => init = Some(pid),
                Ok(Report::Entry(pid)) => entry = Some(pid),
                Ok(Report::Refused(why)) => {
                    problem = Some(
                        StepError::new(STEP, ErrorKind::Invalid, format!("can't start the entry: {why}"))
                            .hint("check `entry` in the label and the modes of the files in its images"),
                    );
                }
                Ok(Report::Failed(why)) => problem = Some(StepError::failed(STEP, why)),
                Err(e) => problem = Some(StepError::failed(STEP, format!("the keeper said {line:?}: {e}"))),
            }
        }
        // Every writer is gone: the entry's program runs, or somebody on the way there has ended.
        let lost = || StepError::failed(STEP, "the keeper ended before the entry was started");
        let (init, entry) = match (problem, init, entry) {
            (None, Some(init), Some(entry)) => (init, entry),
            (problem, ..) => return Err(self.undo(STEP, problem.unwrap_or_else(lost), |s| s.stop(Duration::ZERO))),
        };
        self.note(STEP, |r| {
            r.keeper = proc::identify(keeper);
            r.init = proc::identify(init);
            r.entry = Some(entry);
        })?;
        Ok(Receipt::Workload { pid: u32::try_from(entry).unwrap_or(0) })
    }

    fn stop(&mut self, grace: Duration) -> Result<(), StepError> {
        const STEP: StepKind = StepKind::Workload;
        let stuck = |e: std::io::Error| {
            StepError::stuck(STEP, e.to_string()).hint("see what those processes wait for: cat /proc/PID/stack")
        };
        let groups = self.groups(STEP)?;
        let deadline = Instant::now() + grace + KILL;
        let (mut ending, mut going) = (None, None);
        if groups.exist() {
            keeper::stop_workload(&groups, grace, &mut || {});
            if let Some(record) = &self.record {
                let disks = discard::disks(&self.platform.paths, record);
                ending = keeper::retire(record);
                going = Some(discard::let_go(disks, ending.as_ref().map(|(_, first)| first)));
            }
        }
        // While the kernel takes the namespaces down: only looked, because nothing forks beside threads. What is left runs as
        // the account's user, the keeper and the first process do not.
        let quiet = self.record.as_ref().map(|record| self.is_quiet(&groups, record)).transpose();
        if let Some(going) = going {
            going.wait();
        }
        if let (Some(record), Some(is_quiet)) = (&self.record, quiet.map_err(stuck)?) {
            if !is_quiet {
                kill::sweep(record.uid)?;
                self.searched(record, leftovers::clean).map_err(stuck)?;
            }
            leftovers::await_logind(record.uid);
        }
        if let Some((keeper, _)) = ending {
            keeper.wait();
        }
        groups.kill(deadline).map_err(stuck)?;
        groups.remove(deadline).map_err(stuck)?;
        self.note_less(|r| {
            r.keeper = None;
            r.init = None;
            r.entry = None;
        });
        Ok(())
    }

    /// Whether no process of the account lives, and it has left nothing in places that are not its own.
    fn is_quiet(&self, groups: &Groups, record: &Record) -> std::io::Result<bool> {
        let bystanders = bystanders::of(groups.trees(), &self.store, &self.scope.id);
        let is_alone = proc::processes_of(record.uid, &bystanders)?.is_empty();
        Ok(is_alone && self.searched(record, leftovers::is_clean)?)
    }

    fn searched<T>(&self, record: &Record, run: impl FnOnce(&Search<'_>) -> std::io::Result<T>) -> std::io::Result<T> {
        let places =
            audit::places(&self.platform, self.scope.isolation).map_err(|e| std::io::Error::other(e.message))?;
        let owns = |uid| uid == record.uid;
        let (paths, id) = (&self.platform.paths, Some(&self.scope.id));
        // Keys go with the account.
        let (record, devices) = (Some(record), OnceCell::new());
        run(&Search { paths, id, record, owns: &owns, places: &places, bystanders: &[], patient: false, devices })
    }

    fn revert_step(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Account(_) => {
                self.delete_account()?;
                // What root remembers stays until the audit: only then may the uid go to somebody else.
                Ok(())
            }
            Step::Volume(volume) => self.remove_volume(volume),
            Step::Layers(step) => match &self.record {
                Some(record) => layers::remove(&self.platform.paths, record, step),
                None => Ok(()),
            },
            Step::Workload(workload) => self.stop(Duration::from_millis(workload.stop_grace_ms)),
        }
    }

    fn probe_one(&self, step: &Step) -> Result<Presence, StepError> {
        let ours = |there| if there { Presence::Ours } else { Presence::Absent };
        match step {
            Step::Account(_) => account::probe(&self.scope.id, self.record.as_ref()),
            Step::Volume(step) => match &self.record {
                Some(record) => Ok(ours(volume::present(&self.platform.paths, record, step)?)),
                None => Ok(Presence::Absent),
            },
            // A layer is there as long as the namespace that it was mounted in.
            Step::Layers(_) | Step::Workload(_) => Ok(ours(self.groups(step.kind())?.exist())),
        }
    }

    fn execute_one(&mut self, step: &Step) -> Result<Receipt, StepError> {
        self.own(step.kind())?;
        match step {
            Step::Account(account) => {
                let made = self.make(Some(account), &[]).into_iter().next();
                made.map_or_else(|| Err(StepError::failed(StepKind::Account, "it was not begun")), |made| made.result)
            }
            Step::Volume(step) => self.make_filled(step),
            Step::Layers(step) => {
                let record = self.record(StepKind::Layers)?;
                let kept = record.volumes.iter().any(|v| v.volume == step.volume && v.reuse);
                layers::apply(&self.platform.paths, record, step, kept)
                    .map(|(method, why)| Receipt::Layers { method: method.name().to_owned(), why })
            }
            Step::Workload(step) => self.start(step),
        }
    }
}

/// Removes the directory of mount points: empty but for the files that show an ephemeral account.
fn remove_own(dir: &Path) -> Result<(), StepError> {
    for name in [".passwd", ".group"] {
        drop(fs::remove_file(dir.join(name)));
    }
    volume::remove_point(dir)
}

impl Session for LinuxSession {
    fn ready(&mut self) -> Result<(), StepError> {
        Ok(())
    }

    fn probe_all(&mut self, steps: &[Step]) -> Result<Vec<Presence>, StepError> {
        steps.iter().map(|step| self.probe_one(step)).collect()
    }

    fn execute_all(&mut self, steps: &[Step]) -> Vec<Executed> {
        let done = match make::at_once(steps) {
            Some((account, volumes)) => self.make(account, &volumes),
            None => one_by_one(steps, |step| self.execute_one(step)),
        };
        let made = steps.iter().zip(&done).filter(|(_, done)| done.result.is_ok());
        self.executed.extend(made.map(|(step, _)| step.clone()));
        done
    }

    fn revert_all(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let revert = |step: &Step| {
            self.own(step.kind())?;
            self.revert_step(step)?;
            self.executed.retain(|e| e != step);
            Ok(())
        };
        steps.iter().map(revert).collect()
    }

    fn purge(&mut self) -> Result<(), StepError> {
        self.own(StepKind::Platform)?;
        let grace = self.record.as_ref().map_or(0, |r| r.stop_grace_ms);
        self.stop(Duration::from_millis(grace))?;
        let volumes = self.record.as_ref().map(|r| r.volumes.clone()).unwrap_or_default();
        for volume in volumes.iter().rev() {
            self.remove_volume(volume)?;
        }
        volume::untie_strays(&self.platform.paths, &self.scope)?;
        self.delete_account()
    }

    fn observe(&mut self) -> Result<Observation, StepError> {
        observe::now(self.record.as_ref(), &self.groups(StepKind::Observe)?)
    }

    fn wait(&mut self, at_most: Duration) -> Result<Observation, StepError> {
        if let Some(record) = &self.record {
            observe::wait(record, at_most)?;
        }
        self.observe()
    }

    fn enter(&mut self, command: &Enter, io: EnterIo<'_>) -> Result<i32, StepError> {
        let groups = self.groups(StepKind::Observe)?;
        enter::run(&self.platform.paths, self.record(StepKind::Observe)?, &groups, command, io)
    }

    fn audit(&mut self) -> Result<Vec<Leak>, StepError> {
        self.own(StepKind::Audit)?;
        let leaks = audit::environment(&self.platform, &self.scope, self.record.as_ref())?;
        if leaks.is_empty() {
            match self.record.take() {
                Some(record) => self.store.release(&record).map_err(|e| e.of_step(StepKind::Audit))?,
                // Whoever began may have died while it wrote the first record.
                None => self.store.forget_halves(&self.scope.id),
            }
        }
        Ok(leaks)
    }

    fn finish(mut self: Box<Self>) -> Result<(), StepError> {
        self.finished = true;
        Ok(())
    }
}

impl Drop for LinuxSession {
    fn drop(&mut self) {
        // The caller went away in the middle. What can't be reverted here is in the record, and in the journal.
        while !self.finished
            && let Some(step) = self.executed.pop()
            && self.revert_step(&step).is_ok()
        {}
        self.note_what_is_less();
        if let Some(lock) = self.lock.take() {
            self.store.unlock_environment(&self.scope.id, &lock);
        }
    }
}
