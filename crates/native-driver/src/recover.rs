//! Recovery: what earlier processes left is adopted, reverted, purged or reported. Blocking.
//!
//! | what is found | what is done |
//! | --- | --- |
//! | a lock that somebody holds | left alone: it is being worked on |
//! | a journal that says `allocated` | adopted: it goes on |
//! | any other whole journal | reverted, audited, removed |
//! | a directory with nothing but a lock | a claim that died before its first journal: removed |
//! | a record of the platform without a directory | purged, audited |
//! | a damaged or missing journal | kept and reported; purged when an operator asks (`audit --fix`) |
//! | a journal of a newer version | kept and reported, always |
//! | what no record speaks of | removed by the platform's sweep, if anything was reverted or purged |
//!
//! What lies outside this workspace is never touched.

use native_config::EnvironmentId;

use crate::error::{AuditError, CleanupError, Explain, JournalError, PrepareError};
use crate::journal::JournalPhase;
use crate::node::Node;
use crate::operation::{Operation, describe};
use crate::progress::Watch;
use crate::report::{Kept, Recovered};
use crate::store::Hold;
use native_platform::StepError;

/// How far a recovery goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// What is certain: a start does this by itself.
    Certain,
    /// An operator asked: also environments whose journal is damaged, by the host's own record.
    Asked,
}

/// Why nothing could be recovered at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Platform(#[from] StepError),
    #[error("interrupted")]
    Cancelled,
}

impl From<RecoverError> for PrepareError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Journal(e) => e.into(),
            RecoverError::Platform(e) => e.into(),
            RecoverError::Cancelled => Self::Cancelled,
        }
    }
}

impl From<RecoverError> for AuditError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Journal(e) => e.into(),
            RecoverError::Platform(e) => e.into(),
            RecoverError::Cancelled => Self::Bug("interrupted".to_owned()),
        }
    }
}

/// Deals with everything that earlier processes left in this workspace.
pub(crate) fn recover(node: &Node, watch: &Watch, reach: Reach) -> Result<Recovered, RecoverError> {
    let mut recovered = Recovered::default();
    let mut revert = Vec::new();
    let mut purge = Vec::new();
    // What the platform knows is read first: an environment that it knows had its directory before. Not under the lock, for
    // which others may be waiting: to ask starts a program.
    let mut known = node.known_here()?;
    {
        // Claims happen under this lock: what has a directory but no journal is not just being claimed.
        let lock = node.lock_workspace(watch.cancel())?.ok_or(RecoverError::Cancelled)?;
        node.store.sweep(&lock)?;
        for id in node.store.ids()? {
            let scope = known.remove(&id);
            let held = match node.store.try_hold(&id) {
                Ok(Hold::Got(held)) => held,
                Ok(Hold::Busy) => {
                    recovered.busy.push(id);
                    continue;
                }
                // Somebody removed it this moment.
                Ok(Hold::NoSuch) => continue,
                Err(error) => {
                    recovered.kept.push(kept(id, &error));
                    continue;
                }
            };
            match node.journal(&id) {
                Ok(Some(journal)) if journal.phase == JournalPhase::Allocated => recovered.adopted.push(id),
                Ok(Some(journal)) => revert.push(node.operation(held, Some(journal), None)),
                Ok(None) if scope.is_none() && node.store.contents(&id)?.is_empty() => {
                    // Its pin, if a removal had come that far, went before its journal did.
                    match node.store.remove(held) {
                        Ok(()) => recovered.reverted.push(id),
                        Err(error) => recovered.kept.push(kept(id, &error)),
                    }
                }
                Ok(None) if scope.is_some() || reach == Reach::Asked => {
                    purge.push(node.operation(held, None, scope.as_ref()));
                }
                Err(JournalError::Damaged { .. }) if reach == Reach::Asked => {
                    purge.push(node.operation(held, None, scope.as_ref()));
                }
                Ok(None) => recovered.kept.push(kept(id.clone(), &JournalError::Missing { path: node.store.dir(&id) })),
                Err(error) => recovered.kept.push(kept(id, &error)),
            }
        }
        if !known.is_empty() {
            // Somebody may have removed these in the meantime.
            let now = node.known_here()?;
            known.retain(|id, _| now.contains_key(id));
        }
        for (id, scope) in known {
            if let Some(held) = node.store.claim(&lock, &id)? {
                purge.push(node.operation(held, None, Some(&scope)));
            }
        }
    }
    let mut deal = |operations: Vec<Operation>, gone: &mut Vec<EnvironmentId>| {
        for operation in operations {
            let id = operation.held.id.clone();
            match operation.teardown(watch) {
                Ok(_) => gone.push(id),
                Err(error) => recovered.kept.push(kept(id, &error)),
            }
        }
    };
    let (mut reverted, mut purged) = (Vec::new(), Vec::new());
    deal(revert, &mut reverted);
    deal(purge, &mut purged);
    recovered.reverted.append(&mut reverted);
    recovered.purged = purged;
    // Whoever died may also have left what no record speaks of: half a record, a uid. Without a death there is nothing to
    // look for, and the search is too long for every start.
    if !(recovered.reverted.is_empty() && recovered.purged.is_empty())
        && let Err(error) = node.platform.sweep()
    {
        tracing::warn!("what belongs to no record was not searched for: {error}");
    }
    Ok(recovered)
}

fn kept<E: Explain>(identifier: EnvironmentId, error: &E) -> Kept {
    Kept { identifier, message: describe(error), hint: error.hint() }
}

/// Reverts one environment whose operation was lost, by its journal.
pub(crate) fn one(node: &Node, id: &EnvironmentId, watch: &Watch) -> Result<(), CleanupError> {
    let left = |what: String| CleanupError {
        identifier: id.clone(),
        stuck: Vec::new(),
        leaked: Vec::new(),
        other: vec![what],
    };
    let held = match node.store.try_hold(id).map_err(|e| left(describe(&e)))? {
        Hold::Got(held) => held,
        Hold::Busy => return Err(left("another process works on it".to_owned())),
        Hold::NoSuch => return Ok(()),
    };
    let journal = node.journal(id).map_err(|e| left(describe(&e)))?;
    node.operation(held, journal, None).teardown(watch).map(drop)
}
