//! Searching, read-only, for what is left: of one environment, or of all that are not alive. The rows are those of
//! [`crate::leftovers`]; besides them there are root's own records.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use native_config::{EnvironmentId, Isolation};
use native_platform::{Leak, Scope, StepError, StepKind};
use nix::unistd::{Uid, User};

use crate::cgroup::Trees;
use crate::leftovers::{self, Search};
use crate::places::{Age, Places};
use crate::session::LinuxPlatform;
use crate::store::{Record, Store, StoreError};
use crate::{bystanders, layout, pins, proc};

/// A record of an environment that is not alive.
pub(crate) const RECORD: &str = "record";
/// Half a document, whose writer died.
pub(crate) const HALF_RECORD: &str = "half-record";
/// A uid that is held back, and that no environment has.
pub(crate) const HELD_UID: &str = "held-uid";

fn failed(what: &str) -> impl FnOnce(io::Error) -> StepError + '_ {
    move |e| StepError::failed(StepKind::Audit, format!("{what}: {e}"))
}

fn of_store(error: StoreError) -> StepError {
    error.of_step(StepKind::Audit)
}

fn leak(id: Option<&EnvironmentId>, kind: &str, path: impl Into<String>) -> Leak {
    Leak { identifier: id.cloned(), kind: kind.to_owned(), path: path.into() }
}

/// The list of places where this environment may have written.
pub(crate) fn places(platform: &LinuxPlatform, isolation: Isolation) -> Result<Places, StepError> {
    // With the host read-only for it, what there is of a list is enough.
    let age = if isolation == Isolation::Basic { Age::Hour } else { Age::Any };
    Places::load(&platform.paths, age).map_err(of_store)
}

/// What is left of one environment.
pub(crate) fn environment(
    platform: &LinuxPlatform,
    scope: &Scope,
    record: Option<&Record>,
) -> Result<Vec<Leak>, StepError> {
    let places = places(platform, scope.isolation)?;
    let owns = |uid| record.is_some_and(|r| r.uid == uid);
    let id = Some(&scope.id);
    let store = platform.store(StepKind::Audit)?;
    let bystanders = Trees::find().map(|trees| bystanders::of(&trees, &store, &scope.id)).unwrap_or_default();
    let search = Search {
        paths: &platform.paths,
        id,
        record,
        owns: &owns,
        places: &places,
        bystanders: &bystanders,
        patient: true,
        devices: OnceCell::new(),
    };
    let found = leftovers::find(&search).map_err(failed("search for leftovers"))?;
    Ok(found.into_iter().map(|(kind, found)| leak(id, kind, found.place)).collect())
}

/// What is on the host and ours, and belongs to no record.
struct Strays {
    /// Environments with a device or a cgroup of that name.
    ids: BTreeSet<EnvironmentId>,
}

impl Strays {
    fn find(store: &Store) -> Result<Self, StepError> {
        let loops = proc::loops(&|_| true).map_err(failed("list loop devices"))?;
        let mut ids: BTreeSet<EnvironmentId> = loops.iter().filter_map(|l| layout::device_owner(&l.name)).collect();
        if let Ok(trees) = Trees::find() {
            ids.extend(trees.environments().iter().filter_map(|(name, _)| name.parse::<EnvironmentId>().ok()));
        }
        // After these were seen: a record is written before anything is made.
        let known: BTreeSet<_> = store.records().map_err(of_store)?.into_iter().map(|r| r.scope.id).collect();
        ids.retain(|id| !known.contains(id));
        Ok(Self { ids })
    }
}

