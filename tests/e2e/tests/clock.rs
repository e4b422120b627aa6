//! A wall clock that jumps: nothing goes by it.

use std::time::Instant;

use e2e::{Bench, command, say, until};

/// The host's wall clock, in seconds. Set right again when it is dropped.
struct WallClock {
    began: i64,
    since: Instant,
}

impl WallClock {
    /// The clock, if it is this suite's to set.
    fn take() -> Option<Self> {
        if std::env::var_os("FISH_E2E_CLOCK").is_none() {
            say("skipped: the host's clock is not the suite's to set (FISH_E2E_CLOCK=1; cargo xtask vm does)");
            return None;
        }
        let now = command("date").arg("+%s").output().expect("ask for the time");
        let began = String::from_utf8_lossy(&now.stdout).trim().parse().expect("a number of seconds");
        Some(Self { began, since: Instant::now() })
    }

    /// Sets it to so many days away from what is right.
    fn jump(&self, days: i64) {
        let now = self.began + i64::try_from(self.since.elapsed().as_secs()).expect("a short test");
        let set = command("date").args(["-s", &format!("@{}", now + days * 24 * 3600)]).output().expect("set the time");
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        self.jump(0);
    }
}

#[test]
fn a_clock_that_jumps_ends_nothing_and_keeps_nothing() {
    let Some(clock) = WallClock::take() else { return };
    let Some(bench) = Bench::new() else { return };
    bench.configure("cpu_alter: 8\nram_alter: 16\n");
    let label = bench.label("#!/bin/sh\ntrap '' INT TERM HUP\nwhile :; do sleep 1; done\n");
    let allocate =
        |lifetime: &str| bench.fish(&["allocate", &label, "--lifetime", lifetime]).code(0).stdout.trim().to_owned();
    let status = |id: &str| bench.fish(&["status", id, "--json"]).code(0).json();
    let long = allocate("2h");
    clock.jump(400);
    assert_eq!(status(&long)["running"], true, "a year later by the clock, a moment later by its lifetime");
    let short = allocate("3s");
    clock.jump(-400);
    let ended = until("the end of its lifetime", || Some(status(&short)).filter(|status| status["running"] == false));
    assert_eq!(ended["exit_code"], 137, "{ended}");
    assert_eq!(status(&long)["running"], true);
    // The cache, the ledger and the audit's list of places were written in the future.
    let id = allocate("1h");
    bench.fish(&["deallocate", &id, &short, &long]).code(0);
    assert_eq!(bench.fish(&["audit", "--json"]).code(0).json()["clean"], true);
    bench.assert_as_before();
}
