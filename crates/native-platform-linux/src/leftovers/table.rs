//! The rows.

use std::io;

use super::{Found, Search, files, host};

/// One way in which something can be left.
#[derive(Debug)]
pub struct Row {
    /// The `kind` of a leak.
    pub kind: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Why it does not happen with `isolation: private`.
    pub prevented: &'static str,
    /// How it is found.
    pub found: &'static str,
    /// What takes it away.
    pub removed: &'static str,
    /// Whether the search itself can take it away, without the step that made it.
    pub(super) by_search: bool,
    pub(super) detect: fn(&Search<'_>) -> io::Result<Vec<Found>>,
}

const STEP: &str = "the step that made it";
const SEARCH: &str = "the search, after the last process";
const NAMESPACE: &str = "a place of its own in its namespaces";

/// Processes of the account, in the first row.
pub(super) const PROCESS: &str = "process";

/// The table.
pub const ROWS: &[Row] = &[
    Row {
        kind: PROCESS,
        what: "a process, whatever it is called and whoever started it; what lives with it: abstract sockets, open files",
        prevented: "a process-id namespace and a cgroup, which end with one write; no_new_privs, no PAM",
        found: "any of the four uids, or the private group, of any process that is no zombie",
        removed: "a sweep as the uid, with a real uid that the account can't signal; frozen cgroups are thawed",
        by_search: true,
        detect: host::processes,
    },
    Row {
        kind: "subuid-process",
        what: "a process of a subordinate uid",
        prevented: "the account has no subordinate uids; no_new_privs keeps newuidmap from working",
        found: "the uids that /etc/subuid gives to the account",
        removed: "a sweep as that uid",
        by_search: true,
        detect: host::subuid_processes,
    },
    Row {
        kind: "cgroup",
        what: "a cgroup, nested ones included",
        prevented: "cgroups are not the workload's to make",
        found: "directories named like the environment below `fish-native` in every tree",
        removed: STEP,
        by_search: false,
        detect: host::cgroups,
    },
    Row {
        kind: "mount",
        what: "a mount at or below the home or the disks, FUSE included",
        prevented: "all mounts are in a mount namespace that ends with the last process",
        found: "/proc/self/mountinfo",
        removed: STEP,
        by_search: false,
        detect: host::mounts,
    },
    Row {
        kind: "mount-elsewhere",
        what: "a disk that is still mounted in somebody else's mount namespace",
        prevented: "as for `mount`; Landlock keeps descriptors from being passed through abstract sockets",
        found: "the mountinfo of every mount namespace that a process is in or holds open, while a disk is attached",
        removed: "the disk is shut down and its space given back; the mount goes with its holder",
        by_search: false,
        detect: host::mounts_elsewhere,
    },
    Row {
        kind: "loop",
        what: "a loop device that is still attached, also to a deleted file",
        prevented: "AUTOCLEAR: it goes with the last mount",
        found: "/sys/block/loop*/loop/backing_file and the name that the device was given",
        removed: STEP,
        by_search: false,
        detect: host::loops,
    },
    Row {
        kind: "pinned-disk",
        what: "a disk that a process of somebody else holds open: a file, a mapping, a working directory",
        prevented: "Landlock keeps descriptors from being passed through abstract sockets (Linux 6.12)",
        found: "device numbers in /proc/*/{fd,cwd,root,maps}, while a disk is attached",
        removed: "the disk is shut down and its space given back; the device goes with its holder",
        by_search: false,
        detect: host::pinned,
    },
    Row {
        kind: "disk",
        what: "the directory of a disk of `type: dir`: deep trees, immutable files, modes of 000",
        prevented: "sized disks are files without a name",
        found: "its path",
        removed: "a removal that follows no link, crosses no mount and needs two descriptors for any depth",
        by_search: false,
        detect: files::disks,
    },
    Row {
        kind: "mount-point",
        what: "the mount point of the home, or the directory of the disks' mount points",
        prevented: "",
        found: "its path",
        removed: "the account step, if it is empty; what is in it is never walked",
        by_search: false,
        detect: files::mount_points,
    },
    Row {
        kind: "temporary-file",
        what: "a file, directory, FIFO, socket or set-uid copy in /tmp or /var/tmp, or below it where all may write",
        prevented: NAMESPACE,
        found: "its owner",
        removed: SEARCH,
        by_search: true,
        detect: files::temporary,
    },
    Row {
        kind: "shared-memory-file",
        what: "POSIX shared memory or a semaphore in /dev/shm",
        prevented: NAMESPACE,
        found: "its owner",
        removed: SEARCH,
        by_search: true,
        detect: files::shared_memory,
    },
    Row {
        kind: "world-writable-file",
        what: "a file in any other directory where all may write: /run/lock, what an application made",
        prevented: "the host is read-only for the workload",
        found: "its owner, in a list of such directories that is made anew every hour",
        removed: SEARCH,
        by_search: true,
        detect: files::world_writable,
    },
    Row {
        kind: "group-writable-file",
        what: "a file in a directory where a group of the label may write: /usr/local for staff",
        prevented: "the host is read-only for the workload",
        found: "its owner, in a list of such directories that is made anew every hour",
        removed: SEARCH,
        by_search: true,
        detect: files::group_writable,
    },
    Row {
        kind: "writable-path-file",
        what: "a file in one of the operator's `writable_paths`",
        prevented: "",
        found: "its owner, at any depth",
        removed: SEARCH,
        by_search: true,
        detect: files::writable_paths,
    },
    Row {
        kind: "crontab",
        what: "a crontab, which the next user of that name or uid would inherit",
        prevented: "no_new_privs: crontab is set-gid",
        found: "its owner or name, in the spools of cron",
        removed: SEARCH,
        by_search: true,
        detect: files::crontabs,
    },
    Row {
        kind: "at-job",
        what: "an at job, which would run later as that uid",
        prevented: "no_new_privs: at is set-uid",
        found: "its owner, in the spools of at",
        removed: SEARCH,
        by_search: true,
        detect: files::at_jobs,
    },
    Row {
        kind: "mail",
        what: "a mail box",
        prevented: "the host is read-only for the workload",
        found: "its owner or name, in /var/mail and /var/spool/mail",
        removed: SEARCH,
        by_search: true,
        detect: files::mail,
    },
    Row {
        kind: "linger",
        what: "a lingering user of systemd, whose services would start with the host",
        prevented: "the sockets of systemd and D-Bus are hidden",
        found: "its name, in /var/lib/systemd/linger",
        removed: SEARCH,
        by_search: true,
        detect: files::linger,
    },
    Row {
        kind: "runtime-directory",
        what: "the runtime directory of a session",
        prevented: "no PAM, so no session",
        found: "its owner or number, in /run/user",
        removed: SEARCH,
        by_search: true,
        detect: files::runtime_directory,
    },
    Row {
        kind: "sysv-ipc",
        what: "SysV shared memory, attached or not, semaphores, message queues",
        prevented: "an IPC namespace",
        found: "owner or maker, in /proc/sysvipc",
        removed: SEARCH,
        by_search: true,
        detect: host::sysv,
    },
    Row {
        kind: "message-queue",
        what: "a POSIX message queue",
        prevented: "an IPC namespace",
        found: "its owner, in an mqueue file system of the host's namespace",
        removed: SEARCH,
        by_search: true,
        detect: host::message_queues,
    },
    Row {
        kind: "key",
        what: "kernel keys: the user, user-session and persistent keyrings outlive every process",
        prevented: "",
        found: "the quota in /proc/key-users",
        removed: "all three keyrings are emptied and invalidated as that uid",
        by_search: true,
        detect: host::keys,
    },
    Row {
        kind: "account",
        what: "the user",
        prevented: "`account: ephemeral` never writes the host's database",
        found: "a lookup by name, and the lines of /etc/passwd and /etc/shadow",
        removed: "userdel, read back",
        by_search: false,
        detect: host::account,
    },
    Row {
        kind: "group",
        what: "the user's own group",
        prevented: "as for `account`",
        found: "the lines of /etc/group and /etc/gshadow",
        removed: "userdel, read back; one that another user has as its primary group is told, not removed",
        by_search: false,
        detect: host::group,
    },
    Row {
        kind: "group-member",
        what: "a membership in another group",
        prevented: "as for `account`",
        found: "the members in /etc/group and /etc/gshadow",
        removed: "userdel",
        by_search: false,
        detect: host::memberships,
    },
    Row {
        kind: "subuid",
        what: "subordinate uids or gids",
        prevented: "useradd is told to give none",
        found: "the lines of /etc/subuid and /etc/subgid",
        removed: "userdel",
        by_search: false,
        detect: host::subordinate,
    },
    Row {
        kind: "database-lock",
        what: "a lock of the user database whose process is another one by now: useradd would wait for ever",
        prevented: "useradd is never killed before its time limit of two minutes",
        found: "/etc/{passwd,group,shadow,gshadow,subuid,subgid}.lock and the process that it names",
        removed: "a person: it may be another tool's",
        by_search: false,
        detect: host::database_locks,
    },
];

/// The table as the page of the reference.
pub fn render() -> String {
    let mut page = "# What can be left\n\nEverything that an environment can leave on a Linux host, by the `kind` that an \
        audit tells. Made from the table that the audit runs (`crates/native-platform-linux/src/leftovers/table.rs`); \
        `crates/native-helper/tests/host/planted.rs` puts each of these on a host, and asserts that it is found under its \
        name and removed. What stays by design is on [another page](../host-changes.md).\n\n\
        | kind | what it is | prevented by | found by | removed by |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    for row in ROWS {
        let prevented = if row.prevented.is_empty() { "-" } else { row.prevented };
        page += &format!("| `{}` | {} | {prevented} | {} | {} |\n", row.kind, row.what, row.found, row.removed);
    }
    page += "\nBesides these there are root's own records: `record` (an environment that is not alive), `half-record` (a \
        document whose writer died), `held-uid` (a uid that is held back and that no environment has); and the driver's: \
        `environment` (one that is half made or half removed), `journal` (one whose journal can't be read). `fish-native \
        audit --fix` deals with all of them but a journal of a newer version.\n";
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_one_row() {
        let mut kinds: Vec<_> = ROWS.iter().map(|row| row.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), ROWS.len());
    }

    #[test]
    fn the_page_is_the_table() {
        let page = include_str!("../../../../docs/src/reference/leftovers.md");
        let how = "cargo run -p native-platform-linux --example leftovers > docs/src/reference/leftovers.md";
        assert!(page == render(), "the page is not the table; run: {how}");
    }
}
