//! [`Node`]: a driver that was given its config. What all operations share.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use native_config::{Definition, DriverConfig, EnvironmentId, InstanceName};
use native_platform::{Platform, Scope, Step, StepError};
use tokio_util::sync::CancellationToken;

use crate::driver::{AllocateRequest, Plan};
use crate::error::{JournalError, ObserveError, PlanError};
use crate::images::ImageSource;
use crate::journal::Journal;
use crate::operation::Operation;
use crate::plan::{self, Layout};
use crate::progress::Watch;
use crate::store::{Held, Hold, LOG, Store, WorkspaceLock};

/// How often a lock that another process holds is asked for again. Locks are held for an operation on one
/// environment, or for the milliseconds of a claim.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// How long the workspace's lock is waited for. Its holder does nothing but read journals and write one.
const WORKSPACE_PATIENCE: Duration = Duration::from_secs(60);

/// A driver that was given its config.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: InstanceName,
    pub(crate) config: DriverConfig,
    /// Absolute, without symbolic links.
    pub(crate) workspace: PathBuf,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) images: Arc<dyn ImageSource>,
    pub(crate) identifiers: Vec<String>,
    /// An environment of the doctor: small, and made whether or not there is room.
    pub(crate) probe: bool,
}

impl Node {
    /// The scope of an environment whose journal does not say it.
    pub(crate) fn scope(&self, id: &EnvironmentId) -> Scope {
        Scope {
            id: id.clone(),
            dir: self.store.dir(id),
            isolation: self.config.isolation,
            uids: (self.config.uid_min, self.config.uid_max),
        }
    }

    /// Reads a journal. `None`: there is no such file.
    pub(crate) fn journal(&self, id: &EnvironmentId) -> Result<Option<Journal>, JournalError> {
        let Some(found) = self.store.read(id)? else { return Ok(None) };
        Journal::parse(&found.text, &self.store.dir(id).join(found.name), id).map(Some)
    }

    /// An operation on an environment that is locked. Without a journal, the platform's own record counts; its
    /// scope is used where it is known.
    pub(crate) fn operation(&self, held: Held, journal: Option<Journal>, known: Option<&Scope>) -> Operation {
        let scope = match (&journal, known) {
            (Some(journal), _) => journal.scope(self.store.dir(&held.id)),
            (None, Some(scope)) => scope.clone(),
            (None, None) => self.scope(&held.id),
        };
        Operation::new(
            Arc::clone(&self.store),
            Arc::clone(&self.platform),
            Arc::clone(&self.images),
            held,
            scope,
            journal,
        )
    }

    /// What the platform has a record of and lies in this workspace.
    pub(crate) fn known_here(&self) -> Result<BTreeMap<EnvironmentId, Scope>, StepError> {
        let here = |s: &Scope| s.dir == self.store.dir(&s.id);
        Ok(self.platform.known()?.into_iter().filter(here).map(|s| (s.id.clone(), s)).collect())
    }

    /// Whether the environment has a directory.
    pub(crate) fn exists(&self, id: &EnvironmentId) -> bool {
        fs::symlink_metadata(self.store.dir(id)).is_ok_and(|m| m.is_dir())
    }

    pub(crate) fn log_path(&self, id: &EnvironmentId) -> Result<PathBuf, ObserveError> {
        if self.exists(id) { Ok(self.store.dir(id).join(LOG)) } else { Err(ObserveError::NoSuch(id.clone())) }
    }

    /// Takes the workspace's lock. Blocking; `Ok(None)` when cancelled.
    pub(crate) fn lock_workspace(&self, cancel: &CancellationToken) -> Result<Option<WorkspaceLock>, JournalError> {
        let since = Instant::now();
        loop {
            match self.store.try_workspace()? {
                Hold::Got(lock) => return Ok(Some(lock)),
                Hold::Busy if cancel.is_cancelled() => return Ok(None),
                Hold::Busy if since.elapsed() < WORKSPACE_PATIENCE => thread::sleep(ASK_AGAIN),
                Hold::Busy => {
                    return Err(JournalError::Io {
                        action: "wait for the lock of",
                        path: self.workspace.clone(),
                        source: io::Error::from(io::ErrorKind::TimedOut),
                    });
                }
                Hold::NoSuch => {
                    return Err(JournalError::Io {
                        action: "lock",
                        path: self.workspace.clone(),
                        source: io::Error::from(io::ErrorKind::NotFound),
                    });
                }
            }
        }
    }

    /// Waits for an environment's lock. `Ok(None)` when cancelled.
    pub(crate) async fn hold(
        &self,
        id: &EnvironmentId,
        cancel: &CancellationToken,
    ) -> Result<Option<Hold<Held>>, JournalError> {
        loop {
            match self.store.try_hold(id)? {
                Hold::Busy => {}
                found => return Ok(Some(found)),
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
    }

    /// Sizes of what disks are cloned from.
    pub(crate) fn clone_bytes(definition: &Definition) -> BTreeMap<native_config::DiskName, u64> {
        let size =
            |d: &native_config::Disk| fs::metadata(d.clone.as_ref()?).ok().filter(|m| m.is_file()).map(|m| m.len());
        definition.resources.disks.iter().filter_map(|(n, d)| Some((n.clone(), size(d)?))).collect()
    }

    pub(crate) fn layout(&self, id: &EnvironmentId, definition: &Definition) -> Result<Layout, JournalError> {
        let disks = definition.resources.disks.keys();
        Ok(Layout {
            id: id.clone(),
            home: self.platform.home(id),
            disks: disks.map(|d| (d.clone(), self.platform.disk(id, d))).collect(),
            sizes_homes: self.platform.sizes_homes(),
            free_bytes: self.store.free_bytes()?,
            clone_bytes: Self::clone_bytes(definition),
        })
    }

    pub(crate) fn dry_run(&self, request: &AllocateRequest) -> Result<Plan, PlanError> {
        let warnings = plan::validate(&request.definition, Some(&self.config))?;
        let identifier: EnvironmentId = "fish-xxxxxx".parse().map_err(|_| PlanError::NotPrepared)?;
        let layout = self.layout(&identifier, &request.definition)?;
        let steps = plan::plan(request, &self.config, &layout)?;
        Ok(Plan { identifier, steps: steps.iter().map(Step::for_journal).collect(), warnings })
    }
}

/// Runs blocking work. `Err`: it panicked.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())
}

/// Runs an operation that must come to its end even if nobody waits for it any more. When the caller's future is
/// dropped, the operation is cancelled, and cleans up by itself.
pub(crate) async fn detached<T, F>(watch: Watch, operation: impl FnOnce(Watch) -> F) -> Result<T, String>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let watch = watch.child();
    let guard = watch.cancel().clone().drop_guard();
    let result = tokio::spawn(operation(watch)).await.map_err(|e| e.to_string());
    guard.disarm();
    result
}
