//! Paths of the tools that the driver calls, and what must be true of the files.

use crate::problem::{Problem, Severity, Source};
use crate::{Checked, DriverConfig};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// A tool whose path can be configured, by the key of the config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "&'static str")]
pub enum ToolKey {
    /// `su_path`.
    Su,
    /// `sudo_path`.
    Sudo,
    /// `sh_path`.
    Sh,
    /// `tar_path`.
    Tar,
    /// `mount_path`.
    Mount,
    /// `chown_path`.
    Chown,
    /// `chmod_path`.
    Chmod,
    /// `killall_path`.
    Killall,
    /// `rm_path`.
    Rm,
    /// `dscl_path`, macOS.
    Dscl,
    /// `hdiutil_path`, macOS.
    Hdiutil,
    /// `mdutil_path`, macOS.
    Mdutil,
    /// `createhomedir_path`, macOS.
    Createhomedir,
}

impl ToolKey {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Su,
        Self::Sudo,
        Self::Sh,
        Self::Tar,
        Self::Mount,
        Self::Chown,
        Self::Chmod,
        Self::Killall,
        Self::Rm,
        Self::Dscl,
        Self::Hdiutil,
        Self::Mdutil,
        Self::Createhomedir,
    ];

    /// The key in the config file.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Su => "su_path",
            Self::Sudo => "sudo_path",
            Self::Sh => "sh_path",
            Self::Tar => "tar_path",
            Self::Mount => "mount_path",
            Self::Chown => "chown_path",
            Self::Chmod => "chmod_path",
            Self::Killall => "killall_path",
            Self::Rm => "rm_path",
            Self::Dscl => "dscl_path",
            Self::Hdiutil => "hdiutil_path",
            Self::Mdutil => "mdutil_path",
            Self::Createhomedir => "createhomedir_path",
        }
    }

    /// The program's name, as it is looked for in PATH.
    pub fn program(self) -> &'static str {
        self.key().trim_end_matches("_path")
    }

    /// The tool of a config key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.key() == key)
    }

    /// Whether the tool exists on macOS only.
    pub const fn is_macos_only(self) -> bool {
        matches!(self, Self::Dscl | Self::Hdiutil | Self::Mdutil | Self::Createhomedir)
    }
}

impl fmt::Display for ToolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

impl From<ToolKey> for &'static str {
    fn from(tool: ToolKey) -> Self {
        tool.key()
    }
}

/// What the caller found out about a file. This crate does no I/O itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Something is there.
    pub exists: bool,
    /// It is a plain file (links followed).
    pub is_file: bool,
    /// Somebody may execute it.
    pub executable: bool,
    /// It, or a directory above it, may be written by somebody who is neither root nor the driver's user.
    pub writable_by_others: bool,
}

impl DriverConfig {
    /// What is wrong with the configured tools, each with the place of its key in `src`, the text this came from.
    pub fn check_tools(&self, src: &Source<'_>, facts: &dyn Fn(&Path) -> FileFacts) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (tool, path) in &self.tools {
            let found = facts(path);
            let shown = path.display();
            let (message, hint) = if !path.is_absolute() {
                (format!("{shown} is not absolute"), "write the path from `/` on")
            } else if !found.exists {
                (format!("{shown} does not exist"), "mend the path, or leave the key out to search PATH")
            } else if !found.is_file {
                (format!("{shown} is not a file"), "give the program itself, not its directory")
            } else if !found.executable {
                (format!("{shown} is not executable"), "make it executable (`chmod a+x`) or give another program")
            } else if found.writable_by_others {
                (
                    format!("{shown} can be changed by others than root"),
                    "take the right to write from others (`chmod go-w`), on its directories too",
                )
            } else {
                continue;
            };
            let (line, column, field) = crate::config_read::find_tool(src, *tool, path);
            problems.push(Problem {
                file: src.name.to_owned(),
                line,
                column,
                field,
                message,
                hint: Some(hint.to_owned()),
                severity: Severity::Error,
            });
        }
        Checked::new(None::<()>, problems).problems
    }
}
