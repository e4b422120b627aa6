//! Jobs, processes, what they leave behind, and the host itself.

use native_platform::command::{By, CommandSpec, Input, Means, Outcome, Piece, Place, Retry, Slot};

use super::{SYSTEM, USER, code, texts};

use Piece::{Slot as S, Text as T};

const OTHERS: &str = "the processes are another user's";

/// Runs a job as the account.
pub const JOB: CommandSpec = CommandSpec {
    id: "job",
    tool: "su",
    // `.` and not `source`: /bin/sh may be bash, dash or zsh (/private/var/select/sh).
    args: &[&[T("-l")], &[USER], &[T("-c")], &[T(". "), Piece::At(Place::State), T("/job.sh")]],
    input: Input::Job,
    what: "run one job as the account: unpack layers, start the entry, clean up, a command of `exec`. What to \
           do comes by standard input, so that no secret is in a file or an argument and the command is always \
           the same",
    why_root: "only root becomes another user",
    outcomes: &[],
    limit_s: 3600,
    published: Some("/usr/bin/su -l fish-[a-z][a-z][a-z][a-z][a-z][a-z] *"),
    ..CommandSpec::PLAIN
};

/// Every process with its owner.
pub const PROCESSES: CommandSpec = CommandSpec {
    id: "processes",
    tool: "ps",
    // Both uids: a set-uid program of the account has another effective one. `ps -U NAME` can't tell "none"
    // from "no such user" (adv_cmds ps.c).
    args: texts!["-axo", "uid=,ruid=,pid=,stat=,rss=,time="],
    what: "every process with its owner, memory and time: who still runs, and what is used",
    ..CommandSpec::PLAIN
};

/// Asks the account's processes to end.
pub const INTERRUPT: CommandSpec = CommandSpec {
    id: "interrupt",
    tool: "killall",
    args: &[&[T("-INT")], &[T("-u")], &[USER]],
    what: "ask the account's processes to end",
    why_root: OTHERS,
    outcomes: &[
        code(1, "No matching processes", Means::Absent, "shell_cmds killall.c"),
        code(1, "does not exist", Means::Absent, "shell_cmds killall.c"),
    ],
    published: Some("/usr/bin/killall -INT -u fish-[a-z][a-z][a-z][a-z][a-z][a-z]"),
    ..CommandSpec::PLAIN
};

/// Kills the account's processes.
pub const KILL: CommandSpec = CommandSpec {
    id: "kill",
    tool: "pkill",
    // By number: killall skips processes whose arguments can't be read, and a name may be gone already.
    args: &[&[T("-KILL")], &[T("-U")], &[S(Slot::Uid)]],
    what: "kill the account's processes, also those that killall can't see",
    why_root: OTHERS,
    outcomes: &[code(1, "", Means::Absent, "pkill.1: none matched")],
    ..CommandSpec::PLAIN
};

/// Kills the account's processes where there is no rule for `pkill`.
pub const KILL_BY_NAME: CommandSpec = CommandSpec {
    id: "kill-by-name",
    tool: "killall",
    args: &[&[T("-KILL")], &[T("-u")], &[USER]],
    what: "kill the account's processes where the host has no rule for `kill`",
    published: Some("/usr/bin/killall -KILL -u fish-[a-z][a-z][a-z][a-z][a-z][a-z]"),
    ..INTERRUPT
};

/// Whether launchd has a domain for the uid.
pub const DOMAIN_PRINT: CommandSpec = CommandSpec {
    id: "domain-print",
    tool: "launchctl",
    args: &[&[T("print")], &[T("user/"), S(Slot::Uid)]],
    what: "whether launchd still has a domain of the uid",
    outcomes: &[code(113, "Could not find", Means::Absent, "launchctl(1) as seen; not documented")],
    ..CommandSpec::PLAIN
};

/// Ends the uid's domain.
pub const DOMAIN_END: CommandSpec = CommandSpec {
    id: "domain-end",
    tool: "launchctl",
    args: &[&[T("bootout")], &[T("user/"), S(Slot::Uid)]],
    what: "end the uid's launchd domain, so that nothing is started again while processes are killed",
    why_root: "the domain is another user's",
    outcomes: &[
        code(3, "", Means::Absent, "launchctl(1) as seen: 3 is ESRCH"),
        code(113, "", Means::Absent, "launchctl(1) as seen: no such domain"),
        code(36, "", Means::Again, "launchctl(1) as seen: 36 is EINPROGRESS"),
    ],
    retry: Retry { times: 5, pause_ms: 500 },
    limit_s: 20,
    ..CommandSpec::PLAIN
};

const NO_CRONTAB: &[Outcome] = &[code(1, "no crontab for", Means::Absent, "crontab.1")];

/// Shows the account's crontab.
pub const CRONTAB_LIST: CommandSpec = CommandSpec {
    id: "crontab-list",
    tool: "crontab",
    args: &[&[T("-u")], &[USER], &[T("-l")]],
    what: "whether the account left a crontab",
    why_root: "only root may look at another user's",
    outcomes: NO_CRONTAB,
    ..CommandSpec::PLAIN
};

