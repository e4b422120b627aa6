//! What environments leave behind (the table is in `docs/src/macos.md`), as detectors: one row, one search. All of it is
//! read-only; what only root may look at is left out with a word in `docs/src/macos.md` when we are not root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use native_config::EnvironmentId;
use native_platform::{Leak, Scope, StepError, StepKind};

use crate::account::as_stuck;
use crate::config::Privilege;
use crate::mac::Mac;
use crate::parse;
use crate::table as t;

const STEP: StepKind = StepKind::Audit;

/// Where everybody may write. The command that deletes there names the same places.
const SHARED: &[&str] = &["/private/var/folders", "/private/tmp", "/private/var/tmp", "/Users/Shared"];
/// Directories whose entries bear an account's name.
const NAMED: &[(&str, &str)] = &[
    ("/Users", "home"),
    ("/Users/Deleted Users", "home"),
    ("/private/var/mail", "mail"),
    ("/private/var/at/tabs", "crontab"),
    ("/Volumes", "mount-point"),
];

/// What belongs to an environment.
struct Ownership<'a> {
    uids: BTreeMap<u32, EnvironmentId>,
    /// The range, for the whole host; the uids above are never leaks then.
    range: Option<(u32, u32)>,
    ids: &'a dyn Fn(&str) -> Option<EnvironmentId>,
}

impl Ownership<'_> {
    fn uid(&self, uid: u32) -> Option<Option<EnvironmentId>> {
        match self.range {
            None => self.uids.get(&uid).cloned().map(Some),
            Some((low, high)) => ((low..=high).contains(&uid) && !self.uids.contains_key(&uid)).then_some(None),
        }
    }
}

/// The environment whose name a text begins with: `fish-abcdef` in `fish-abcdef_ws`.
fn named(text: &str) -> Option<EnvironmentId> {
    text.get(..11)?.parse().ok().filter(|_| text[11..].chars().next().is_none_or(|c| !c.is_ascii_alphanumeric()))
}

