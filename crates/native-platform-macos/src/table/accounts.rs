//! Users, groups, homes.

use native_platform::Ended;
use native_platform::command::{CommandSpec, Means, Outcome, Piece, Place, Retry, Slot};

use super::{SYSTEM, USER, code, outcome, texts};

use Piece::{Slot as S, Text as T};

const OD_ROOT: &str = "the local directory is root's";

/// `dscl` writes. 140 is seen on create for a short time after other changes; the daemon may be restarting;
/// security software may kill dscl when it hides a user.
const WRITES: &[Outcome] = &[
    code(140, "-14988", Means::Again, "nix-installer create_user.rs, NixOS/nix#12140, ansible#73505"),
    code(70, "eServerError", Means::Again, "opendirectoryd is restarting; seen in public scripts"),
    outcome(Ended::Signal(9), "", Means::Again, "nix-installer create_user.rs: endpoint security and IsHidden"),
    code(40, "-14120", Means::Denied, "dscl.1, nix-darwin ensurePerms"),
];
const WRITE: CommandSpec = CommandSpec {
    tool: "dscl",
    why_root: OD_ROOT,
    outcomes: WRITES,
    retry: Retry { times: 10, pause_ms: 500 },
    limit_s: 20,
    undo: Some("user-delete"),
    published: Some("/usr/bin/dscl . create /Users/fish-[a-z][a-z][a-z][a-z][a-z][a-z] *"),
    ..CommandSpec::PLAIN
};
/// Reads need no right. A missing key is no error to the exit code, so output is parsed and codes are not
/// trusted.
const READ: CommandSpec = CommandSpec {
    tool: "dscl",
    outcomes: &[
        code(56, "-14136", Means::Absent, "DSTools main.m: read of a missing record"),
        code(70, "eServerError", Means::Again, "opendirectoryd is restarting; seen in public scripts"),
        outcome(Ended::Signal(9), "", Means::Again, "nix-installer create_user.rs"),
    ],
    retry: Retry { times: 10, pause_ms: 500 },
    limit_s: 20,
    ..CommandSpec::PLAIN
};

/// All users with their uids.
pub const USER_LIST: CommandSpec = CommandSpec {
    id: "user-list",
    args: texts![".", "list", "/Users", "UniqueID"],
    what: "list the users and their uids, so that none is used twice",
    ..READ
};

/// What the record of an account says.
pub const USER_READ: CommandSpec = CommandSpec {
    id: "user-read",
    args: &[
        &[T(".")],
        &[T("read")],
        &[T("/Users/"), USER],
        &[T("UniqueID")],
        &[T("PrimaryGroupID")],
        &[T("NFSHomeDirectory")],
        &[T("UserShell")],
    ],
    what: "read an account back: after it was made, before it is removed, after it was removed",
    ..READ
};

/// All groups with their members.
pub const GROUP_LIST: CommandSpec = CommandSpec {
    id: "group-list",
    args: texts![".", "list", "/Groups", "GroupMembership"],
    what: "find every group that names an account",
    ..READ
};

/// A group's number.
pub const GROUP_READ: CommandSpec = CommandSpec {
    id: "group-read",
    args: &[&[T(".")], &[T("read")], &[T("/Groups/"), S(Slot::Group)], &[T("PrimaryGroupID")], &[T("GroupMembership")]],
    what: "a group's number and members",
    ..READ
};

/// All share points.
pub const SHARE_LIST: CommandSpec = CommandSpec {
    id: "share-list",
    args: texts![".", "list", "/SharePoints"],
    what: "find share points that name an account",
    ..READ
};

/// Creates the record, with its name for people.
pub const USER_REAL_NAME: CommandSpec = CommandSpec {
    id: "user-create",
    args: &[&[T(".")], &[T("create")], &[T("/Users/"), USER], &[T("RealName")], &[T("Aquarium Fish env user")]],
    what: "create the account's record",
    ..WRITE
};

/// Sets the shell.
pub const USER_SHELL: CommandSpec = CommandSpec {
    id: "user-shell",
    args: &[&[T(".")], &[T("create")], &[T("/Users/"), USER], &[T("UserShell")], &[Piece::At(Place::Shell)]],
    what: "set the shell that su starts",
    ..WRITE
};

/// Sets the uid.
pub const USER_UID: CommandSpec = CommandSpec {
    id: "user-uid",
    args: &[&[T(".")], &[T("create")], &[T("/Users/"), USER], &[T("UniqueID")], &[S(Slot::Uid)]],
    what: "set the uid, one of our range that was never used before",
    ..WRITE
};

/// Sets the primary group.
pub const USER_GID: CommandSpec = CommandSpec {
    id: "user-gid",
    args: &[&[T(".")], &[T("create")], &[T("/Users/"), USER], &[T("PrimaryGroupID")], &[S(Slot::Gid)]],
    what: "set the primary group; from now on the account can be found",
    ..WRITE
};

/// Sets the home.
pub const USER_HOME: CommandSpec = CommandSpec {
    id: "user-home",
    args: &[&[T(".")], &[T("create")], &[T("/Users/"), USER], &[T("NFSHomeDirectory")], &[SYSTEM, T("/Users/"), USER]],
    what: "set the home, once: changing it later needs Full Disk Access",
    ..WRITE
};

/// Hides the account from the login window.
pub const USER_HIDDEN: CommandSpec = CommandSpec {
    id: "user-hidden",
    args: &[&[T(".")], &[T("create")], &[T("/Users/"), USER], &[T("IsHidden")], &[T("1")]],
    what: "hide the account: macOS hides only uids below 500 by itself",
    ..WRITE
};

