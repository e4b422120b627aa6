//! Reading: status, list, wait, enter, audit. Nothing here takes a lock for longer than a look. Blocking, but for
//! [`wait`].

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use native_config::EnvironmentId;
use native_platform::{Enter, EnterIo, ErrorKind, Exit, Leak, Observation, Session, StepError, StepKind};
use tokio_util::sync::CancellationToken;

use crate::driver::OutputSink;
use crate::error::{AuditError, JournalError, ObserveError};
use crate::journal::{Journal, JournalPhase, State};
use crate::node::{Node, blocking};
use crate::operation::describe;
use crate::report::{Audit, EnvironmentPhase, EnvironmentStatus, Grant, Status, UsageNow};
use crate::store::Hold;

/// How long one look of a wait lasts: the most that a cancelled wait keeps a thread busy.
const SLICE: Duration = Duration::from_millis(200);

pub(crate) fn status(node: &Node, id: &EnvironmentId) -> Result<Status, ObserveError> {
    if node.exists(id) || node.known_here()?.contains_key(id) {
        return Ok(Status::Allocated);
    }
    Ok(Status::None)
}

pub(crate) fn inspect(node: &Node, id: &EnvironmentId) -> Result<EnvironmentStatus, ObserveError> {
    if !node.exists(id) {
        return Err(ObserveError::NoSuch(id.clone()));
    }
    Ok(look(node, id))
}

pub(crate) fn list(node: &Node) -> Result<Vec<EnvironmentStatus>, ObserveError> {
    Ok(node.store.ids()?.iter().map(|id| look(node, id)).collect())
}

/// Everything about an environment that has a directory. What can't be told is a problem in the answer.
fn look(node: &Node, id: &EnvironmentId) -> EnvironmentStatus {
    let mut found = EnvironmentStatus {
        identifier: id.clone(),
        status: Status::Allocated,
        phase: EnvironmentPhase::Unreadable,
        running: false,
        exit_code: None,
        exit: None,
        pids: 0,
        usage: UsageNow::default(),
        limits: Grant::default(),
        instance: String::new(),
        created: String::new(),
        user: id.to_string(),
        uid: None,
        home: node.platform.home(id),
        disks: std::collections::BTreeMap::new(),
        layers: std::collections::BTreeMap::new(),
        problems: Vec::new(),
    };
    let mut scope = node.scope(id);
    let mut may_run = true;
    match node.journal(id) {
        Ok(Some(journal)) => {
            found.phase = match journal.phase {
                JournalPhase::Allocating => EnvironmentPhase::Allocating,
                JournalPhase::Allocated => EnvironmentPhase::Allocated,
                JournalPhase::Deallocating => EnvironmentPhase::Deallocating,
                JournalPhase::Leaked => EnvironmentPhase::Leaked,
            };
            let stuck = journal.stuck();
            found.problems.extend(stuck.iter().map(|s| format!("{}: {}", s.step, s.what)));
            found.problems.extend(journal.leaked.iter().map(|l| format!("left behind: {} {}", l.kind, l.path)));
            scope = journal.scope(scope.dir);
            may_run = journal.may_run();
            found.layers = journal.layer_methods().map(|(volume, method, _)| (volume, method)).collect();
            found.limits = journal.grant;
            found.instance = journal.instance.to_string();
            found.created = journal.created;
            found.uid = journal.uid;
            found.home = journal.home;
            found.disks = journal.disks;
        }
        Ok(None) => {
            // Claimed a moment ago, or the claim died.
            found.phase = EnvironmentPhase::Allocating;
            may_run = false;
        }
        Err(error) => found.problems.push(describe(&error)),
    }
    if may_run {
        match observe(node, &scope) {
            Ok(seen) => {
                found.running = seen.running;
                found.exit_code = seen.exit.as_ref().map(|e| e.code);
                found.exit = seen.exit;
                found.pids = seen.pids;
                found.usage = UsageNow {
                    cpu_seconds: seen.cpu_seconds,
                    memory_bytes: seen.memory_bytes,
                    disk_bytes: seen.disk_bytes,
                };
            }
            Err(error) => found.problems.push(error.to_string()),
        }
    }
    found
}

fn observe(node: &Node, scope: &native_platform::Scope) -> Result<Observation, StepError> {
    let mut session = node.platform.open(scope)?;
    let seen = session.observe()?;
    session.finish()?;
    Ok(seen)
}

