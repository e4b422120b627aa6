//! What a workload prints, how it ends, and who watches it while no driver runs.

use std::fs;

use e2e::{Bench, Running, command, until};

/// Allocates, waits for the end of the entry, and returns the identifier and the status.
fn to_its_end(bench: &Bench, label: &str, more: &[&str]) -> (String, serde_json::Value) {
    let id = bench.fish(&[&["allocate", label][..], more].concat()).code(0).stdout.trim().to_owned();
    let status = until("the end of the workload", || {
        let status = bench.fish(&["status", &id, "--json"]).code(0).json();
        (status["running"] == false).then_some(status)
    });
    (id, status)
}

#[test]
fn a_flood_without_a_line_end_is_bounded_and_its_end_is_kept() {
    let Some(bench) = Bench::new() else { return };
    bench.configure("log_size: 1MB\n");
    let label = bench.label("#!/bin/sh\nhead -c 2000000000 /dev/zero | tr '\\0' x\necho; echo last words\nexit 3\n");
    let (id, status) = to_its_end(&bench, &label, &[]);
    assert_eq!(status["exit_code"], 3, "{status}");
    let dir = bench.dir.path().join("workspace").join(&id);
    let kept: u64 = ["log", "log.1"].iter().filter_map(|name| Some(fs::metadata(dir.join(name)).ok()?.len())).sum();
    assert!(kept > 100_000 && kept <= 1_000_000 + 65_536, "{kept} bytes of 2,000,000,000 are kept");
    let logs = bench.fish(&["logs", &id]).code(0).stdout;
    assert!(logs.ends_with("x\nlast words\n"), "{:?}", &logs[logs.len().saturating_sub(80)..]);
    bench.fish(&["deallocate", &id]).code(0);
    bench.assert_as_before();
}

#[test]
fn a_workload_that_closes_its_output_is_waited_for() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\necho said\nexec >&- 2>&-\nsleep 0.5\nexit 4\n");
    let out = bench.fish(&["run", &label]).code(4);
    assert_eq!(out.stdout, "said\n");
    bench.assert_as_before();
}

#[test]
fn what_a_terminal_would_obey_is_shown_as_text() {
    let Some(bench) = Bench::new() else { return };
    if !std::path::Path::new("/usr/bin/script").exists() {
        e2e::say("skipped: script is missing (apt-get install bsdutils)");
        return;
    }
    let label = bench.label("#!/bin/sh\nprintf '\\033]0;title\\007\\033[31mred\\033[0m\\n'\n");
    let (id, _) = to_its_end(&bench, &label, &[]);
    // A file gets the bytes as they are, a terminal does not.
    assert_eq!(bench.fish(&["logs", &id]).code(0).stdout, "\u{1b}]0;title\u{7}\u{1b}[31mred\u{1b}[0m\n");
    let mut terminal = command("script");
    terminal.args(["-qec", &format!("{} logs {id}", bench.line()), "/dev/null"]).current_dir(bench.dir.path());
    let shown = Running::start(terminal).finish().stdout;
    assert!(shown.contains("^[]0;title^G\u{1b}[31mred\u{1b}[0m"), "{shown:?}");
    bench.fish(&["deallocate", &id]).code(0);
    bench.assert_as_before();
}

#[test]
fn orphans_are_reaped() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\nfor n in $(seq 200); do (true & true); done\necho made\nsleep 600\n");
    let id = bench.fish(&["allocate", &label]).code(0).stdout.trim().to_owned();
    until("the orphans", || bench.fish(&["logs", &id]).code(0).stdout.contains("made").then_some(()));
    let zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    until("none left", || {
        let out = bench.fish(&["exec", &id, "--", "sh", "-c", zombies]).code(0);
        (out.stdout.trim() == "0").then_some(())
    });
    bench.fish(&["deallocate", &id]).code(0);
    bench.assert_as_before();
}

#[test]
fn the_lifetime_ends_a_workload_that_no_driver_watches() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\ntrap '' INT TERM HUP\nwhile :; do sleep 1; done\n");
    let (id, status) = to_its_end(&bench, &label, &["--lifetime", "1s"]);
    assert_eq!(status["exit_code"], 137, "{status}");
    bench.fish(&["deallocate", &id]).code(0);
    bench.assert_as_before();
}

#[test]
fn the_result_says_when_the_kernel_killed_for_memory() {
    let Some(bench) = Bench::new() else { return };
    // The one that is killed is not the entry, which goes on and ends as it likes.
    let label = bench.label("#!/bin/sh\nhead -c 3000000000 /dev/zero | tail >/dev/null\necho went on\nexit 6\n");
    let out = bench.fish(&["run", &label]);
    assert!(out.code == 6 || out.code == 137, "{out:?}");
    assert!(out.stderr.contains("ran out of memory"), "{}", out.stderr);
    bench.assert_as_before();
}

#[test]
fn basic_isolation_is_said_each_time() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\nexit 0\n");
    assert!(!bench.fish(&["run", &label]).code(0).stderr.contains("isolation: basic"));
    bench.configure("isolation: basic\n");
    let out = bench.fish(&["run", &label]).code(0);
    assert!(out.stderr.contains("warning") && out.stderr.contains("isolation: basic"), "{}", out.stderr);
    bench.assert_as_before();
}

/// The helper goes before workloads at the processor, and hands nothing of that down.
#[test]
fn a_workload_is_as_nice_as_its_driver() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\nnice\nsleep 600\n");
    let nicely = |words: &str| {
        let mut driver = command("nice");
        driver.args(["-n", "3", "sh", "-c", &format!("{} {words}", bench.line())]);
        Running::start(driver).finish().code(0).stdout
    };
    let id = nicely(&format!("allocate {label}")).trim().to_owned();
    until("its word", || (bench.fish(&["logs", &id]).code(0).stdout == "3\n").then_some(()));
    assert_eq!(nicely(&format!("exec {id} -- nice")), "3\n");
    bench.fish(&["deallocate", &id]).code(0);
    bench.assert_as_before();
}
