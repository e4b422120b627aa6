//! `cargo xtask fuzz`: the crates' own `tests/fuzz.rs`, which feed their parsers with arbitrary input for as long as
//! they are told.
//!
//! They need no nightly compiler. A failure prints the input that caused it, which then becomes a test.

use anyhow::bail;

use crate::report::{Step, Steps};
use crate::run::cargo;

/// Crates that read what outsiders write.
const CRATES: [&str; 2] = ["native-config", "native-images"];

/// Runs every target of every crate for this many seconds each.
pub(crate) fn all(seconds: u64) -> anyhow::Result<()> {
    let mut steps = Steps::new();
    for name in CRATES {
        if !crate::root().join("crates").join(name).join("tests").join("fuzz.rs").is_file() {
            continue;
        }
        steps.step(name, |steps| {
            // With optimisation, yet with overflow checks and debug assertions.
            let run = cargo(["test", "--package", name, "--test", "fuzz", "--", "--nocapture", "--test-threads", "2"])
                .with("FISH_FUZZ_SECONDS", &seconds.to_string())
                .with("CARGO_PROFILE_TEST_OPT_LEVEL", "2")
                .with("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
            let (mut lines, success) = run.lines(|line| line.starts_with("test result:"))?;
            steps.summaries.append(&mut lines);
            if success { Ok(Step::Done) } else { bail!("an input was not survived: see above") }
        });
    }
    steps.finish()
}