/// Opens a session to look into an environment that must exist.
fn open(node: &Node, id: &EnvironmentId) -> Result<Box<dyn Session>, ObserveError> {
    if !node.exists(id) {
        return Err(ObserveError::NoSuch(id.clone()));
    }
    let scope = match node.journal(id)? {
        Some(journal) => journal.scope(node.store.dir(id)),
        None => node.scope(id),
    };
    Ok(node.platform.open(&scope)?)
}

/// Waits until the entry has ended.
pub(crate) async fn wait(node: Arc<Node>, id: EnvironmentId, cancel: CancellationToken) -> Result<Exit, ObserveError> {
    let mut session: Option<Box<dyn Session>> = None;
    loop {
        let (task, id) = (Arc::clone(&node), id.clone());
        let look = blocking(move || -> Result<_, ObserveError> {
            let mut open = match session {
                Some(session) => session,
                None => open(&task, &id)?,
            };
            let seen = open.wait(SLICE)?;
            if let Some(exit) = seen.exit {
                open.finish()?;
                return Ok(Err(exit));
            }
            if !seen.up && !being_made(&task, &id)? {
                let message = "the environment is not up any more, and how its entry ended is not known";
                return Err(StepError::new(StepKind::Observe, ErrorKind::Absent, message).into());
            }
            Ok(Ok((open, seen.running)))
        });
        let (open, running) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ObserveError::Cancelled),
            looked = look => match looked.map_err(ObserveError::Bug)?? {
                Ok(looked) => looked,
                Err(exit) => return Ok(exit),
            },
        };
        session = Some(open);
        if !running {
            // It is still being made: the look returned at once.
            tokio::select! {
                () = cancel.cancelled() => return Err(ObserveError::Cancelled),
                () = tokio::time::sleep(SLICE) => {}
            }
        }
    }
}

/// Whether somebody is still making the environment.
fn being_made(node: &Node, id: &EnvironmentId) -> Result<bool, JournalError> {
    let allocating = node.journal(id)?.is_some_and(|j| j.phase == JournalPhase::Allocating);
    Ok(allocating && matches!(node.store.try_hold(id)?, Hold::Busy))
}

pub(crate) fn enter(
    node: &Node,
    id: &EnvironmentId,
    command: &Enter,
    input: Box<dyn Read + Send>,
    mut output: OutputSink,
) -> Result<i32, ObserveError> {
    let mut session = open(node, id)?;
    let code = session.enter(command, EnterIo { input, output: &mut *output })?;
    session.finish()?;
    Ok(code)
}

/// Searches the whole host for what is ours and alive nowhere.
pub(crate) fn audit(node: &Node) -> Result<Audit, AuditError> {
    let mut alive = Vec::new();
    let mut leaked = Vec::new();
    // Environments of other workspaces are for their own drivers to judge, as long as they have a journal there.
    for scope in node.platform.known()? {
        if scope.dir != node.store.dir(&scope.id) && scope.dir.join(crate::store::JOURNAL).exists() {
            alive.push(scope.id);
        }
    }
    for id in node.store.ids()? {
        let leak = |kind: &str| Leak {
            identifier: Some(id.clone()),
            kind: kind.to_owned(),
            path: node.store.dir(&id).display().to_string(),
        };
        let busy = match node.store.try_hold(&id)? {
            Hold::Busy => true,
            Hold::Got(held) => {
                drop(held);
                false
            }
            Hold::NoSuch => continue,
        };
        match node.journal(&id) {
            _ if busy => alive.push(id),
            Ok(Some(journal)) if journal.phase == JournalPhase::Allocated => alive.push(id),
            Ok(_) => leaked.push(leak("environment")),
            Err(_) => leaked.push(leak("journal")),
        }
    }
    leaked.extend(node.platform.audit(&alive)?);
    leaked.sort();
    leaked.dedup();
    Ok(leaked.into())
}

impl Journal {
    /// Whether there may be a workload to look at.
    pub(crate) fn may_run(&self) -> bool {
        let workload = |s: &native_platform::Step| s.kind() == StepKind::Workload;
        self.steps.iter().any(|r| workload(&r.step) && !matches!(r.state, State::Planned | State::Gone))
    }
}