/// Does something with a search for what was left by uids that were given to environments, and that no record and no
/// user of the host has.
fn with_orphans<T>(
    platform: &LinuxPlatform,
    store: &Store,
    run: impl FnOnce(&Search<'_>) -> Result<T, StepError>,
) -> Result<T, StepError> {
    let places = Places::load(&platform.paths, Age::Hour).map_err(of_store)?;
    let given = store.uids().map_err(of_store)?.given;
    let known = RefCell::new(BTreeSet::new());
    let owns = |uid: u32| {
        if !given.iter().any(|(from, to)| (*from..=*to).contains(&uid)) || known.borrow().contains(&uid) {
            return false;
        }
        // Read anew each time: the record of what was just seen is older than what was seen.
        let Ok(records) = store.records() else { return false };
        known.borrow_mut().extend(records.into_iter().map(|r| r.uid));
        !known.borrow().contains(&uid) && matches!(User::from_uid(Uid::from_raw(uid)), Ok(None))
    };
    run(&Search::without_record(&platform.paths, &owns, &places))
}

/// What is left on the host of environments that are not alive.
pub(crate) fn host(platform: &LinuxPlatform, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
    let store = platform.store(StepKind::Audit)?;
    let mut leaks = Vec::new();
    for id in Strays::find(&store)?.ids.iter().filter(|id| !alive.contains(id)) {
        leaks.extend(environment(platform, &stray(id), None)?);
    }
    let records = store.records().map_err(of_store)?;
    let is_dead = |r: &&Record| platform.may_see(r) && !alive.contains(&r.scope.id) && !store.is_busy(&r.scope.id);
    for record in records.iter().filter(is_dead) {
        let file = platform.paths.state.join("environments").join(format!("{}.json", record.scope.id));
        leaks.push(leak(Some(&record.scope.id), RECORD, file.display().to_string()));
        leaks.extend(environment(platform, &record.scope, Some(record))?);
    }
    leaks.extend(
        store.halves().map_err(of_store)?.iter().map(|path| leak(None, HALF_RECORD, path.display().to_string())),
    );
    let held = store.uids().map_err(of_store)?.held;
    let known: BTreeSet<_> = store.records().map_err(of_store)?.iter().map(|r| r.uid).collect();
    leaks.extend(held.difference(&known).map(|uid| leak(None, HELD_UID, uid.to_string())));
    let orphans =
        with_orphans(platform, &store, |search| leftovers::find(search).map_err(failed("search for leftovers")))?;
    leaks.extend(orphans.into_iter().map(|(kind, found)| leak(None, kind, found.place)));
    leaks.sort();
    leaks.dedup();
    Ok(leaks)
}

/// Removes what [`host`] finds of ours that belongs to no record. Records are the driver's to purge.
pub(crate) fn sweep(platform: &LinuxPlatform) -> Result<(), StepError> {
    let store = platform.store(StepKind::Audit)?;
    for id in Strays::find(&store)?.ids {
        if let Ok(trees) = Trees::find() {
            let groups = trees.of(&id);
            if groups.alive() {
                // Somebody supervises it whose records are elsewhere: another system on the same kernel.
                continue;
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            groups.remove(deadline).map_err(failed("remove a cgroup"))?;
        }
        for device in proc::loops(&|_| true).map_err(failed("list loop devices"))? {
            if layout::device_owner(&device.name).as_ref() == Some(&id) {
                // It goes with its last user. It is not ended: that one may be alive, with its records elsewhere.
                drop(pins::detach(&device));
            }
        }
    }
    for left in store.halves().map_err(of_store)?.into_iter().chain(store.idle_locks().map_err(of_store)?) {
        match fs::remove_file(&left) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove half a record")(e)),
            _ => {}
        }
    }
    with_orphans(platform, &store, |search| leftovers::clean(search).map_err(failed("remove leftovers")))?;
    let places = Places::load(&platform.paths, Age::Any).map_err(of_store)?;
    let is_clean = |uid: u32| {
        let owns = |other| other == uid;
        let search = Search::without_record(&platform.paths, &owns, &places);
        leftovers::find(&search).is_ok_and(|found| found.iter().all(|(kind, _)| *kind == "database-lock"))
    };
    store.release_unknown(&is_clean).map_err(of_store)
}

/// The scope of something that has no record.
fn stray(id: &EnvironmentId) -> Scope {
    Scope {
        id: id.clone(),
        dir: Path::new("/nonexistent").join(id.as_ref()),
        isolation: Isolation::Private,
        uids: (0, 0),
    }
}
