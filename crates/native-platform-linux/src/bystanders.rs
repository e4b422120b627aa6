//! Processes that need not be looked at when those of one account are searched for: a greedy tenant has thousands, and to
//! look at one takes 10 us.
//!
//! They are those of other environments whose workloads can't gain an id that they were not started with: without
//! `allow_setuid` they have no_new_privs, and no capability. One that is started while they are listed is looked at. One
//! that is listed, and whose number is another process's by the time that it is passed over, some milliseconds later,
//! would be missed; the next search has another list.

use native_config::EnvironmentId;

use crate::cgroup::Trees;
use crate::store::Store;

/// The processes of this kind, beside those of `id`, in order.
pub(crate) fn of(trees: &Trees, store: &Store, id: &EnvironmentId) -> Vec<i32> {
    let keeps_ids = |id: &EnvironmentId| matches!(store.record(id), Ok(Some(record)) if !record.allow_setuid);
    let others = trees.crowds().into_iter().filter(|(other, _)| other != id && keeps_ids(other));
    let mut pids: Vec<i32> = others.flat_map(|(_, pids)| pids).collect();
    pids.sort_unstable();
    pids
}
