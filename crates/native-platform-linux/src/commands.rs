//! Every tool that this crate runs, with the shape of its arguments.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use native_platform::command::{Arg, CommandSpec, Means, Outcome, Piece, Retry, Site, Slot, Table};
use native_platform::runner::find_tool;
use native_platform::{Ended, ErrorKind, Invocation, Output, Runner, StepError, StepKind};

use Piece::{Slot as S, Text as T};

const DATABASE: &str = "the user database is root's";

const fn code(code: i32, text: &'static str, means: Means, source: &'static str) -> Outcome {
    Outcome { ending: Ended::Code(code), text, means, source }
}

/// Another program changes the user database at this moment.
const LOCKED: [Outcome; 2] = [
    code(1, "cannot lock", Means::Again, "shadow lib/commonio.c: /etc/passwd.lock is held"),
    code(10, "cannot lock", Means::Again, "shadow lib/commonio.c: /etc/group.lock is held"),
];

/// The lock files tell nobody when they go: there is nothing to wait for but time.
const DATABASE_RETRY: Retry = Retry { times: 1500, pause_ms: 20 };

/// One word that is always the same, as one argument.
macro_rules! texts {
    ($($text:literal),* $(,)?) => { &[$(&[T($text)]),*] };
}

/// What both forms of `useradd` have. No sub-uids (64 Ki of them for each user would run out, and their
/// processes would escape a search by uid), no lastlog entry (a sparse file of 292 bytes times the uid).
const USER_ADD_HEAD: &[Arg] = &[
    &[T("--no-create-home")],
    &[T("--no-log-init")],
    &[T("--shell")],
    &[T("/usr/sbin/nologin")],
    &[T("--comment")],
    &[T("fish-native environment")],
    &[T("-K")],
    &[T("SUB_UID_COUNT=0")],
    &[T("-K")],
    &[T("SUB_GID_COUNT=0")],
    &[T("-K")],
    &[T("UID_MIN="), S(Slot::Number)],
    &[T("-K")],
    &[T("UID_MAX="), S(Slot::Number)],
    &[T("--home-dir")],
    &[S(Slot::Path)],
    &[T("--uid")],
    &[S(Slot::Number)],
];

/// Creates a user with a group of its own.
pub const USER_ADD: CommandSpec = CommandSpec {
    id: "user-add",
    tool: "useradd",
    args: USER_ADD_HEAD,
    tail: &[
        &[T("-K")],
        &[T("GID_MIN="), S(Slot::Number)],
        &[T("-K")],
        &[T("GID_MAX="), S(Slot::Number)],
        &[T("--user-group")],
        &[S(Slot::User)],
    ],
    what: "create the account with a group of its own; the uid comes from our range and was never used before",
    why_root: DATABASE,
    outcomes: &LOCKED,
    retry: DATABASE_RETRY,
    limit_s: 120,
    undo: Some("user-delete"),
    ..CommandSpec::PLAIN
};

/// Creates a user whose groups are those of the label.
pub const USER_ADD_GROUPS: CommandSpec = CommandSpec {
    id: "user-add-groups",
    tail: &[
        &[T("--no-user-group")],
        &[T("--gid")],
        &[S(Slot::Number)],
        &[T("--groups")],
        &[S(Slot::Groups)],
        &[S(Slot::User)],
    ],
    what: "create the account with the label's groups, the first of them primary",
    ..USER_ADD
};

/// Removes a user. Never with `-r` or `-f`: those remove what they find at the home's path, whosever it is
/// (shadow-maint/shadow#1050).
pub const USER_DELETE: CommandSpec = CommandSpec {
    id: "user-delete",
    tool: "userdel",
    args: &[&[S(Slot::User)]],
    what: "remove the account; never with what it finds at the home's path",
    why_root: DATABASE,
    outcomes: &[LOCKED[0], LOCKED[1], code(8, "", Means::Busy, "userdel(8): a process of the user still runs")],
    retry: DATABASE_RETRY,
    limit_s: 120,
    ..CommandSpec::PLAIN
};

/// What both makers of ext4 begin with.
const EXT4_HEAD: &[Arg] = texts!["-F", "-q", "-b", "4096", "-m", "0", "-O"];

/// Makes an ext4 file system. `^resize_inode` saves 4 MB of writes, the lazy options leave the rest to the
/// kernel, which is told not to do it either (`noinit_itable`): the disk lives as long as one job.
pub const MAKE_EXT4: CommandSpec = CommandSpec {
    id: "make-ext4",
    tool: "mkfs.ext4",
    args: EXT4_HEAD,
    tail: &[
        &[T("^resize_inode")],
        &[T("-E")],
        &[T("nodiscard,lazy_itable_init=1,lazy_journal_init=1,packed_meta_blocks=1")],
        &[T("-J")],
        &[T("size="), S(Slot::Number)],
        &[T("-L")],
        &[S(Slot::Word)],
        &[S(Slot::Path)],
    ],
    what: "make the file system of a disk, in an image file that is open already",
    ..MAKE
};

