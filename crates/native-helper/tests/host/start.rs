//! What the helper lets go of at its start, and what it does with callers who say nonsense.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use native_platform::{Connection, Invocation, Runner, SystemRunner};

use crate::common::Bench;

/// Starts a helper in the way that a shell script prepares.
fn helper(prepare: &str) -> Connection {
    let script = format!("{prepare}; exec {}", env!("CARGO_BIN_EXE_fish-native-helper"));
    let shell = Invocation::new("helper", PathBuf::from("/bin/sh"), vec!["-c".to_owned(), script]);
    SystemRunner::real().connect(&shell).unwrap()
}

/// Sends one line, returns the answer.
fn ask(helper: &mut Connection, line: &str) -> String {
    helper.input.write_all(line.as_bytes()).unwrap();
    helper.input.write_all(b"\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&mut helper.output).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn what_a_caller_hands_down_is_let_go_of() {
    let Some(_bench) = Bench::new("fish-starta") else { return };
    let mut helper = helper(
        "umask 077; cd /tmp; ulimit -S -f 8; ulimit -S -t 1000; ulimit -S -n 64; trap '' CHLD INT; exec 9</etc/passwd; \
         export FISH_PLANTED=1",
    );
    // It has answered: so it has begun.
    assert!(ask(&mut helper, "{\"request\":\"facts\"}").contains("cpus"));
    let proc = PathBuf::from(format!("/proc/{}", helper.child.id()));
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap();
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(field("Umask"), "0022");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), PathBuf::from("/"));
    let open: Vec<_> = fs::read_dir(proc.join("fd")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(open.len(), 3, "{open:?}");
    let ignored = u64::from_str_radix(&field("SigIgn"), 16).unwrap();
    // Beyond the first 31 there are the C library's own, which nobody can set.
    assert_eq!(ignored & 0x7FFF_FFFF, 1 << 12, "SIGPIPE and nothing else");
    let limits = read("limits");
    for name in ["Max file size", "Max cpu time"] {
        let line = limits.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        let values: Vec<_> = line.split_whitespace().collect();
        assert_eq!(values[0], values[1], "raised to what root may have: {name} {line}");
    }
    const SYS_ADMIN: u64 = 1 << 21;
    // Module loading, raw I/O, rebooting, the clock, the network's set-up, tracing by BPF.
    const NEVER: u64 = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 25 | 1 << 12 | 1 << 39;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let bits = u64::from_str_radix(&field(set), 16).unwrap();
        assert!(bits & SYS_ADMIN != 0 && bits & NEVER == 0, "{set} {bits:x}");
    }
    drop(helper.input);
    assert!(helper.child.wait().unwrap().success());
}

/// Each is answered with an error, or ends the helper; none is a panic, none changes anything.
#[test]
fn nonsense_is_refused_in_every_state() {
    let Some(bench) = Bench::new("fish-startb") else { return };
    let scope = serde_json::to_string(&bench.scope).unwrap();
    let open = format!("{{\"request\":\"open\",\"scope\":{scope}}}");
    let nonsense: Vec<String> = [
        "",
        "{}",
        "null",
        "[1]",
        "{\"request\":\"shell\",\"command\":\"id\"}",
        "{\"request\":\"facts\",\"extra\":1}",
        "{\"request\":\"open\",\"scope\":{\"id\":\"root\",\"dir\":\"/\",\"isolation\":\"private\",\"uids\":[0,0]}}",
        "{\"request\":\"open\",\"scope\":{\"id\":\"fish-../..\",\"dir\":\"/\",\"isolation\":\"private\",\"uids\":[0,0]}}",
        "{\"request\":\"execute\",\"steps\":[{\"step\":\"account\",\"groups\":[\"-o\"],\"kind\":\"real\"}]}",
        "{\"request\":\"execute\",\"steps\":[{\"step\":\"account\",\"groups\":[],\"kind\":\"real\"",
        "\u{1F41F}\0\u{7}",
    ]
    .iter()
    .map(ToString::to_string)
    .chain(["[".repeat(100_000)])
    .collect();
    for line in &nonsense {
        for opened in [false, true] {
            let mut helper = helper(":");
            if opened {
                assert!(ask(&mut helper, &open).contains("\"done\""));
            }
            let answer = ask(&mut helper, line);
            assert!(answer.contains("\"failed\""), "{line:.80}: {answer}");
            drop(helper.input);
            let code = helper.child.wait().unwrap().code();
            assert!(matches!(code, Some(0 | 1)), "{line:.80}: {code:?}");
        }
    }
    // Requests that only make sense in the other state.
    let mut first = helper(":");
    for line in [
        "{\"request\":\"observe\"}",
        "{\"request\":\"finish\"}",
        "{\"request\":\"purge\"}",
        "{\"request\":\"input\",\"data\":\"\"}",
    ] {
        assert!(ask(&mut first, line).contains("makes no sense here"), "{line}");
    }
    assert!(ask(&mut first, &open).contains("\"done\""));
    for line in
        [open.as_str(), "{\"request\":\"facts\"}", "{\"request\":\"sweep\"}", "{\"request\":\"input\",\"data\":\"\"}"]
    {
        assert!(ask(&mut first, line).contains("makes no sense here"), "{line}");
    }
    drop(first.input);
    first.child.wait().unwrap();
}

#[test]
fn a_line_that_never_ends_is_not_kept() {
    let Some(_bench) = Bench::new("fish-startc") else { return };
    let mut helper = helper(":");
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // The helper gives up at its limit: from then on nobody reads.
    while sent < 64 << 20 && helper.input.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 20 << 20, "{sent} bytes were taken");
    let mut answer = String::new();
    BufReader::new(&mut helper.output).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"failed\"") && answer.contains("16 MB"), "{answer}");
    drop(helper.input);
    assert_eq!(helper.child.wait().unwrap().code(), Some(0));
}
