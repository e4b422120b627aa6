//! What can go wrong at a call, and running many cases.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "two suites use parts of it"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fake_macos::{Action, Fault, Host};

/// A call of a life.
#[derive(Debug, Clone)]
pub struct Call {
    pub index: u64,
    pub tool: String,
    pub args: String,
}

/// The calls so far, by their numbers.
pub fn log(host: &Host) -> Vec<Call> {
    let mut log = host.log();
    log.sort();
    log.into_iter().map(|(index, tool, args)| Call { index, tool, args: args.join(" ") }).collect()
}

/// The errors that are documented for a command.
pub fn documented(tool: &str, args: &str) -> Vec<Action> {
    let dscl = |code, name: &str, number| {
        Action::fail(code, &format!("<main> attribute status: {name}\n<dscl_cmd> DS Error: {number} ({name})\n"))
    };
    match tool {
        "dscl" => vec![
            dscl(40, "eDSPermissionError", -14120),
            dscl(140, "eNotYetImplemented", -14988),
            dscl(56, "eDSRecordNotFound", -14136),
            Action::fail(70, "Operation failed with error: eServerError\n"),
            Action::Fail {
                code: 185,
                out: "delete: Invalid Path\n".to_owned(),
                err: "<dscl_cmd> DS Error: -14009 (eDSUnknownNodeName)\n".to_owned(),
            },
        ],
        "hdiutil" if args.starts_with("create") => {
            ["Resource busy", "No space left on device", "Operation not permitted"]
                .map(|why| Action::fail(1, &format!("hdiutil: create failed - {why}\n")))
                .into()
        }
        "hdiutil" if args.starts_with("attach") => {
            ["Resource busy", "no mountable file systems", "No such file or directory"]
                .map(|why| Action::fail(1, &format!("hdiutil: attach failed - {why}\n")))
                .into()
        }
        "hdiutil" if args.starts_with("detach") => vec![
            Action::fail(16, "hdiutil: couldn't unmount \"disk4\" - Resource busy\n"),
            Action::Fail {
                code: 16,
                out: "\"disk4\" unmounted.\n".to_owned(),
                err: "hdiutil: couldn't eject \"disk4\" - Resource busy\n".to_owned(),
            },
            Action::DoThenFail { code: 1, err: "hdiutil: detach failed - No such file or directory\n".to_owned() },
        ],
        "su" => vec![
            Action::fail(1, "su: Sorry\n"),
            Action::fail(1, "su: no directory\n"),
            Action::fail(1, "su: unknown login: fish-abcdef\n"),
            // What su says when a signal killed the shell: nothing, and 0.
            Action::Lie,
        ],
        "sudo" => vec![Action::fail(1, "sudo: a password is required\n")],
        "id" => vec![Action::fail(1, "id: fish-abcdef: no such user\n")],
        "killall" => vec![Action::fail(1, "No matching processes were found\n")],
        "pkill" => vec![Action::fail(1, ""), Action::fail(3, "pkill: fatal error\n")],
        "launchctl" => vec![Action::fail(36, "Boot-out failed: 36\n"), Action::fail(3, "Boot-out failed: 3\n")],
        "rm" => vec![Action::fail(1, "rm: /Users/fish-abcdef: Operation not permitted\n")],
        "tar" => vec![
            Action::fail(1, "tar: Error opening archive: Unrecognized archive format\n"),
            Action::DoThenFail { code: 1, err: "tar: Write error: No space left on device\n".to_owned() },
        ],
        _ => vec![Action::fail(1, "it failed\n")],
    }
}

/// What can go wrong with any command: it hangs before or after its effect,
pub const HANGS: [Action; 2] = [Action::Hang, Action::DoThenHang];
/// it is killed,
pub const KILLS: [Action; 2] = [Action::Killed, Action::DoThenKilled];

/// it lies.
pub fn lies() -> Vec<Action> {
    vec![Action::Lie, Action::DoThenFail { code: 1, err: "it did it and failed\n".to_owned() }]
}

/// For each call, what these actions do to it.
pub fn faults_of(calls: &[Call], actions: impl Fn(&str, &str) -> Vec<Action>) -> Vec<Vec<(Fault, String)>> {
    // What happens to a tool below sudo happens to sudo: it ends as its command does.
    let below_sudo = |n: usize| n > 0 && calls[n - 1].tool == "sudo" && calls[n - 1].args.ends_with(&calls[n].args);
    let of = |(n, call): (usize, &Call)| {
        let fits = |a: &Action| !below_sudo(n) || matches!(a, Action::Fail { .. });
        let fault = |action| {
            let fault = Fault { call: Some(call.index), tool: None, args: String::new(), times: 1, action };
            (fault, format!("{} {}", call.tool, call.args))
        };
        actions(&call.tool, &call.args).into_iter().filter(fits).map(fault).collect()
    };
    calls.iter().enumerate().map(of).collect()
}

/// For each call, all that can go wrong with it.
pub fn every_fault(calls: &[Call]) -> Vec<Vec<(Fault, String)>> {
    faults_of(calls, |tool, args| [documented(tool, args), HANGS.to_vec(), KILLS.to_vec(), lies()].concat())
}

/// Runs cases on all CPUs; prints how many there were, and fails with those that did not come back.
pub fn run_all<T: Sync>(
    title: &str,
    cases: &[T],
    show: impl Fn(&T) -> String + Sync,
    run: impl Fn(&T) -> Vec<String> + Sync,
) {
    let next = AtomicUsize::new(0);
    let bad = Mutex::new(Vec::new());
    // Many cases wait rather than work.
    let threads = std::thread::available_parallelism().map_or(2, usize::from) + 2;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let differences = run(case);
                    if !differences.is_empty() {
                        bad.lock().unwrap().push(format!("{}: {differences:#?}", show(case)));
                    }
                }
            });
        }
    });
    let bad = bad.into_inner().unwrap();
    println!("matrix: macOS, {title}: {} cases: {} not recovered", cases.len(), bad.len());
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
