//! What the black-box suite is made of: a bench with its own workspace and file server, the program under test, and
//! the host as it was before.
//!
//! Tests know the program by its command line alone. Each of them takes its turn on the host (a lock), because each
//! compares the whole host before and after: accounts, mounts, loop devices, cgroups, processes, temporary
//! directories, IPC objects. A test that can't run here prints `skipped: why`.

mod bench;
mod host;
mod image;
mod program;
mod server;
mod service;
mod trace;

pub use bench::{Bench, PASSWORD, USER, label};
pub use host::Snapshot;
pub use image::{Image, Tree, glutton, greedy};
pub use program::{Outcome, Running, binary, command};
pub use server::{Answer, Server};
pub use service::{Mode, Service};
pub use trace::{Call, KNOWN, Role, Traced, Verdict, trace};

use std::io::Write;
use std::time::{Duration, Instant};

/// How long anything may take before the test gives up on it. Generous: it only ever runs out when something hangs.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Prints a line that the summary of `cargo xtask test` repeats: `skipped: why`, `matrix: how many`.
pub fn say(line: &str) {
    // The runner keeps what a passing test prints. A closed output is no reason to fail.
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Polls until a condition holds.
///
/// # Panics
/// When it does not hold within [`DEADLINE`].
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
