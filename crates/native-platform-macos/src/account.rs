//! The account: a record of the local directory, hidden, without a password, with a uid of our range.

use std::thread;

use native_config::{AccountKind, GroupName};
use native_platform::{AccountStep, ErrorKind, Presence, Receipt, Scope, StepError, StepKind};

use crate::mac::Mac;
use crate::parse;
use crate::store::{Record, StoreError};
use crate::table as t;

const STEP: StepKind = StepKind::Account;

/// Groups that no environment gets, whatever the label or the site says: a member of them is root in a line.
const NEVER: &[&str] = &["admin", "wheel", "daemon", "operator", "_lpadmin", "com.apple.access_ssh"];

/// The primary group of an account whose label names none: the one that people have. A group of its own would
/// need two more root rules; its home is closed to the group instead.
const DEFAULT_GROUP: &str = "staff";

fn store(error: StoreError) -> StepError {
    error.at(STEP)
}

impl Mac {
    /// The uid that the directory has for a name: `None` without a record, `Some(None)` for one without a uid.
    pub(crate) fn directory_uid(&self, user: &str) -> Result<Option<Option<i64>>, StepError> {
        let said = self.tools.run(&t::USER_READ, &[user]).map_err(self.tools.failed(STEP))?;
        if said.absent() {
            return Ok(None);
        }
        Ok(Some(parse::attribute(&said.out, "UniqueID").and_then(|v| v.parse().ok())))
    }

    pub(crate) fn probe_account(&self, scope: &Scope) -> Result<Presence, StepError> {
        let record = self.store.record(&scope.id).map_err(store)?;
        let ours = record.and_then(|r| r.uid);
        Ok(match (self.directory_uid(scope.id.as_str())?, ours) {
            (None, _) => Presence::Absent,
            (Some(found), Some(uid)) if found.is_none_or(|f| f == i64::from(uid)) => Presence::Ours,
            (Some(found), _) => {
                let uid = found.map_or_else(|| "no uid".to_owned(), |f| format!("uid {f}"));
                Presence::Foreign(format!("user {} with {uid}", scope.id))
            }
        })
    }

    pub(crate) fn execute_account(&self, scope: &Scope, step: &AccountStep) -> Result<Receipt, StepError> {
        if step.kind == AccountKind::Ephemeral {
            return Err(StepError::new(STEP, ErrorKind::Invalid, "macOS has no ephemeral accounts")
                .hint("set `account: real` in the driver's config"));
        }
        match self.probe_account(scope)? {
            Presence::Foreign(what) => {
                return Err(StepError::new(STEP, ErrorKind::Foreign, format!("{what} is not ours")));
            }
            Presence::Ours => {
                let record = self.store.record(&scope.id).map_err(store)?;
                if let Some((record, uid)) = record.and_then(|r| r.uid.map(|uid| (r, uid)))
                    && self.complete(scope, uid, record.gid)?
                {
                    return Ok(Receipt::Account { uid, gid: record.gid });
                }
                // Half of it is there: an earlier try was cut off.
                self.revert_account(scope)?;
            }
            Presence::Absent => {}
        }
        let (first, rest) = match step.groups.split_first() {
            Some((first, rest)) => (first.to_string(), rest),
            None => (DEFAULT_GROUP.to_owned(), &[][..]),
        };
        if let Some(bad) = step.groups.iter().find(|g| NEVER.contains(&g.as_str())) {
            return Err(StepError::new(STEP, ErrorKind::Invalid, format!("group {bad} gives root rights"))
                .hint("name another group in the label"));
        }
        let gid = self.group(&first)?.0;
        for group in rest {
            self.group(group.as_str())?;
        }
        let uid = self.reserve(scope, gid, &first, rest)?;
        self.or_undo(self.create(scope, uid, gid, rest), || self.revert_account(scope))?;
        Ok(Receipt::Account { uid, gid })
    }

