//! The throw-away OS user: minted uid, `useradd`, and back to nothing.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use native_config::{EnvironmentId, GroupName, GroupStanding};
use native_platform::command::{CommandSpec, Means};
use native_platform::{AccountStep, Ended, ErrorKind, Output, Presence, StepError, StepKind};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Group, Uid, User};

use crate::commands::{Tools, USER_ADD, USER_ADD_GROUPS, USER_DELETE};
use crate::store::{Record, Store};
use crate::{kill, pins};

const STEP: StepKind = StepKind::Account;

fn failed(what: impl Into<String>) -> StepError {
    StepError::failed(STEP, what)
}

/// Looks a user up by name.
pub(crate) fn user(name: &str) -> Result<Option<User>, StepError> {
    User::from_name(name).map_err(|e| failed(format!("look up user {name}: {e}")))
}

fn group(name: &str) -> Result<Option<Group>, StepError> {
    Group::from_name(name).map_err(|e| failed(format!("look up group {name}: {e}")))
}

/// The ids of the label's groups.
pub(crate) fn group_ids(names: &[GroupName]) -> Result<Vec<u32>, StepError> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let refused = |why: &str| StepError::new(STEP, ErrorKind::Invalid, format!("group {name} {why}"));
        // What else may be named is said by the operator's config, or for a service user by `helper.yml`.
        if name.standing() == GroupStanding::Root {
            return Err(refused("is root's own").hint("take it out of the label's groups"));
        }
        let Some(found) = group(name.as_ref())? else {
            return Err(refused("does not exist on this host").hint(format!("groupadd --system {name}")));
        };
        if found.gid.as_raw() == 0 {
            return Err(refused("is root's own under another name").hint("take it out of the label's groups"));
        }
        ids.push(found.gid.as_raw());
    }
    Ok(ids)
}

/// Whether the account is there, and whose it is.
pub(crate) fn probe(id: &EnvironmentId, record: Option<&Record>) -> Result<Presence, StepError> {
    let name = id.as_ref();
    Ok(match (user(name)?, record) {
        (None, None) if group(name)?.is_some() => Presence::Foreign(format!("a group named {name}")),
        (None, None) => Presence::Absent,
        (None, Some(record)) if record.real => Presence::Absent,
        // An ephemeral account is its record, nothing else.
        (None, Some(_)) => Presence::Ours,
        (Some(user), Some(record)) if user.uid.as_raw() == record.uid => Presence::Ours,
        (Some(user), _) => Presence::Foreign(format!("a user named {name} with uid {}", user.uid)),
    })
}

/// Writes the account down, and makes the mount point of its home.
pub(crate) fn announce(store: &Store, record: &Record, home: &Path) -> Result<(), StepError> {
    store.keep(record).map_err(|e| e.of_step(STEP))?;
    fs::DirBuilder::new()
        .mode(0o711)
        .create(home)
        .map_err(|e| failed(format!("create the mount point {}: {e}", home.display())))
}

/// Puts a real account that was announced into the host's user database.
pub(crate) fn add(
    tools: &Tools,
    store: &Store,
    record: &Record,
    step: &AccountStep,
    home: &Path,
) -> Result<(), StepError> {
    let id = &record.scope.id;
    let (uid, gid) = (record.uid.to_string(), record.gid.to_string());
    let (min, max) = (record.scope.uids.0.to_string(), record.scope.uids.1.to_string());
    let home = home.to_string_lossy();
    let names: Vec<_> = step.groups.iter().map(AsRef::as_ref).collect();
    if names.is_empty() {
        let values = [&*min, &*max, &*home, &*uid, &*min, &*max, id.as_ref()];
        database(store, &USER_ADD, || tools.run(STEP, &USER_ADD, &values))?;
    } else {
        let joined = names.join(",");
        let values = [&*min, &*max, &*home, &*uid, &*gid, &*joined, id.as_ref()];
        database(store, &USER_ADD_GROUPS, || tools.run(STEP, &USER_ADD_GROUPS, &values))?;
    }
    // Exit codes are not believed: the record must be there and be the one that was asked for.
    match user(id.as_ref())? {
        Some(user) if user.uid.as_raw() == record.uid && user.gid.as_raw() == record.gid => Ok(()),
        Some(user) => {
            Err(failed(format!("useradd made {id} with uid {} and gid {}, not {uid} and {gid}", user.uid, user.gid)))
        }
        None => Err(failed(format!("useradd ended with 0, but there is no user {id}"))),
    }
}

