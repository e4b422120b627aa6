//! `cargo xtask bench`: figures, taken on this machine in one run.
//!
//! Chores are compiled without optimisation; a bench starts itself again with it.

mod capacity;

use anyhow::bail;

use crate::run::cargo;

/// Runs one bench.
pub(crate) fn run(what: &str) -> anyhow::Result<()> {
    match what {
        "capacity" => again(what),
        "capacity-here" => capacity::run(),
        _ => bail!("no such bench: {what}; there is `capacity`"),
    }
}

/// Starts this program with optimisation, for the bench itself.
fn again(what: &str) -> anyhow::Result<()> {
    cargo(["run", "--quiet", "--release", "--package", "xtask", "--", "bench", &format!("{what}-here")]).run()
}
