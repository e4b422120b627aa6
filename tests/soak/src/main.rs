//! A node that lives for long: thousands of environments in one process, with faults at random moments, and hundreds
//! at once. Whatever grows, leaks or hangs shows here.
//!
//! ```text
//! cargo xtask soak                 200 at once, 2,000 in a row, a bad neighbour
//! fish-native-soak in-a-row 500    one part alone; FISH_SOAK_SEED=N repeats a run's choices
//! ```
//!
//! Takes its turn on the host like the black-box suite, and lets others have theirs every hundred rounds.

mod at_once;
mod gauge;
mod in_a_row;
mod neighbour;
mod node;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};

fn main() -> ExitCode {
    // The node's helpers are this program.
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = native_helper::hidden_entry(&native_helper::Host::current(), &args) {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, count] = words.as_slice() else {
        bail!("usage: fish-native-soak at-once|in-a-row|neighbour COUNT");
    };
    let count: usize = count.parse().with_context(|| format!("{count} is no number"))?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    match what.as_str() {
        "at-once" => runtime.block_on(at_once::run(count)),
        "in-a-row" => runtime.block_on(in_a_row::run(count)),
        "neighbour" => runtime.block_on(neighbour::run(count)),
        _ => bail!("no such part: {what}"),
    }
}

/// Prints a line. A reader that has gone away is no error.
fn say(line: &str) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}