/// Removes the account and reads back that nothing of it is left.
pub(crate) fn delete(tools: &Tools, store: &Store, record: &Record, home: &Path) -> Result<(), StepError> {
    let id = &record.scope.id;
    kill::clear_keyrings(record.uid)?;
    if record.real && user(id.as_ref())?.is_some() {
        database(store, &USER_DELETE, || delete_user(tools, id))
            .map_err(|e| StepError { kind: ErrorKind::Stuck, ..e })?;
    }
    match fs::remove_dir(home) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(StepError::stuck(STEP, format!("remove the mount point {}: {e}", home.display()))
                .hint(format!("look at what is in {} and remove it", home.display())));
        }
        _ => {}
    }
    if record.real && (user(id.as_ref())?.is_some() || group(id.as_ref())?.is_some()) {
        return Err(StepError::stuck(STEP, format!("{id} is still in the user database after userdel"))
            .hint(format!("userdel {id}; then groupdel {id}")));
    }
    Ok(())
}

/// Runs `userdel` where it sees no process. It would look at each thread of the host, of which a greedy tenant has
/// thousands, for one of the user's; that was just done, and the audit does it again.
fn delete_user(tools: &Tools, id: &EnvironmentId) -> Result<Output, StepError> {
    // Told here, where its kind is not lost.
    Tools::path(STEP, USER_DELETE.tool)?;
    let said = pins::from_child(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let (none, flags) = (None::<&str>, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("fish-native"), "/proc", Some("tmpfs"), flags | MsFlags::MS_RDONLY, Some("size=4k,mode=0555"))?;
        let output = tools.run(STEP, &USER_DELETE, &[id.as_ref()]).map_err(|e| io::Error::other(e.message))?;
        Ok(serde_json::to_string(&output)?)
    });
    let output = said.and_then(|text| Ok(serde_json::from_str(&text)?));
    output.map_err(|e| failed(format!("delete {id}: {e}")))
}

/// Runs a program that changes the user database: one of ours at a time, and again while another program holds
/// the database's own lock.
fn database(
    store: &Store,
    spec: &CommandSpec,
    mut run: impl FnMut() -> Result<native_platform::Output, StepError>,
) -> Result<(), StepError> {
    let _lock = store.lock("accounts").map_err(|e| e.of_step(STEP))?;
    let mut left = spec.retry.times;
    loop {
        let output = run()?;
        let ended = output.ended;
        match spec.meaning(&output) {
            None if ended == Ended::Code(0) => return Ok(()),
            Some(Means::Busy) => return Err(StepError::stuck(STEP, output.stderr.trim())),
            Some(Means::Again) if left > 0 => {
                left -= 1;
                thread::sleep(Duration::from_millis(u64::from(spec.retry.pause_ms)));
            }
            means => {
                let error = failed(format!("the user database was not changed ({ended}): {}", output.stderr.trim()));
                return Err(if means == Some(Means::Again) {
                    error.hint(
                        "see which process /etc/passwd.lock names; if that one does not change users, remove the file",
                    )
                } else {
                    error
                });
            }
        }
    }
}

/// Whether the host knows this uid, or a group with the same number.
pub(crate) fn uid_taken(uid: u32) -> bool {
    let user = User::from_uid(Uid::from_raw(uid));
    let group = Group::from_gid(nix::unistd::Gid::from_raw(uid));
    // "Can't tell" counts as taken.
    !matches!((user, group), (Ok(None), Ok(None)))
}
