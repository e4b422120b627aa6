//! `cargo xtask soak`: a node under load and random faults (`tests/soak`).

use anyhow::bail;

use crate::report::{Step, Steps};
use crate::run::{cargo, tool};

/// How many lives are measured alone and beside a bad neighbour.
const LIVES: usize = 9;

/// Soaks with `count` environments one after another, and a tenth of that at the same time.
pub(crate) fn all(count: usize) -> anyhow::Result<()> {
    let mut steps = Steps::new();
    let program = crate::target().join("debug").join("fish-native-soak");
    let binary = crate::target().join("debug").join("fish-native");
    steps.step("build", |_| {
        cargo(["build", "--locked", "--package", "soak", "--package", "fish-native"]).run().map(|()| Step::Done)
    });
    let parts =
        [("at once", "at-once", count / 10), ("in a row", "in-a-row", count), ("neighbour", "neighbour", LIVES)];
    for (name, part, count) in parts {
        steps.step(name, |steps| {
            let run = tool(&program.to_string_lossy(), &[part, &count.to_string()]);
            let (lines, success) = run.with("FISH_NATIVE_BIN", &binary.to_string_lossy()).lines(|_| true)?;
            steps.summaries.extend(lines.iter().rev().take(3).rev().map(|line| format!("{name}: {line}")));
            if success { Ok(Step::Done) } else { bail!("see above") }
        });
    }
    steps.finish()
}
