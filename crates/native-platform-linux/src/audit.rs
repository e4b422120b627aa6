//! Searching, read-only, for what is left: one detector per sort of thing (the rows of `docs/src/security.md`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use native_config::EnvironmentId;
use native_platform::{Leak, Scope, StepError, StepKind};

use crate::account;
use crate::cgroup::Trees;
use crate::layout;
use crate::leftovers;
use crate::proc;
use crate::session::LinuxPlatform;
use crate::store::Record;

/// Files of the user database. The backups that shadow-utils leaves (`/etc/passwd-`) keep the last name that was
/// removed: documented as exempt.
const DATABASE: [&str; 6] = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid"];

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> StepError + '_ {
    move |e| StepError::failed(StepKind::Audit, format!("{what}: {e}"))
}

/// A list that is being made.
struct Found {
    id: Option<EnvironmentId>,
    leaks: Vec<Leak>,
}

impl Found {
    fn add(&mut self, kind: &str, path: impl Into<String>) {
        self.leaks.push(Leak { identifier: self.id.clone(), kind: kind.to_owned(), path: path.into() });
    }
}

/// What is left of one environment.
pub(crate) fn environment(
    platform: &LinuxPlatform,
    scope: &Scope,
    record: Option<&Record>,
) -> Result<Vec<Leak>, StepError> {
    let mut found = Found { id: Some(scope.id.clone()), leaks: Vec::new() };
    let id = &scope.id;
    if let Some(record) = record {
        for process in proc::processes_of(record.uid).map_err(failed("list processes"))? {
            found.add("process", format!("{} ({})", process.pid, process.name));
        }
        for leftover in leftovers::find(record.uid, id.as_ref()).map_err(failed("search for leftovers"))? {
            let (kind, path) = leftover.describe();
            found.add(kind, path);
        }
        for volume in &record.volumes {
            let dir = crate::volume::directory(&platform.paths, record, &volume.volume);
            if dir.exists() {
                found.add("disk", dir.display().to_string());
            }
        }
    }
    for device in proc::loops().map_err(failed("list loop devices"))? {
        if layout::device_owner(&device.name).as_ref() == Some(id) {
            found.add("loop", device.device.display().to_string());
        }
    }
    let ours = [platform.paths.own(id), platform.paths.home(id)];
    for mount in proc::mounts().map_err(failed("list mounts"))? {
        if ours.iter().any(|dir| mount.point.starts_with(dir)) {
            found.add("mount", mount.point.display().to_string());
        }
    }
    for dir in ours {
        if fs::symlink_metadata(&dir).is_ok() {
            found.add("file", dir.display().to_string());
        }
    }
    if let Ok(trees) = Trees::find() {
        for (_, path) in trees.environments().into_iter().filter(|(name, _)| name == id.as_ref()) {
            found.add("cgroup", path.display().to_string());
        }
    }
    if account::user(id.as_ref())?.is_some() {
        found.add("account", id.to_string());
    }
    database(id, &mut found)?;
    Ok(found.leaks)
}

/// Lines of the user database that name the account, as itself or as a member of a group.
fn database(id: &EnvironmentId, found: &mut Found) -> Result<(), StepError> {
    for file in DATABASE {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            // Not every system has all six.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(&format!("read {file}"))(e)),
        };
        if text.split(['\n', ':', ',']).any(|word| word == id.as_ref()) {
            found.add("account", file);
        }
    }
    Ok(())
}

/// What is left on the host of environments that are not alive.
pub(crate) fn host(platform: &LinuxPlatform, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
    let records = platform.store(StepKind::Audit)?.records().map_err(|e| e.of_step(StepKind::Audit))?;
    let mut dead: BTreeMap<EnvironmentId, Option<Record>> = BTreeMap::new();
    let mut leaks = Vec::new();
    for record in records.into_iter().filter(|r| !alive.contains(&r.scope.id)) {
        leaks.push(Leak {
            identifier: Some(record.scope.id.clone()),
            kind: "record".to_owned(),
            path: platform
                .paths
                .state
                .join("environments")
                .join(format!("{}.json", record.scope.id))
                .display()
                .to_string(),
        });
        dead.insert(record.scope.id.clone(), Some(record));
    }
    // Things with our names that no record speaks of: somebody removed the record, or it is not ours at all. Only
    // what carries our mark (a loop device's name, a cgroup below ours) is told.
    let mut marked: Vec<EnvironmentId> = proc::loops()
        .map_err(failed("list loop devices"))?
        .iter()
        .filter_map(|l| layout::device_owner(&l.name))
        .collect();
    if let Ok(trees) = Trees::find() {
        marked.extend(trees.environments().iter().filter_map(|(name, _)| name.parse::<EnvironmentId>().ok()));
    }
    for id in marked.into_iter().filter(|id| !alive.contains(id)) {
        dead.entry(id).or_insert(None);
    }
    for (id, record) in dead {
        let scope = record.as_ref().map_or_else(|| stray(&id), |r| r.scope.clone());
        leaks.extend(environment(platform, &scope, record.as_ref())?);
    }
    leaks.sort();
    leaks.dedup();
    Ok(leaks)
}

/// The scope of something that has no record.
fn stray(id: &EnvironmentId) -> Scope {
    Scope {
        id: id.clone(),
        dir: Path::new("/nonexistent").join(id.as_ref()),
        isolation: native_config::Isolation::Private,
        uids: (0, 0),
    }
}
