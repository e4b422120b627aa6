//! Ctrl-C and SIGTERM during `run`, in every phase: the environment goes, nothing is left, the exit code says which.

use e2e::{Answer, Bench, Tree, until};
use rustix::process::Signal;

/// A workload that runs until it is stopped.
const STAY: &str = "#!/bin/sh\necho running\nsleep 600\n";

/// Interrupts `run` when it says that a phase begins, and asserts that nothing is left.
#[track_caller]
fn interrupted_in(phase: &str) {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(STAY);
    let mut run = bench.start(&["run", &label, "--log-format", "json"]);
    assert!(run.says(&format!("{{\"started\":\"{phase}\"}}")), "no phase {phase}: {:?}", run.finish());
    run.signal(Signal::INT);
    let out = run.finish().code(130);
    assert!(out.stderr.contains("interrupted"), "{}", out.stderr);
    assert_eq!(bench.environments(), [""; 0]);
    bench.assert_as_before();
}

#[test]
fn in_the_checks() {
    interrupted_in("check");
}

#[test]
fn while_the_account_is_made() {
    interrupted_in("account");
}

#[test]
fn while_the_volumes_are_made() {
    interrupted_in("volumes");
}

#[test]
fn when_images_begin() {
    interrupted_in("images");
}

#[test]
fn while_the_layers_are_placed() {
    interrupted_in("layers");
}

#[test]
fn while_the_workload_starts() {
    interrupted_in("start");
}

#[test]
fn in_the_middle_of_a_download() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("work", &Tree::new().program("init.sh", STAY).file("data", noise(400_000)));
    bench.server.set(&image.file, Answer::Stall(image.path.clone(), image.size() / 2));
    let label = bench.label_of(&[bench.source(&image, None)], "{}");
    let mut run = bench.start(&["run", &label, "--log-format", "json"]);
    until("the request", || (bench.server.requests(&image.file) > 0).then_some(()));
    run.signal(Signal::INT);
    run.finish().code(130);
    bench.assert_as_before();
    let list = bench.fish(&["images", "list", "--json"]).code(0).json();
    assert_eq!(list["images"], serde_json::json!([]));
}

#[test]
fn while_the_workload_runs() {
    let Some(bench) = Bench::new() else { return };
    let label = bench
        .label("#!/bin/sh\ntrap 'seq 20000; echo got INT; exit 9' INT\necho running\nwhile :; do sleep 0.05; done\n");
    let mut run = bench.start(&["run", &label]);
    assert!(run.prints("running"), "{:?}", run.finish());
    run.signal(Signal::INT);
    let out = run.finish().code(130);
    let last: Vec<&str> = out.stdout.lines().rev().take(2).collect();
    assert_eq!(last, ["got INT", "20000"], "the workload hears of it first, and all of its last words are passed on");
    bench.assert_as_before();
}

#[test]
fn while_a_workload_runs_that_ignores_it() {
    let Some(bench) = Bench::new() else { return };
    let label =
        bench.label("#!/bin/sh\ntrap '' INT TERM HUP\n(setsid sleep 600 &)\necho running\nwhile :; do sleep 1; done\n");
    let mut run = bench.start(&["run", &label, "--json"]);
    assert!(run.says("running"), "{:?}", run.finish());
    run.signal(Signal::INT);
    // A second one changes nothing.
    std::thread::sleep(std::time::Duration::from_millis(200));
    run.signal(Signal::INT);
    let json = run.finish().code(130).json();
    assert_eq!(json["error"]["code"], 130, "{json}");
    bench.assert_as_before();
}

#[test]
fn sigterm_ends_with_143() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(STAY);
    let mut run = bench.start(&["run", &label]);
    assert!(run.prints("running"), "{:?}", run.finish());
    run.signal(Signal::TERM);
    run.finish().code(143);
    bench.assert_as_before();
}

#[test]
fn in_the_middle_of_images_pull() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("work", &Tree::new().program("init.sh", STAY).file("data", noise(400_000)));
    bench.server.set(&image.file, Answer::Stall(image.path.clone(), image.size() / 2));
    let mut pull = bench.start(&["images", "pull", &bench.server.url(&image.file)]);
    until("the request", || (bench.server.requests(&image.file) > 0).then_some(()));
    pull.signal(Signal::INT);
    pull.finish().code(130);
    bench.assert_as_before();
}

/// Bytes that no packer makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