impl Mac {
    /// What is left of one environment, by its name and by its uid.
    pub(crate) fn audit_one(&self, scope: &Scope, uid: Option<u32>) -> Result<Vec<Leak>, StepError> {
        let uids = uid.map(|uid| (uid, scope.id.clone())).into_iter().collect();
        let ids = |text: &str| named(text).filter(|id| *id == scope.id);
        let mut leaks = self.search(&Ownership { uids, range: None, ids: &ids })?;
        for entry in fs::read_dir(self.images(scope)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "sparseimage" || e == "dmg") {
                leaks.push(leak(Some(scope.id.clone()), "image", entry.path().display()));
            }
        }
        Ok(sorted(leaks))
    }

    /// What is left on the host that is ours and belongs to none of these.
    pub(crate) fn audit_host(&self, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
        let records = self.store.records().map_err(|e| e.at(STEP))?;
        let (living, dead): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| alive.contains(&r.scope.id));
        let uids = living.into_iter().filter_map(|r| Some((r.uid?, r.scope.id))).collect();
        let ids = |text: &str| named(text).filter(|id| !alive.contains(id));
        let range = Some(self.tools.config.site.uids);
        let mut leaks = self.search(&Ownership { uids, range, ids: &ids })?;
        for (id, name) in
            names(&self.tools.config.site.places.state.join("images")).iter().filter_map(|n| Some((ids(n)?, n)))
        {
            leaks.push(leak(
                Some(id),
                "image",
                self.tools.config.site.places.state.join("images").join(name).display(),
            ));
        }
        leaks.extend(dead.into_iter().map(|r| leak(Some(r.scope.id.clone()), "record", &r.scope.id)));
        Ok(sorted(leaks))
    }

    fn search(&self, owner: &Ownership<'_>) -> Result<Vec<Leak>, StepError> {
        let mut leaks = Vec::new();
        self.search_directory(owner, &mut leaks)?;
        for process in self.all_processes()?.into_iter().filter(|p| !p.zombie) {
            let uid = |n: i64| u32::try_from(n).ok().and_then(|n| owner.uid(n));
            if let Some(id) = uid(process.uid).or_else(|| uid(process.real_uid)) {
                leaks.push(leak(id, "process", process.pid));
            }
        }
        self.search_disks(owner, &mut leaks)?;
        for (dir, kind) in NAMED {
            for name in names(&self.tools.config.site.places.path(dir)) {
                if let Some(id) = (owner.ids)(&name) {
                    leaks.push(leak(Some(id), kind, format!("{dir}/{name}")));
                }
            }
        }
        for dir in SHARED {
            self.owned_below(Path::new(dir), 0, &mut |path, uid| {
                if let Some(id) = owner.uid(uid) {
                    leaks.push(leak(id, "file", path.display()));
                }
            });
        }
        self.search_spools(owner, &mut leaks)?;
        Ok(leaks)
    }

    fn search_directory(&self, owner: &Ownership<'_>, leaks: &mut Vec<Leak>) -> Result<(), StepError> {
        let run = |row| self.tools.run(row, &[]).map_err(self.tools.failed(STEP));
        let users = run(&t::USER_LIST)?.out;
        let users = parse::user_ids(&users);
        let groups = run(&t::GROUP_LIST)?.out;
        let groups = parse::memberships(&groups);
        if users.is_empty() || groups.is_empty() {
            return Err(StepError::failed(STEP, "dscl listed no users or no groups"));
        }
        for (name, _) in users {
            leaks.extend((owner.ids)(name).filter(|id| id.as_str() == name).map(|id| leak(Some(id), "account", name)));
        }
        for (group, members) in groups {
            for member in members {
                let id = (owner.ids)(member).filter(|id| id.as_str() == member);
                leaks.extend(id.map(|id| leak(Some(id), "group-member", format!("{group}: {member}"))));
            }
        }
        for name in run(&t::SHARE_LIST)?.out.lines() {
            leaks.extend((owner.ids)(name.trim()).map(|id| leak(Some(id), "share-point", name.trim())));
        }
        for (kind, id, user) in parse::ipc(&run(&t::IPC_LIST)?.out) {
            let by_name = (owner.ids)(user).map(Some);
            let found = by_name.or_else(|| user.parse().ok().and_then(|uid| owner.uid(uid)));
            leaks.extend(found.map(|who| leak(who, "ipc", format!("{kind} {id}"))));
        }
        Ok(())
    }

    fn search_disks(&self, owner: &Ownership<'_>, leaks: &mut Vec<Leak>) -> Result<(), StepError> {
        // `fish-native`, the state directory, has the form of an environment's name.
        let state = &self.tools.config.site.places.state;
        let below = |path: &Path| {
            let path = path.strip_prefix(state).unwrap_or(path);
            path.components().rev().find_map(|c| (owner.ids)(c.as_os_str().to_str()?))
        };
        for image in self.attached()? {
            if let Some(id) = below(&image.image).or_else(|| image.mounted.as_deref().and_then(below)) {
                leaks.push(leak(Some(id), "attached-image", image.image.display()));
            }
        }
        let said = self.tools.run(&t::MOUNTS, &[]).map_err(self.tools.failed(STEP))?;
        for mount in parse::mounts(&said.out) {
            leaks.extend(below(&mount.path).map(|id| leak(Some(id), "mount", mount.path.display())));
        }
        Ok(())
    }

    /// launchd, cron and at.
    fn search_spools(&self, owner: &Ownership<'_>, leaks: &mut Vec<Leak>) -> Result<(), StepError> {
        let places = &self.tools.config.site.places;
        for (uid, id) in owner.uids.iter().filter(|_| owner.range.is_none()) {
            let uid = uid.to_string();
            let said = self.tools.run(&t::DOMAIN_PRINT, &[&uid]).map_err(self.tools.failed(STEP))?;
            // An empty domain holds nothing, and macOS ends it some time. Where sudo has no rule for ending it
            // (the published ones have none), it is no leftover that anybody could do something about.
            if !said.absent() && self.tools.permitted(&t::DOMAIN_END, &[&uid]).map_err(self.tools.failed(STEP))? {
                leaks.push(leak(Some(id.clone()), "launchd-domain", format!("user/{uid}")));
            }
            // Who may look into the spool sees it there, by name. Others ask, if sudo lets them.
            if self.tools.config.privilege == Privilege::SudoCommands {
                match self.tools.run(&t::CRONTAB_LIST, &[id.as_str()]) {
                    Ok(said) if !said.absent() => leaks.push(leak(Some(id.clone()), "crontab", id)),
                    Ok(_) => {}
                    Err(error) if error.no_rule() => {}
                    Err(error) => return Err(self.tools.failed(STEP)(error)),
                }
            }
        }
        let launchd = "/private/var/db/com.apple.xpc.launchd";
        for name in names(&places.path(launchd)) {
            let uid = name.strip_prefix("disabled.").and_then(|n| n.strip_suffix(".plist")?.parse().ok());
            if let Some(id) = uid.and_then(|uid| owner.uid(uid)) {
                leaks.push(leak(id, "launchd-disabled", format!("{launchd}/{name}")));
            }
        }
        self.owned_below(Path::new("/private/var/at/jobs"), 0, &mut |path, uid| {
            leaks.extend(owner.uid(uid).map(|id| leak(id, "at-job", path.display())));
        });
        Ok(())
    }

    /// Calls with everything below a directory and its owner. Does not leave the directory's file system and
    /// does not go below what is found. What can't be read is passed over: its own entry is seen above.
    fn owned_below(&self, dir: &Path, depth: u32, found: &mut dyn FnMut(&Path, u32)) {
        let ours = self.tools.config.site.uids;
        let real =
            if depth == 0 { self.tools.config.site.places.path(&dir.display().to_string()) } else { dir.to_owned() };
        let Ok(device) = fs::symlink_metadata(&real).map(|m| m.dev()) else { return };
        for entry in fs::read_dir(&real).into_iter().flatten().flatten() {
            let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
            if (ours.0..=ours.1).contains(&meta.uid()) {
                found(&entry.path(), meta.uid());
            } else if meta.is_dir() && meta.dev() == device && depth < 64 {
                self.owned_below(&entry.path(), depth + 1, found);
            }
        }
    }

    /// Removes what only its owner can remove, while there is a home for `su` to go to: System V objects always;
    /// files and the crontab where no root command may (the published rules have none for them).
    pub(crate) fn remove_as_owner(&self, scope: &Scope, uid: u32) -> Result<(), StepError> {
        let found = self.audit_one(scope, Some(uid)).map_err(as_stuck)?;
        let by_sudo = self.tools.config.privilege == Privilege::SudoCommands;
        // A crontab that can't be looked at is taken to be there.
        let permitted = self.tools.permitted(&t::CRONTAB_LIST, &[scope.id.as_str()]);
        let blind = !permitted.map_err(self.tools.stuck(STEP))?;
        let owners = |l: &Leak| l.kind == "ipc" || (by_sudo && (l.kind == "crontab" || l.kind == "file"));
        if blind || found.iter().any(owners) {
            self.clean(scope.id.as_str(), uid);
            // What runs as the account is hostile ground (~/.profile), so everything is killed again.
            self.kill_all(scope, uid)?;
        }
        Ok(())
    }

    /// Removes what an account left outside of its home and disks.
    pub(crate) fn remove_leftovers(&self, scope: &Scope, uid: u32) -> Result<(), StepError> {
        let user = scope.id.as_str();
        let mine = |leaks: Vec<Leak>, kinds: &[&str]| leaks.into_iter().any(|l| kinds.contains(&l.kind.as_str()));
        let found = self.audit_one(scope, Some(uid)).map_err(as_stuck)?;
        if found.is_empty() {
            return Ok(());
        }
        let uid_text = uid.to_string();
        for (kinds, row, value) in
            [(&["crontab"][..], &t::CRONTAB_REMOVE, user), (&["file"][..], &t::LEFTOVERS_DELETE, uid_text.as_str())]
        {
            if mine(found.clone(), kinds) {
                // Without a rule, or in part: the read-back below tells.
                drop(self.tools.run(row, &[value]));
            }
        }
        if self.tools.config.privilege == Privilege::Root {
            for leak in
                found.iter().filter(|l| ["mail", "launchd-disabled", "at-job", "crontab"].contains(&l.kind.as_str()))
            {
                // Files in directories of root's, by names that we found there: nothing of the account's is
                // followed.
                drop(fs::remove_file(self.on_host(&leak.path)));
            }
        }
        let gone_later = ["account", "group-member", "image", "attached-image", "mount", "mount-point", "home"];
        let left = self.audit_one(scope, Some(uid)).map_err(as_stuck)?;
        match left.iter().find(|l| !gone_later.contains(&l.kind.as_str())) {
            None => Ok(()),
            Some(leak) => Err(StepError::stuck(STEP, format!("{user} left a {}: {}", leak.kind, leak.path))
                .hint(remedy(leak, uid, user))),
        }
    }

    fn on_host(&self, path: &str) -> PathBuf {
        let places = &self.tools.config.site.places;
        if !places.system.as_os_str().is_empty() && Path::new(path).starts_with(&places.system) {
            PathBuf::from(path)
        } else {
            places.path(path)
        }
    }
}

/// What a person does about a leftover that we can't remove.
fn remedy(leak: &Leak, uid: u32, user: &str) -> String {
    match leak.kind.as_str() {
        "crontab" => format!("sudo crontab -u {user} -r"),
        "process" => format!("sudo pkill -KILL -U {uid}"),
        "launchd-domain" => format!("sudo launchctl bootout user/{uid}"),
        "ipc" => format!("sudo ipcrm -{}", leak.path),
        "share-point" => format!("sudo dscl . delete '/SharePoints/{}'", leak.path),
        "file" => format!("sudo find '{}' -xdev -uid {uid} -delete", leak.path),
        _ => format!("sudo rm -f '{}'", leak.path),
    }
}

fn leak(identifier: Option<EnvironmentId>, kind: &str, path: impl ToString) -> Leak {
    Leak { identifier, kind: kind.to_owned(), path: path.to_string() }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok()).collect()
}

fn sorted(mut leaks: Vec<Leak>) -> Vec<Leak> {
    leaks.sort();
    leaks.dedup();
    leaks
}
