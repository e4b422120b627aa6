//! Deallocation, for one environment, by name.

use std::sync::Arc;

use native_config::EnvironmentId;
use native_platform::Scope;

use crate::error::{DeallocateError, JournalError};
use crate::journal::Journal;
use crate::node::{Node, blocking};
use crate::progress::Watch;
use crate::report::{Audit, Deallocated};
use crate::store::{Held, Hold};

/// Removes an environment. Once it has begun it is not cancelled any more.
pub(crate) async fn deallocate(
    node: Arc<Node>,
    id: EnvironmentId,
    watch: Watch,
) -> Result<Deallocated, DeallocateError> {
    let found = node.hold(&id, watch.cancel()).await?.ok_or(DeallocateError::Cancelled)?;
    blocking(move || {
        let known = match &found {
            // The host may know an environment that has no directory any more.
            Hold::NoSuch => Some(node.known_here()?.remove(&id).ok_or_else(|| DeallocateError::NoSuch(id.clone()))?),
            _ => None,
        };
        let held = match found {
            Hold::Got(held) => held,
            Hold::NoSuch | Hold::Busy => {
                let lock = node.lock_workspace(watch.cancel())?.ok_or(DeallocateError::Cancelled)?;
                node.store.claim(&lock, &id)?.ok_or_else(|| DeallocateError::NoSuch(id.clone()))?
            }
        };
        remove(&node, held, known, &watch)
    })
    .await
    .unwrap_or_else(|bug| Err(DeallocateError::Bug(bug)))
}

/// Removes an environment that is locked. Blocking.
fn remove(node: &Node, held: Held, known: Option<Scope>, watch: &Watch) -> Result<Deallocated, DeallocateError> {
    let id = held.id.clone();
    let (journal, known) = match node.journal(&id) {
        Ok(Some(journal)) => (Some(journal), known),
        // Nobody can say from this workspace what was made. The host's own record can.
        Ok(None) | Err(JournalError::Damaged { .. } | JournalError::Missing { .. }) => {
            (None, if known.is_some() { known } else { node.known_here()?.remove(&id) })
        }
        Err(error) => return Err(error.into()),
    };
    let up = journal.as_ref().is_some_and(Journal::may_run);
    let mut operation = node.operation(held, journal, known.as_ref());
    let exit_code = if up { operation.exit_code() } else { None };
    let timings_ms = operation.teardown(watch)?;
    Ok(Deallocated { identifier: id, exit_code, timings_ms, audit: Audit { clean: true, leaked: Vec::new() } })
}
