//! [`COMMANDS`]: every command that this crate runs on macOS. Nothing else is ever run.
//!
//! Sources are named shortly: `dscl.1` and the like are manual pages, `DSTools`,
//! `shell_cmds`, `adv_cmds` and `sudo` are Apple's published sources, the rest are public projects that met
//! the behaviour.

mod accounts;
mod disks;
mod processes;

pub use accounts::*;
pub use disks::*;
pub use processes::*;

use std::path::PathBuf;

use native_platform::Ended;
use native_platform::command::{CommandSpec, Means, Outcome, Piece, Place, Slot, Table};

/// All commands, in the order of an environment's life.
pub static COMMANDS: &[CommandSpec] = &[
    OS_VERSION,
    HARDWARE,
    ACCESS_READ,
    ACCESS_PROBE,
    USER_LIST,
    USER_READ,
    GROUP_LIST,
    GROUP_READ,
    SHARE_LIST,
    USER_REAL_NAME,
    USER_SHELL,
    USER_UID,
    USER_GID,
    USER_HOME,
    USER_HIDDEN,
    USER_PASSWORD,
    MEMBER_ADD,
    USER_VISIBLE,
    HOME_CREATE,
    IMAGE_CREATE,
    IMAGE_CLONE,
    IMAGE_ATTACH,
    IMAGE_INFO,
    MOUNTS,
    SPOTLIGHT,
    VOLUME_OWN,
    JOB,
    DIRECTORY_CLOSE,
    DIRECTORY_MAKE,
    TREE_CLONE,
    UNPACK,
    PROCESSES,
    INTERRUPT,
    DOMAIN_PRINT,
    DOMAIN_END,
    KILL,
    KILL_BY_NAME,
    CRONTAB_LIST,
    CRONTAB_REMOVE,
    LEFTOVERS_DELETE,
    IPC_LIST,
    OWN_CRONTAB_REMOVE,
    OWN_FLAGS_CLEAR,
    OWN_LEFTOVERS_DELETE,
    OWN_IPC_REMOVE,
    IMAGE_DETACH,
    IMAGE_DETACH_FORCE,
    IMAGE_EJECT,
    HOME_REMOVE,
    MEMBER_REMOVE,
    USER_DELETE,
];

/// The published rules for commands that the driver does not run any more: it unpacks as the account, sets owners when a
/// disk is made, and makes disks without an index. They stay in the wildcard style, which is a host's rules
/// as they are.
const RETIRED: &[&str] = &[
    "/usr/bin/tar -xf - --uname fish-[a-z][a-z][a-z][a-z][a-z][a-z] -C /Users/fish-[a-z][a-z][a-z][a-z][a-z][a-z]/",
    "/usr/bin/tar -xf - --uname fish-[a-z][a-z][a-z][a-z][a-z][a-z] -C /Volumes/fish-[a-z][a-z][a-z][a-z][a-z][a-z]_*/",
    "/usr/bin/mdutil -i off /Volumes/fish-[a-z][a-z][a-z][a-z][a-z][a-z]_*/",
];

/// The table.
pub static TABLE: Table =
    Table { os: "macOS", commands: COMMANDS, retired: RETIRED, tool_path: default_path, helper_only: None };

/// Where macOS has a tool. Fixed, because the sudo rules name them so and `PATH` is nobody's promise.
pub fn default_path(tool: &str) -> PathBuf {
    let dir = match tool {
        "rm" | "ps" | "cp" | "launchctl" | "sh" | "chmod" | "mkdir" => "/bin",
        "mount" => "/sbin",
        "createhomedir" | "chown" | "diskutil" | "sysctl" => "/usr/sbin",
        _ => "/usr/bin",
    };
    PathBuf::from(dir).join(tool)
}

const USER: Piece = Piece::Slot(Slot::User);
const SYSTEM: Piece = Piece::At(Place::System);

/// One argument that is a fixed text.
macro_rules! texts {
    ($($text:literal),* $(,)?) => { &[$(&[native_platform::command::Piece::Text($text)]),*] };
}
use texts;

const fn outcome(ending: Ended, text: &'static str, means: Means, source: &'static str) -> Outcome {
    Outcome { ending, text, means, source }
}

const fn code(code: i32, text: &'static str, means: Means, source: &'static str) -> Outcome {
    outcome(Ended::Code(code), text, means, source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use native_platform::command::{By, Site};

    use std::collections::BTreeSet;

    fn site() -> Site {
        crate::default_site()
    }

    #[test]
    fn rows_are_complete() {
        let ids: BTreeSet<_> = COMMANDS.iter().map(|r| r.id).collect();
        assert_eq!(ids.len(), COMMANDS.len(), "an id twice");
        for row in COMMANDS {
            assert!(!row.what.is_empty() && !row.tool.is_empty(), "{}", row.id);
            assert!(row.outcomes.iter().all(|o| !o.source.is_empty()), "{}: an outcome without a source", row.id);
            assert!(row.undo.is_none_or(|id| ids.contains(id)), "{}: undo", row.id);
            let again = row.outcomes.iter().any(|o| matches!(o.means, Means::Again | Means::Busy));
            assert!(!again || row.retry.times > 0, "{}: tried again, but how often?", row.id);
            assert_eq!(row.example(&site()).len(), row.arguments().count(), "{}", row.id);
            assert!(row.by == By::Driver || !row.privileged(), "{}: root and the account at once", row.id);
        }
    }

    #[test]
    fn no_rule_holds_a_free_path() {
        // The two rows that no expression can fence are those whose tools follow what they are given.
        for row in COMMANDS.iter().filter(|r| r.privileged()) {
            assert!(row.slots().all(|s| s != Slot::Path), "{}", row.id);
        }
        let loose: Vec<_> = COMMANDS.iter().filter(|r| !r.fenceable).map(|r| r.id).collect();
        assert_eq!(loose, ["volume-own"]);
    }

    #[test]
    fn a_value_cannot_be_read_as_more() {
        let site = site();
        for bad in ["root", "fish-abcdef root", "-r", "fish-abcde/", "../fish-abcdef", "fish-abcdef\n", ""] {
            assert!(USER_DELETE.bind(&site, &[bad]).is_err(), "{bad:?}");
        }
        assert_eq!(USER_DELETE.bind(&site, &["fish-abcdef"]).unwrap(), [".", "delete", "/Users/fish-abcdef"]);
        assert_eq!(USER_DELETE.regex(&site), "^\\. delete /Users/fish-[a-z]{6}$");
        assert_eq!(KILL.regex(&site), "^-KILL -U 7[0-9]{4}$");
    }
}
