//! Everything that the root helper does, on this very host. Needs root (tier T4).
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test: a failure is to be seen, and so is a skip")]

mod common;
mod cycle;
mod full;
mod limits;
mod pinned;
mod planted;
mod start;
