//! `cargo xtask bench`: figures, taken on this machine in one run.
//!
//! Chores are compiled without optimisation; a bench starts itself again with it.

mod capacity;
mod images;
mod measure;

use anyhow::bail;

use crate::run::cargo;

/// Runs one bench.
pub(crate) fn run(what: &str, words: &[&str]) -> anyhow::Result<()> {
    match what {
        "capacity" | "images" => again(what),
        "capacity-here" => capacity::run(),
        "images-here" => images::run(),
        "images-decode" => images::decode(words),
        _ => bail!("no such bench: {what}; there are `capacity` and `images`"),
    }
}

/// Starts this program with optimisation, for the bench itself.
fn again(what: &str) -> anyhow::Result<()> {
    cargo(["run", "--quiet", "--release", "--package", "xtask", "--", "bench", &format!("{what}-here")]).run()
}