    /// A group's number and members.
    pub(crate) fn group(&self, name: &str) -> Result<(u32, Vec<String>), StepError> {
        let said = self.tools.run(&t::GROUP_READ, &[name]).map_err(self.tools.failed(STEP))?;
        let gid = parse::attribute(&said.out, "PrimaryGroupID").and_then(|v| v.parse().ok());
        let members = parse::attribute(&said.out, "GroupMembership").unwrap_or_default();
        let members = members.split_whitespace().map(str::to_owned).collect();
        gid.map(|gid| (gid, members)).ok_or_else(|| {
            StepError::new(STEP, ErrorKind::Invalid, format!("there is no group {name}"))
                .hint("name groups of this host in the label: `dscl . list /Groups`")
        })
    }

    fn reserve(&self, scope: &Scope, gid: u32, group: &str, rest: &[GroupName]) -> Result<u32, StepError> {
        let said = self.tools.run(&t::USER_LIST, &[]).map_err(self.tools.failed(STEP))?;
        let used: Vec<i64> = parse::user_ids(&said.out).into_iter().map(|(_, uid)| uid).collect();
        // A Mac without users is none: an empty answer is a lie, and by a lie a uid would be used twice.
        if used.is_empty() {
            return Err(StepError::failed(STEP, "dscl listed no users"));
        }
        let uid = self.store.new_uid(scope.uids, &used).map_err(store)?;
        let intent = |record: &mut Record| {
            (record.uid, record.gid, record.group) = (Some(uid), gid, group.to_owned());
            record.groups = rest.to_vec();
        };
        self.store.change(scope, intent).map_err(store)?;
        Ok(uid)
    }

    fn create(&self, scope: &Scope, uid: u32, gid: u32, rest: &[GroupName]) -> Result<(), StepError> {
        let user = scope.id.as_str();
        let (uid_text, gid_text) = (uid.to_string(), gid.to_string());
        let run = |row, values: &[&str]| self.tools.run(row, values).map_err(self.tools.failed(STEP));
        // The home before the ids, and the ids last: macOS does not let the uid and home of a user change whom
        // the system can already find.
        run(&t::USER_REAL_NAME, &[user])?;
        run(&t::USER_SHELL, &[user])?;
        run(&t::USER_HOME, &[user, user])?;
        run(&t::USER_HIDDEN, &[user])?;
        run(&t::USER_PASSWORD, &[user])?;
        run(&t::USER_UID, &[user, &uid_text])?;
        run(&t::USER_GID, &[user, &gid_text])?;
        if !self.complete(scope, uid, gid)? {
            return Err(StepError::failed(STEP, format!("dscl made user {user}, but reading it back shows another")));
        }
        for group in rest {
            // `append` adds a name twice, so look first.
            if !self.group(group.as_str())?.1.iter().any(|m| m == user) {
                run(&t::MEMBER_ADD, &[group.as_str(), user])?;
            }
            if !self.group(group.as_str())?.1.iter().any(|m| m == user) {
                return Err(StepError::failed(
                    STEP,
                    format!("dscl put {user} into group {group}, but it is not there"),
                ));
            }
        }
        self.wait_visible(user, uid)
    }

    /// Whether the record says what it must say.
    fn complete(&self, scope: &Scope, uid: u32, gid: u32) -> Result<bool, StepError> {
        let said = self.tools.run(&t::USER_READ, &[scope.id.as_str()]).map_err(self.tools.failed(STEP))?;
        let is = |key, value: String| parse::attribute(&said.out, key) == Some(value.as_str());
        let config = &self.tools.config;
        Ok(!said.absent()
            && is("UniqueID", uid.to_string())
            && is("PrimaryGroupID", gid.to_string())
            && is("NFSHomeDirectory", config.home(scope.id.as_str()).display().to_string())
            && is("UserShell", config.site.places.shell.display().to_string()))
    }

