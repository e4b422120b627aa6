//! What is printed: standard output belongs to this module.

use std::io::Write;
use std::time::{Duration, Instant};

/// Prints a line. A reader that has gone away is no error.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// One step of a longer chore, as it ended.
struct Row {
    name: &'static str,
    took: Duration,
    outcome: &'static str,
}

/// Runs steps, going on after a failure so that one run shows everything that is wrong.
pub(crate) struct Steps {
    rows: Vec<Row>,
    failed: Vec<&'static str>,
    /// Lines to repeat at the end: the test runners' own summaries.
    pub(crate) summaries: Vec<String>,
    /// Tests and checks that could not be done here, and why.
    pub(crate) skipped: Vec<String>,
}

/// How a step ended that did not fail.
pub(crate) enum Step {
    /// It was done.
    Done,
    /// It could not be done here, for this reason.
    Skipped(String),
}

impl Steps {
    /// No steps yet.
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), failed: Vec::new(), summaries: Vec::new(), skipped: Vec::new() }
    }

    /// Runs a step.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> anyhow::Result<Step>) {
        say(&format!("\n== {name}"));
        let start = Instant::now();
        let outcome = match work(self) {
            Ok(Step::Done) => "ok",
            Ok(Step::Skipped(why)) => {
                say(&format!("skipped: {why}"));
                self.skipped.push(format!("{name}: {why}"));
                "skipped"
            }
            Err(error) => {
                say(&format!("error: {error:#}"));
                self.failed.push(name);
                "FAILED"
            }
        };
        self.rows.push(Row { name, took: start.elapsed(), outcome });
    }

    /// Prints the table of steps, what was skipped and the runners' summaries, in this order: the last lines say
    /// how many tests ran.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        say("");
        let total: Duration = self.rows.iter().map(|r| r.took).sum();
        for row in &self.rows {
            say(&format!("{:>8.1} s  {:8} {}", row.took.as_secs_f64(), row.outcome, row.name));
        }
        say(&format!("{:>8.1} s  in all", total.as_secs_f64()));
        for line in &self.skipped {
            say(&format!("skipped: {line}"));
        }
        for line in &self.summaries {
            say(line);
        }
        anyhow::ensure!(self.failed.is_empty(), "failed: {}", self.failed.join(", "));
        Ok(())
    }
}
