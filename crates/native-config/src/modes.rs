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