    /// The system may not find a user at once: 5 s in mkuser and chef, 10 s elsewhere.
    fn wait_visible(&self, user: &str, uid: u32) -> Result<(), StepError> {
        for _ in 0..100 {
            let said = self.tools.run(&t::USER_VISIBLE, &[user]).map_err(self.tools.failed(STEP))?;
            match said.out.trim().parse::<u32>() {
                Ok(found) if found == uid => return Ok(()),
                Ok(found) => return Err(StepError::failed(STEP, format!("user {user} has uid {found}, not {uid}"))),
                Err(_) => thread::sleep(self.tools.config.pause(100)),
            }
        }
        Err(StepError::failed(STEP, format!("the system does not find user {user}, 10 s after dscl made it")))
    }

    pub(crate) fn revert_account(&self, scope: &Scope) -> Result<(), StepError> {
        let record = self.store.record(&scope.id).map_err(store)?;
        let Some(uid) = record.and_then(|r| r.uid) else { return Ok(()) };
        let user = scope.id.as_str();
        // Only a uid of our range was ever given out; one that is not means the record is not ours to act on.
        if !(scope.uids.0..=scope.uids.1).contains(&uid) {
            return Err(StepError::stuck(STEP, format!("uid {uid} of {user} is outside of the range of uids"))
                .hint("restore uid_min and uid_max of the driver's config, then deallocate again"));
        }
        // A process of a deleted user can't be found by name any more, and would own what the next one owns.
        self.kill_all(scope, uid)?;
        self.remove_leftovers(scope, uid)?;
        self.remove_memberships(user)?;
        match self.probe_account(scope).map_err(as_stuck)? {
            Presence::Foreign(what) => {
                return Err(StepError::stuck(STEP, format!("{what} is not the one that was made here"))
                    .hint(format!("look at it with `dscl . read /Users/{user}`; it is never deleted by this driver")));
            }
            Presence::Ours => {
                self.tools.run(&t::USER_DELETE, &[user]).map_err(self.tools.stuck(STEP))?;
            }
            Presence::Absent => {}
        }
        if self.directory_uid(user).map_err(as_stuck)?.is_some() {
            return Err(StepError::stuck(STEP, format!("dscl deleted user {user}, but it is still there"))
                .hint(format!("sudo dscl . delete /Users/{user}")));
        }
        self.remove_memberships(user)?;
        self.store.change(scope, |r| r.uid = None).map_err(store).map_err(as_stuck)?;
        Ok(())
    }

    /// Groups whose list of members names the account.
    pub(crate) fn memberships(&self, user: &str) -> Result<Vec<String>, StepError> {
        let said = self.tools.run(&t::GROUP_LIST, &[]).map_err(self.tools.failed(STEP))?;
        let rows = parse::memberships(&said.out);
        // `wheel` and `staff` have members on every Mac: nothing at all is no answer.
        if rows.is_empty() {
            return Err(StepError::failed(STEP, "dscl listed no groups"));
        }
        let names = |members: &[&str]| members.contains(&user);
        Ok(rows.into_iter().filter(|(_, m)| names(m)).map(|(g, _)| g.to_owned()).collect())
    }

    fn remove_memberships(&self, user: &str) -> Result<(), StepError> {
        let groups = self.memberships(user).map_err(as_stuck)?;
        if groups.is_empty() {
            return Ok(());
        }
        for group in &groups {
            self.tools.run(&t::MEMBER_REMOVE, &[group, user]).map_err(self.tools.stuck(STEP))?;
        }
        match self.memberships(user).map_err(as_stuck)?.first() {
            None => Ok(()),
            Some(group) => {
                Err(StepError::stuck(STEP, format!("dscl removed {user} from group {group}, but it is there"))
                    .hint(format!("sudo dscl . delete /Groups/{group} GroupMembership {user}")))
            }
        }
    }
}

/// The same error, of a revert.
pub(crate) fn as_stuck(error: StepError) -> StepError {
    StepError { kind: ErrorKind::Stuck, ..error }
}