/// The same with what every disk has in it, to be copied for each one: without the copies of the superblock that nobody
/// will ever repair it from (two thirds of the blocks of a disk of 10 GB).
pub const MAKE_TEMPLATE: CommandSpec = CommandSpec {
    id: "make-template",
    tail: &[
        &[T("^resize_inode,sparse_super2")],
        &[T("-E")],
        &[T("nodiscard,lazy_itable_init=1,lazy_journal_init=1,packed_meta_blocks=1,num_backup_sb=0")],
        &[T("-d")],
        &[S(Slot::Path)],
        &[T("-J")],
        &[T("size="), S(Slot::Number)],
        &[T("-L")],
        &[S(Slot::Word)],
        &[S(Slot::Path)],
    ],
    what: "make the file system that disks of one size are copies of, with their first, empty directories in it",
    ..MAKE_EXT4
};

/// What the makers of file systems have in common. They write an image, which needs no right.
const MAKE: CommandSpec = CommandSpec { limit_s: 120, ..CommandSpec::PLAIN };

/// Makes an xfs file system.
pub const MAKE_XFS: CommandSpec = CommandSpec {
    id: "make-xfs",
    tool: "mkfs.xfs",
    args: texts!["-f", "-q", "-K", "-L"],
    tail: LABEL_AND_IMAGE,
    what: "the same for a disk with `type: xfs`",
    ..MAKE
};

/// Makes a btrfs file system.
pub const MAKE_BTRFS: CommandSpec =
    CommandSpec { id: "make-btrfs", tool: "mkfs.btrfs", what: "the same for a disk with `type: btrfs`", ..MAKE_XFS };

const LABEL_AND_IMAGE: &[Arg] = &[&[S(Slot::Word)], &[S(Slot::Path)]];

/// All commands.
pub static COMMANDS: &[CommandSpec] =
    &[USER_ADD, USER_ADD_GROUPS, USER_DELETE, MAKE_EXT4, MAKE_TEMPLATE, MAKE_XFS, MAKE_BTRFS];

/// The table.
pub static TABLE: Table = Table {
    os: "Linux",
    commands: COMMANDS,
    retired: &[],
    tool_path: |tool| PathBuf::from("/usr/sbin").join(tool),
    helper_only: Some(
        "what needs root here are system calls (mounts, namespaces, control groups), which no rule for a tool grants",
    ),
};

/// The makers of file systems that only some labels ask for.
pub(crate) const OPTIONAL: [&str; 2] = ["mkfs.xfs", "mkfs.btrfs"];

/// Which of Debian's packages brings a tool.
pub(crate) fn package_of(tool: &str) -> &'static str {
    match tool {
        "useradd" | "userdel" => "passwd",
        "mkfs.ext4" => "e2fsprogs",
        "mkfs.xfs" => "xfsprogs",
        "mkfs.btrfs" => "btrfs-progs",
        _ => "coreutils",
    }
}

/// Runs rows of the table.
#[derive(Clone)]
pub(crate) struct Tools {
    runner: Arc<dyn Runner>,
}

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}

impl Tools {
    pub(crate) fn new(runner: Arc<dyn Runner>) -> Self {
        Self { runner }
    }

    /// Where a tool is.
    ///
    /// # Errors
    /// [`ErrorKind::NotReady`] with the package that brings it.
    pub(crate) fn path(step: StepKind, tool: &str) -> Result<PathBuf, StepError> {
        find_tool(tool).ok_or_else(|| {
            StepError::new(step, ErrorKind::NotReady, format!("{tool} is not installed"))
                .hint(format!("apt-get install {}", package_of(tool)))
        })
    }

    /// Binds values to a row and runs it, whatever its exit code.
    ///
    /// # Errors
    /// When the tool is missing, a value does not fit its slot, or the tool can't be started or hangs.
    pub(crate) fn run(&self, step: StepKind, spec: &CommandSpec, values: &[&str]) -> Result<Output, StepError> {
        let invocation = Self::invocation(step, spec, values)?;
        self.runner.run(&invocation).map_err(|e| StepError::caused(step, ErrorKind::Failed, &e))
    }

    /// The same for a tool that must end with 0.
    ///
    /// # Errors
    /// As [`Self::run`], and when it ended with something else.
    pub(crate) fn check(&self, step: StepKind, spec: &CommandSpec, values: &[&str]) -> Result<Output, StepError> {
        let invocation = Self::invocation(step, spec, values)?;
        self.runner.check(&invocation).map_err(|e| StepError::caused(step, ErrorKind::Failed, &e))
    }

    fn invocation(step: StepKind, spec: &CommandSpec, values: &[&str]) -> Result<Invocation, StepError> {
        let args =
            spec.bind(&Site::default(), values).map_err(|e| StepError::new(step, ErrorKind::Invalid, e.to_string()))?;
        let mut invocation = Invocation::new(spec.id, Self::path(step, spec.tool)?, args);
        invocation.limit = Duration::from_secs(u64::from(spec.limit_s));
        Ok(invocation)
    }
}

/// The row that makes this file system, and the options to mount it with. Nothing of a volume must survive a
/// crash, so that barriers would only cost time.
pub(crate) fn file_system(kind: &str) -> Option<(&'static CommandSpec, &'static str)> {
    match kind {
        "ext4" => Some((&MAKE_EXT4, "noinit_itable,nobarrier")),
        "xfs" => Some((&MAKE_XFS, "nouuid")),
        "btrfs" => Some((&MAKE_BTRFS, "nobarrier")),
        _ => None,
    }
}