/// Removes the account's crontab.
pub const CRONTAB_REMOVE: CommandSpec = CommandSpec {
    id: "crontab-remove",
    args: &[&[T("-u")], &[USER], &[T("-r")]],
    what: "remove the account's crontab",
    why_root: "only root may change another user's",
    ..CRONTAB_LIST
};

/// Removes files that the account left in shared places.
pub const LEFTOVERS_DELETE: CommandSpec = CommandSpec {
    id: "leftovers-delete",
    tool: "find",
    args: &[
        &[SYSTEM, T("/private/var/folders")],
        &[SYSTEM, T("/private/tmp")],
        &[SYSTEM, T("/private/var/tmp")],
        &[SYSTEM, T("/Users/Shared")],
        &[T("-xdev")],
        &[T("-uid")],
        &[S(Slot::Uid)],
        &[T("-delete")],
    ],
    what: "delete what the uid left in the places where everybody may write",
    why_root: "directories there belong to others",
    limit_s: 600,
    ..CommandSpec::PLAIN
};

/// Unpacks an archive, as the account.
pub const UNPACK: CommandSpec = CommandSpec {
    id: "unpack",
    tool: "tar",
    args: &[&[T("-x")], &[T("-f")], &[T("-")], &[T("-C")], &[S(Slot::Path)], &[T("--no-same-owner")]],
    by: By::Account,
    what: "unpack the layers that come by the job's input; as root, tar would restore owners and set-uid bits",
    limit_s: 3600,
    ..CommandSpec::PLAIN
};

/// Clones a tree, as the account.
pub const TREE_CLONE: CommandSpec = CommandSpec {
    id: "tree-clone",
    tool: "cp",
    args: &[&[T("-Rpc")], &[S(Slot::Path)], &[S(Slot::Path)]],
    by: By::Account,
    what: "put layers there by cloning their files, where the account can read the cache and it is on the same volume",
    limit_s: 3600,
    ..CommandSpec::PLAIN
};

/// Makes a directory, as the account.
pub const DIRECTORY_MAKE: CommandSpec = CommandSpec {
    id: "directory-make",
    tool: "mkdir",
    args: &[&[T("-p")], &[S(Slot::Path)]],
    by: By::Account,
    what: "make a directory of the account's own",
    ..CommandSpec::PLAIN
};

/// Closes a directory to others, as the account.
pub const DIRECTORY_CLOSE: CommandSpec = CommandSpec {
    id: "directory-close",
    tool: "chmod",
    args: &[&[T("700")], &[S(Slot::Path)]],
    by: By::Account,
    what: "make the home nobody else's: createhomedir leaves it open to its group, which other accounts share",
    ..CommandSpec::PLAIN
};

/// Removes the crontab, as the account.
pub const OWN_CRONTAB_REMOVE: CommandSpec = CommandSpec {
    id: "own-crontab-remove",
    tool: "crontab",
    args: texts!["-r"],
    by: By::Account,
    what: "remove the crontab where root's command has no sudo rule",
    outcomes: NO_CRONTAB,
    ..CommandSpec::PLAIN
};

/// Clears flags, as the account.
pub const OWN_FLAGS_CLEAR: CommandSpec = CommandSpec {
    id: "own-flags-clear",
    tool: "chflags",
    args: &[&[T("-R")], &[T("nouchg")], &[SYSTEM, T("/Users/"), USER]],
    by: By::Account,
    what: "clear the flag that stops even root's rm; its owner may",
    ..CommandSpec::PLAIN
};

/// Removes files in shared places, as the account.
pub const OWN_LEFTOVERS_DELETE: CommandSpec = CommandSpec {
    id: "own-leftovers-delete",
    by: By::Account,
    what: "the same as the account, where root's command has no sudo rule",
    why_root: "",
    ..LEFTOVERS_DELETE
};

/// Removes a System V object, as the account.
pub const OWN_IPC_REMOVE: CommandSpec = CommandSpec {
    id: "own-ipc-remove",
    tool: "ipcrm",
    args: &[&[T("-"), S(Slot::IpcKind)], &[S(Slot::Number)]],
    by: By::Account,
    what: "remove a shared memory segment (m), queue (q) or semaphore (s) of the account",
    outcomes: &[code(1, "No such", Means::Absent, "ipcrm.1")],
    ..CommandSpec::PLAIN
};

/// System V shared memory, queues and semaphores.
pub const IPC_LIST: CommandSpec = CommandSpec {
    id: "ipc-list",
    tool: "ipcs",
    what: "System V objects, whose owner shows by name or, when the account is gone, by number",
    ..CommandSpec::PLAIN
};

/// The version of macOS.
pub const OS_VERSION: CommandSpec = CommandSpec {
    id: "os-version",
    tool: "sw_vers",
    args: texts!["-productVersion"],
    what: "the version, which decides what disks and sudo can do",
    ..CommandSpec::PLAIN
};

/// CPUs and memory.
pub const HARDWARE: CommandSpec = CommandSpec {
    id: "hardware",
    tool: "sysctl",
    args: texts!["-n", "hw.ncpu", "hw.memsize"],
    what: "CPU threads and memory",
    ..CommandSpec::PLAIN
};
