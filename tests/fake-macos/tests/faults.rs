//! Everything that can go wrong, at every call: each documented error, hangs, kills, lies, and the driver's own
//! death. After recovery the emulated Mac is as it was.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{GB, Rig, Service, account, allocate, differences, disk, revert, runnable, sized, volume, workload};
use fake_macos::{Action, Fault};
use native_platform::{
    Backing, Connection, Invocation, LayersStep, Output, Platform, RunError, Runner, Scope, Step, StepError,
    SystemRunner, VolumeName,
};
use native_platform_macos::Privilege;

/// A small environment with one of everything.
fn plan(rig: &Rig) -> Vec<Step> {
    let layer = rig.layer("base", &[("init.sh", "#!/bin/sh\nexec sleep 600\n")], 0o700);
    let mut run = workload("./init.sh", &[("TOKEN", "secret")]);
    run.stop_grace_ms = 50;
    vec![
        account(&["staff", "_developer"]),
        volume(VolumeName::Home, Backing::Dir),
        volume(disk("ws"), sized(GB)),
        Step::Layers(LayersStep { volume: VolumeName::Home, layers: vec![layer] }),
        Step::Workload(run),
    ]
}

/// The errors that are documented for a command.
fn documented(tool: &str, args: &str) -> Vec<Action> {
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
const HANGS: [Action; 2] = [Action::Hang, Action::DoThenHang];
/// it is killed,
const KILLS: [Action; 2] = [Action::Killed, Action::DoThenKilled];

/// it lies.
fn lies() -> Vec<Action> {
    vec![Action::Lie, Action::DoThenFail { code: 1, err: "it did it and failed\n".to_owned() }]
}

fn life(platform: &dyn Platform, scope: &Scope, plan: &[Step]) {
    if allocate(platform, scope, plan).is_ok() {
        drop(revert(platform, scope, plan));
    }
}

/// What a driver does that starts again: reverts what its journal says, then what the platform's record says.
fn recover(platform: &dyn Platform, scope: &Scope, plan: &[Step]) -> Result<(), StepError> {
    revert(platform, scope, plan)?;
    for known in platform.known()? {
        let mut session = platform.open(&known)?;
        session.purge()?;
        session.finish()?;
    }
    Ok(())
}

/// One case: a life with something wrong, then recovery. Returns what is not as it was.
fn case(mode: Privilege, fault: &Fault) -> Vec<String> {
    let mut rig = Rig::new(mode);
    let scope = rig.scope();
    let plan = plan(&rig);
    let start = rig.snapshot();
    rig.host.set_faults(std::slice::from_ref(fault));
    rig.limit = Duration::from_millis(400);
    {
        let _service = Service::enter(mode);
        life(&rig.platform(), &scope, &plan);
    }
    rig.host.set_faults(&[]);
    rig.limit = Duration::from_secs(20);
    let _service = Service::enter(mode);
    if let Err(error) = recover(&rig.platform(), &scope, &plan) {
        return vec![format!("recovery: {error} (hint: {:?})", error.hint)];
    }
    drop(_service);
    differences(&start, &rig.snapshot())
}

/// Runs cases on all CPUs; prints how many there were, and fails with those that did not come back.
fn run_all<T: Sync>(
    title: &str,
    cases: &[T],
    show: impl Fn(&T) -> String + Sync,
    run: impl Fn(&T) -> Vec<String> + Sync,
) {
    let next = AtomicUsize::new(0);
    let bad = std::sync::Mutex::new(Vec::new());
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
    println!("{title}: {} cases, {} not recovered", cases.len(), bad.len());
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The calls of a life in which nothing goes wrong.
fn calls(mode: Privilege) -> Vec<(u64, String, String)> {
    let rig = Rig::new(mode);
    let scope = rig.scope();
    let plan = plan(&rig);
    let _service = Service::enter(mode);
    allocate(&rig.platform(), &scope, &plan).unwrap();
    revert(&rig.platform(), &scope, &plan).unwrap();
    let mut log = rig.host.log();
    log.sort();
    log.into_iter().map(|(n, tool, args)| (n, tool, args.join(" "))).collect()
}

fn every_call(mode: Privilege, title: &str, actions: impl Fn(&str, &str) -> Vec<Action>) {
    if !runnable() {
        return;
    }
    let mut cases = Vec::new();
    let calls = calls(mode);
    // What happens to a tool below sudo happens to sudo: it ends as its command does.
    let below_sudo = |n: usize| n > 0 && calls[n - 1].1 == "sudo" && calls[n - 1].2.ends_with(&calls[n].2);
    for (n, (call, tool, args)) in calls.iter().enumerate() {
        let (call, below) = (*call, below_sudo(n));
        for action in actions(tool, args).into_iter().filter(|a| !below || matches!(a, Action::Fail { .. })) {
            let fault = Fault { call: Some(call), tool: None, args: String::new(), times: 1, action };
            cases.push((fault, format!("{tool} {args}")));
        }
    }
    run_all(title, &cases, |(f, line)| format!("call {:?} {line}: {:?}", f.call, f.action), |(f, _)| case(mode, f));
}

#[test]
fn documented_errors_as_root() {
    every_call(Privilege::Root, "documented errors as root", documented);
}

#[test]
fn hangs_as_root() {
    every_call(Privilege::Root, "hangs as root", |_, _| HANGS.to_vec());
}

#[test]
fn kills_as_root() {
    every_call(Privilege::Root, "kills as root", |_, _| KILLS.to_vec());
}

#[test]
fn lies_as_root() {
    every_call(Privilege::Root, "lies as root", |_, _| lies());
}

#[test]
fn documented_errors_by_sudo() {
    every_call(Privilege::SudoCommands, "documented errors by sudo", documented);
}

#[test]
fn hangs_by_sudo() {
    every_call(Privilege::SudoCommands, "hangs by sudo", |_, _| HANGS.to_vec());
}

#[test]
fn kills_by_sudo() {
    every_call(Privilege::SudoCommands, "kills by sudo", |_, _| KILLS.to_vec());
}

#[test]
fn lies_by_sudo() {
    every_call(Privilege::SudoCommands, "lies by sudo", |_, _| lies());
}

/// Dies at a call, before or after its effect.
struct Mortal {
    left: AtomicUsize,
    after: bool,
}

/// What the thread of a dying driver carries.
struct Death;

impl Runner for Mortal {
    fn run(&self, invocation: &Invocation) -> Result<Output, RunError> {
        let last = self.left.fetch_sub(1, Ordering::Relaxed) == 1;
        if last && !self.after {
            std::panic::panic_any(Death);
        }
        let output = SystemRunner::real().run(invocation);
        if last {
            std::panic::panic_any(Death);
        }
        output
    }

    fn connect(&self, invocation: &Invocation) -> Result<Connection, RunError> {
        SystemRunner::real().connect(invocation)
    }
}

fn driver_dies(mode: Privilege, title: &str) {
    if !runnable() {
        return;
    }
    // More calls than the driver makes are lives without a death, which is a case too.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Death>() {
            hook(info);
        }
    }));
    let count = calls(mode).iter().filter(|(_, tool, _)| tool != "sudo").count() + 4;
    let cases: Vec<_> = (1..=count).flat_map(|n| [(n, false), (n, true)]).collect();
    run_all(
        title,
        &cases,
        |c| format!("{c:?}"),
        |(n, after)| {
            let rig = Rig::new(mode);
            let scope = rig.scope();
            let plan = plan(&rig);
            let start = rig.snapshot();
            let service = Service::enter(mode);
            let mortal = Arc::new(Mortal { left: AtomicUsize::new(*n), after: *after });
            let platform = rig.platform_over(mortal);
            drop(catch_unwind(AssertUnwindSafe(|| life(&platform, &scope, &plan))));
            if let Err(error) = recover(&rig.platform(), &scope, &plan) {
                return vec![error.to_string()];
            }
            drop(service);
            differences(&start, &rig.snapshot())
        },
    );
}

#[test]
fn driver_dies_as_root() {
    driver_dies(Privilege::Root, "the driver dies as root");
}

#[test]
fn driver_dies_by_sudo() {
    driver_dies(Privilege::SudoCommands, "the driver dies by sudo");
}
