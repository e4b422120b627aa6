//! Jobs, processes, what they leave behind, and the host itself.

use super::{SYSTEM, USER, code, texts};
use crate::row::{CommandRow, Input, Means, Piece, Place, Retry};
use crate::slot::Slot;

use Piece::{Slot as S, Text as T};

const OTHERS: &str = "the processes are another user's";

/// Runs a job as the account.
pub const JOB: CommandRow = CommandRow {
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
    ..CommandRow::PLAIN
};

/// Every process with its owner.
pub const PROCESSES: CommandRow = CommandRow {
    id: "processes",
    tool: "ps",
    // Both uids: a set-uid program of the account has another effective one. `ps -U NAME` can't tell "none"
    // from "no such user" (adv_cmds ps.c).
    args: texts!["-axo", "uid=,ruid=,pid=,stat=,rss=,time="],
    what: "every process with its owner, memory and time: who still runs, and what is used",
    ..CommandRow::PLAIN
};

/// Asks the account's processes to end.
pub const INTERRUPT: CommandRow = CommandRow {
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
    ..CommandRow::PLAIN
};

/// Kills the account's processes.
pub const KILL: CommandRow = CommandRow {
    id: "kill",
    tool: "pkill",
    // By number: killall skips processes whose arguments can't be read, and a name may be gone already.
    args: &[&[T("-KILL")], &[T("-U")], &[S(Slot::Uid)]],
    what: "kill the account's processes, also those that killall can't see",
    why_root: OTHERS,
    outcomes: &[code(1, "", Means::Absent, "pkill.1: none matched")],
    ..CommandRow::PLAIN
};

/// Kills the account's processes where there is no rule for `pkill`.
pub const KILL_BY_NAME: CommandRow = CommandRow {
    id: "kill-by-name",
    tool: "killall",
    args: &[&[T("-KILL")], &[T("-u")], &[USER]],
    what: "kill the account's processes where the host has no rule for `kill`",
    published: Some("/usr/bin/killall -KILL -u fish-[a-z][a-z][a-z][a-z][a-z][a-z]"),
    ..INTERRUPT
};

/// Whether launchd has a domain for the uid.
pub const DOMAIN_PRINT: CommandRow = CommandRow {
    id: "domain-print",
    tool: "launchctl",
    args: &[&[T("print")], &[T("user/"), S(Slot::Uid)]],
    what: "whether launchd still has a domain of the uid",
    outcomes: &[code(113, "Could not find", Means::Absent, "launchctl(1) as seen; not documented")],
    ..CommandRow::PLAIN
};

/// Ends the uid's domain.
pub const DOMAIN_END: CommandRow = CommandRow {
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
    ..CommandRow::PLAIN
};

/// Shows the account's crontab.
pub const CRONTAB_LIST: CommandRow = CommandRow {
    id: "crontab-list",
    tool: "crontab",
    args: &[&[T("-u")], &[USER], &[T("-l")]],
    what: "whether the account left a crontab",
    why_root: "only root may look at another user's",
    outcomes: &[code(1, "no crontab for", Means::Absent, "crontab.1")],
    ..CommandRow::PLAIN
};

/// Removes the account's crontab.
pub const CRONTAB_REMOVE: CommandRow = CommandRow {
    id: "crontab-remove",
    args: &[&[T("-u")], &[USER], &[T("-r")]],
    what: "remove the account's crontab",
    why_root: "only root may change another user's",
    ..CRONTAB_LIST
};

/// Removes files that the account left in shared places.
pub const LEFTOVERS_DELETE: CommandRow = CommandRow {
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
    ..CommandRow::PLAIN
};

/// System V shared memory, queues and semaphores.
pub const IPC_LIST: CommandRow = CommandRow {
    id: "ipc-list",
    tool: "ipcs",
    what: "System V objects, whose owner shows by name or, when the account is gone, by number",
    ..CommandRow::PLAIN
};

/// The version of macOS.
pub const OS_VERSION: CommandRow = CommandRow {
    id: "os-version",
    tool: "sw_vers",
    args: texts!["-productVersion"],
    what: "the version, which decides what disks and sudo can do",
    ..CommandRow::PLAIN
};

/// CPUs and memory.
pub const HARDWARE: CommandRow = CommandRow {
    id: "hardware",
    tool: "sysctl",
    args: texts!["-n", "hw.ncpu", "hw.memsize"],
    what: "CPU threads and memory",
    ..CommandRow::PLAIN
};