/// Sets a password that nothing matches.
pub const USER_PASSWORD: CommandSpec = CommandSpec {
    id: "user-password",
    args: &[&[T(".")], &[T("create")], &[T("/Users/"), USER], &[T("Password")], &[T("*")]],
    what: "set a password that nothing matches",
    ..WRITE
};

/// Puts the account into a group.
pub const MEMBER_ADD: CommandSpec = CommandSpec {
    id: "member-add",
    // `append` adds duplicates and `merge` does not, but hosts have a rule for `append` alone. The list is read
    // first, and the name is nobody else's.
    args: &[&[T(".")], &[T("append")], &[T("/Groups/"), S(Slot::Group)], &[T("GroupMembership")], &[USER]],
    what: "put the account into a group of the label",
    undo: Some("member-remove"),
    published: Some("/usr/bin/dscl . append /Groups/* GroupMembership fish-[a-z][a-z][a-z][a-z][a-z][a-z]"),
    ..WRITE
};

/// Takes the account out of a group.
pub const MEMBER_REMOVE: CommandSpec = CommandSpec {
    id: "member-remove",
    args: &[&[T(".")], &[T("delete")], &[T("/Groups/"), S(Slot::Group)], &[T("GroupMembership")], &[USER]],
    what: "take the account out of a group; deleting a user leaves its name there",
    outcomes: &[
        code(54, "-14134", Means::Absent, "DSTools: not a member"),
        code(185, "Invalid Path", Means::Absent, "DSTools PathManager.m: no such group"),
        code(70, "eServerError", Means::Again, "opendirectoryd is restarting"),
        outcome(Ended::Signal(9), "", Means::Again, "nix-installer create_user.rs"),
        code(40, "-14120", Means::Denied, "dscl.1, nix-darwin ensurePerms"),
    ],
    undo: None,
    published: None,
    ..WRITE
};

/// Deletes the record.
pub const USER_DELETE: CommandSpec = CommandSpec {
    id: "user-delete",
    args: &[&[T(".")], &[T("delete")], &[T("/Users/"), USER]],
    what: "delete the account's record; needs Full Disk Access",
    outcomes: &[
        code(185, "Invalid Path", Means::Absent, "DSTools PathManager.m: delete of a missing record"),
        code(56, "-14136", Means::Absent, "DSTools main.m"),
        code(40, "-14120", Means::Denied, "dscl.1, the driver's own page of set-up"),
        code(70, "eServerError", Means::Again, "opendirectoryd is restarting"),
        outcome(Ended::Signal(9), "", Means::Again, "nix-installer create_user.rs"),
    ],
    retry: Retry { times: 4, pause_ms: 1000 },
    undo: None,
    published: Some("/usr/bin/dscl . delete /Users/fish-[a-z][a-z][a-z][a-z][a-z][a-z]"),
    ..WRITE
};

/// Whether the system can find the account.
pub const USER_VISIBLE: CommandSpec = CommandSpec {
    id: "user-visible",
    tool: "id",
    args: &[&[T("-u")], &[USER]],
    what: "wait until the system can find the account, which may lag behind the directory",
    outcomes: &[code(1, "no such user", Means::Absent, "mkuser, chef wait_for_user: up to 10 s")],
    ..CommandSpec::PLAIN
};

/// Makes the home from the template.
pub const HOME_CREATE: CommandSpec = CommandSpec {
    id: "home-create",
    tool: "createhomedir",
    args: &[&[T("-c")], &[T("-u")], &[USER]],
    what: "make the home from the template; it may end with 0 and make nothing, so the home is looked at",
    why_root: "/Users is root's",
    limit_s: 30,
    retry: Retry { times: 2, pause_ms: 500 },
    undo: Some("home-remove"),
    published: Some("/usr/sbin/createhomedir -c -u fish-[a-z][a-z][a-z][a-z][a-z][a-z]"),
    ..CommandSpec::PLAIN
};

/// Removes the home.
pub const HOME_REMOVE: CommandSpec = CommandSpec {
    id: "home-remove",
    tool: "rm",
    args: &[&[T("-rf")], &[SYSTEM, T("/Users/"), USER]],
    what: "remove the home, when none of the account's processes runs any more",
    why_root: "/Users is root's",
    limit_s: 600,
    published: Some("/bin/rm -rf /Users/fish-[a-z][a-z][a-z][a-z][a-z][a-z]"),
    ..CommandSpec::PLAIN
};

/// Reads the home of `nobody`.
pub const ACCESS_READ: CommandSpec = CommandSpec {
    id: "access-read",
    args: texts![".", "read", "/Users/nobody", "NFSHomeDirectory"],
    what: "what the next command must leave as it is",
    ..READ
};

/// Sets the home of `nobody` to what it is.
pub const ACCESS_PROBE: CommandSpec = CommandSpec {
    id: "access-probe",
    tool: "dscl",
    args: texts![".", "change", "/Users/nobody", "NFSHomeDirectory", "/var/empty", "/var/empty"],
    what: "ask for Full Disk Access without changing anything: a home is set to what it is",
    why_root: OD_ROOT,
    outcomes: &[
        code(40, "-14120", Means::Denied, "nix-darwin ensurePerms"),
        code(54, "-14134", Means::Absent, "DSTools: the old value is another one"),
    ],
    limit_s: 20,
    ..CommandSpec::PLAIN
};
