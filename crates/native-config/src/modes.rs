//! How an environment is made: choices of a configuration that the platforms act on, and that cross the privilege
//! boundary.

use serde::{Deserialize, Serialize};

/// Where the environment's account lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountKind {
    /// A user in the host's database.
    #[default]
    Real,
    /// Known only inside the environment.
    Ephemeral,
}

/// How far the workload is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Namespaces of its own.
    #[default]
    Private,
    /// An account of its own and nothing more.
    Basic,
}

/// Whether cpu, memory and process limits are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitsMode {
    /// Enforced; an error where the host can't.
    #[default]
    Hard,
    /// Enforced where the host can.
    Soft,
    /// Not set.
    Off,
}

/// The platform that the file is checked for: what has no effect there is a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A Linux host.
    Linux,
    /// A macOS host.
    Macos,
}

impl Target {
    /// The platform that this library was compiled for; anything that is not macOS counts as Linux.
    pub const fn current() -> Self {
        if cfg!(target_os = "macos") { Self::Macos } else { Self::Linux }
    }
}

/// How the driver gets its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// Root if the driver is root, else the helper.
    #[default]
    Auto,
    /// The driver must be root.
    Root,
    /// The helper through sudo or doas.
    Helper,
    /// Each privileged command by itself through `sudo -n` (macOS).
    SudoCommands,
}
