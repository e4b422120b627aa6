//! Everything that can go wrong, at every call: each documented error, hangs, kills, lies, and the driver's own
//! death. After recovery the emulated Mac is as it was.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod cases;
#[path = "../common/mod.rs"]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cases::{Call, HANGS, KILLS, documented, faults_of, lies, run_all};
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
    // The keeper's looks at memory would come at no fixed place of a life, and cost more than all the rest.
    run.limits.memory_bytes = 0;
    vec![
        account(&["staff", "_developer"]),
        volume(VolumeName::Home, Backing::Dir),
        volume(disk("ws"), sized(GB)),
        Step::Layers(LayersStep { volume: VolumeName::Home, layers: vec![layer] }),
        Step::Workload(run),
    ]
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

/// The calls of a life in which nothing goes wrong.
fn calls(mode: Privilege) -> Vec<Call> {
    let rig = Rig::new(mode);
    let scope = rig.scope();
    let plan = plan(&rig);
    let _service = Service::enter(mode);
    allocate(&rig.platform(), &scope, &plan).unwrap();
    revert(&rig.platform(), &scope, &plan).unwrap();
    cases::log(&rig.host)
}

fn every_call(mode: Privilege, title: &str, actions: impl Fn(&str, &str) -> Vec<Action>) {
    if !runnable() {
        return;
    }
    let cases = faults_of(&calls(mode), actions).concat();
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
    let count = calls(mode).iter().filter(|call| call.tool != "sudo").count() + 4;
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
