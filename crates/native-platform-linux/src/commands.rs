//! Every tool that this crate runs, with the shape of its arguments.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use native_platform::command::{CommandSpec, Part, Slot};
use native_platform::runner::find_tool;
use native_platform::{ErrorKind, Invocation, Output, Runner, StepError, StepKind};

use Part::{Slot as S, Text as T};

/// Creates a user with a group of its own. No sub-uids (64 Ki of them for each user would run out, and their
/// processes would escape a search by uid), no lastlog entry (a sparse file of 292 bytes times the uid).
pub const USER_ADD: CommandSpec = CommandSpec {
    id: "user-add",
    tool: "useradd",
    args: &[
        T("--no-create-home"),
        T("--no-log-init"),
        T("--shell"),
        T("/usr/sbin/nologin"),
        T("--comment"),
        T("fish-native environment"),
        T("-K"),
        T("SUB_UID_COUNT=0"),
        T("-K"),
        T("SUB_GID_COUNT=0"),
        T("-K"),
        S("UID_MIN=", Slot::Number),
        T("-K"),
        S("UID_MAX=", Slot::Number),
        T("-K"),
        S("GID_MIN=", Slot::Number),
        T("-K"),
        S("GID_MAX=", Slot::Number),
        T("--home-dir"),
        S("", Slot::Path),
        T("--uid"),
        S("", Slot::Number),
        T("--user-group"),
        S("", Slot::User),
    ],
    why_root: "the user database is root's",
};

/// Creates a user whose groups are those of the label.
pub const USER_ADD_GROUPS: CommandSpec = CommandSpec {
    id: "user-add-groups",
    tool: "useradd",
    args: &[
        T("--no-create-home"),
        T("--no-log-init"),
        T("--shell"),
        T("/usr/sbin/nologin"),
        T("--comment"),
        T("fish-native environment"),
        T("-K"),
        T("SUB_UID_COUNT=0"),
        T("-K"),
        T("SUB_GID_COUNT=0"),
        T("-K"),
        S("UID_MIN=", Slot::Number),
        T("-K"),
        S("UID_MAX=", Slot::Number),
        T("--home-dir"),
        S("", Slot::Path),
        T("--uid"),
        S("", Slot::Number),
        T("--no-user-group"),
        T("--gid"),
        S("", Slot::Number),
        T("--groups"),
        S("", Slot::Groups),
        S("", Slot::User),
    ],
    why_root: "the user database is root's",
};

/// Removes a user. Never with `-r` or `-f`: those remove what they find at the home's path, whosever it is
/// (shadow-maint/shadow#1050).
pub const USER_DELETE: CommandSpec = CommandSpec {
    id: "user-delete",
    tool: "userdel",
    args: &[S("", Slot::User)],
    why_root: "the user database is root's",
};

/// Makes an ext4 file system. `^resize_inode` saves 4 MB of writes, the lazy options leave the rest to the
/// kernel, which is told not to do it either (`noinit_itable`): the disk lives as long as one job.
pub const MAKE_EXT4: CommandSpec = CommandSpec {
    id: "make-ext4",
    tool: "mkfs.ext4",
    args: &[
        T("-F"),
        T("-q"),
        T("-b"),
        T("4096"),
        T("-m"),
        T("0"),
        T("-O"),
        T("^resize_inode"),
        T("-E"),
        T("nodiscard,lazy_itable_init=1,lazy_journal_init=1,packed_meta_blocks=1"),
        T("-J"),
        S("size=", Slot::Number),
        T("-L"),
        S("", Slot::Word),
        S("", Slot::Path),
    ],
    why_root: "",
};

/// Makes an xfs file system.
pub const MAKE_XFS: CommandSpec = CommandSpec {
    id: "make-xfs",
    tool: "mkfs.xfs",
    args: &[T("-f"), T("-q"), T("-K"), T("-L"), S("", Slot::Word), S("", Slot::Path)],
    why_root: "",
};

/// Makes a btrfs file system.
pub const MAKE_BTRFS: CommandSpec = CommandSpec {
    id: "make-btrfs",
    tool: "mkfs.btrfs",
    args: &[T("-f"), T("-q"), T("-K"), T("-L"), S("", Slot::Word), S("", Slot::Path)],
    why_root: "",
};

/// The table.
pub const COMMANDS: &[CommandSpec] = &[USER_ADD, USER_ADD_GROUPS, USER_DELETE, MAKE_EXT4, MAKE_XFS, MAKE_BTRFS];

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
        let args = spec.bind(values).map_err(|e| StepError::new(step, ErrorKind::Invalid, e.to_string()))?;
        let mut invocation = Invocation::new(spec.id, Self::path(step, spec.tool)?, args);
        invocation.limit = Duration::from_secs(120);
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
