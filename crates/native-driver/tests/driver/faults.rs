//! For every call and every journal write of a whole cycle: it fails, lies, gets stuck or the process dies there;
//! then the next process recovers. The host equals its start, or a journal names what is left.

use crate::common::{Rig, WriteFault, request, runtime};
use native_driver::journal::JournalPhase;
use native_driver::{AllocateCause, DeallocateError, Driver, ExitCode, Explain, Watch};
use native_platform_fake::Fault;
use std::time::Duration;

/// What a cycle came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It went through.
    Clean,
    /// It failed, and says that nothing is left.
    Failed,
    /// It failed, and says that something is left.
    Left,
}

/// Allocates, ends the workload and deallocates.
fn cycle(rig: &Rig) -> Outcome {
    let driver = rig.driver();
    let made = match rig.runtime.block_on(driver.allocate(request(), Watch::quiet())) {
        Ok(made) => made,
        Err(error) => {
            assert_eq!(error.cleanup.is_some(), error.code() == ExitCode::LeftBehind);
            return if error.cleanup.is_some() { Outcome::Left } else { Outcome::Failed };
        }
    };
    rig.host.end(&made.identifier, 0);
    match rig.runtime.block_on(driver.deallocate(&made.identifier, Watch::quiet())) {
        Ok(gone) => {
            assert!(gone.audit.clean);
            Outcome::Clean
        }
        Err(DeallocateError::Left(left)) => {
            assert!(!left.items().is_empty());
            Outcome::Left
        }
        Err(_) => Outcome::Failed,
    }
}

/// Calls and writes of a cycle without faults.
fn length() -> (usize, usize) {
    let rig = Rig::new();
    assert_eq!(cycle(&rig), Outcome::Clean);
    rig.assert_clean(&"a cycle without faults");
    (rig.host.calls(), rig.writes.count())
}

/// The next process, until nothing of an environment that it adopted is left.
fn next_process(rig: &Rig, what: &dyn std::fmt::Display) {
    let died = rig.host.is_dead();
    rig.host.restart();
    let (driver, prepared) = rig.recovered().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(prepared.recovered.busy, [], "{what}: a dead process holds no lock");
    for id in &prepared.recovered.adopted {
        // Not so after a `finish` that only said so; a death never makes a journal say more than is there.
        let there = rig.host.state().workloads.contains_key(id.as_str());
        assert!(there || !died, "{what}: adopted, but there is no workload");
        let gone = rig.runtime.block_on(driver.deallocate(id, Watch::quiet()));
        assert!(gone.unwrap_or_else(|e| panic!("{what}: {e}")).audit.clean);
    }
}

#[test]
fn every_call_fails_lies_or_gets_stuck() {
    let (calls, _) = length();
    let runtime = runtime();
    let mut cases = 0;
    for call in 0..calls {
        for fault in
            [Fault::FailBefore, Fault::DoThenFail, Fault::Lie, Fault::Stuck, Fault::Hang(Duration::from_millis(1))]
        {
            cases += 1;
            let rig = Rig::on(runtime.clone());
            rig.host.fault(call, fault);
            let outcome = cycle(&rig);
            let what = format!("{fault:?} at {:?} gave {outcome:?}", rig.host.log().get(call));
            match outcome {
                Outcome::Clean => rig.assert_clean(&what),
                // A deallocation that could not begin leaves an allocated environment as it was.
                Outcome::Failed => {
                    let there = rig.ids();
                    if there.is_empty() {
                        rig.assert_clean(&what);
                    }
                    for id in there {
                        assert_eq!(rig.journal(&id).unwrap().phase, JournalPhase::Allocated, "{what}");
                    }
                }
                Outcome::Left => {
                    let ids = rig.ids();
                    assert_eq!(ids.len(), 1, "{what}: it keeps its record");
                    let journal = rig.journal(&ids[0]).unwrap();
                    assert_eq!(journal.phase, JournalPhase::Leaked, "{what}");
                    assert!(!journal.stuck().is_empty() || !journal.leaked.is_empty(), "{what}: {journal:#?}");
                }
            }
            // Whatever it was: once it is mended, nothing is left.
            rig.host.heal();
            next_process(&rig, &what);
            rig.assert_clean(&what);
        }
    }
    println!("{cases} cases of calls that go wrong");
    assert!(cases > 100);
}

#[test]
fn a_process_dies_at_every_call() {
    let (calls, _) = length();
    let runtime = runtime();
    let mut cases = 0;
    for call in 0..calls {
        for fault in [Fault::CrashBefore, Fault::CrashMid, Fault::CrashAfter] {
            for helper_survives in [false, true] {
                cases += 1;
                let rig = Rig::on(runtime.clone());
                rig.host.set_helper_survives(helper_survives);
                rig.host.fault(call, fault);
                cycle(&rig);
                let hit = rig.host.log().get(call).cloned();
                let what = format!("{fault:?} at {hit:?}, helper survives: {helper_survives}");
                assert!(rig.host.is_dead(), "{what}");
                next_process(&rig, &what);
                rig.assert_clean(&what);
            }
        }
    }
    println!("{cases} cases of a process that dies at a call");
    assert!(cases > 100);
}

#[test]
fn a_process_dies_or_fails_at_every_journal_write() {
    let (_, writes) = length();
    let runtime = runtime();
    let mut cases = 0;
    for write in 0..writes {
        for fault in [WriteFault::Fail, WriteFault::FailAfter, WriteFault::CrashBefore, WriteFault::CrashAfter] {
            cases += 1;
            let rig = Rig::on(runtime.clone());
            rig.writes.fault(write, fault);
            let outcome = cycle(&rig);
            let what = format!("{fault:?} at write {write} gave {outcome:?}");
            if !rig.host.is_dead() {
                // A journal that can't be written once never leaves anything, nor hides that it did.
                assert_ne!(outcome, Outcome::Left, "{what}");
                rig.assert_clean(&what);
                continue;
            }
            next_process(&rig, &what);
            rig.assert_clean(&what);
        }
    }
    println!("{cases} cases of journal writes that fail or kill");
    // Claimed, intended, allocated, deallocating: four writes make a cycle.
    assert!(cases >= 16);
}

/// Kills a cycle at `call`, then the recovery at its call number `again`. `false`: it had fewer calls.
fn dies_twice(rig: &Rig, call: usize, again: usize, fault: Fault) -> bool {
    rig.host.fault(call, Fault::CrashAfter);
    cycle(rig);
    rig.host.restart();
    let begin = rig.host.calls();
    rig.host.fault(begin + again, fault);
    let what = format!("CrashAfter at {call}, then {fault:?} at call {again} of the recovery");
    if let Ok((driver, prepared)) = rig.recovered() {
        for id in &prepared.recovered.adopted {
            drop(rig.runtime.block_on(driver.deallocate(id, Watch::quiet())));
        }
    }
    let hit = rig.host.is_dead();
    rig.host.heal();
    next_process(rig, &what);
    rig.assert_clean(&what);
    hit
}

#[test]
fn a_process_dies_again_at_every_call_of_the_recovery() {
    let (calls, _) = length();
    let runtime = runtime();
    let mut cases = 0;
    for call in 0..calls {
        for fault in [Fault::CrashBefore, Fault::CrashMid, Fault::CrashAfter] {
            let mut again = 0;
            while dies_twice(&Rig::on(runtime.clone()), call, again, fault) {
                again += 1;
            }
            cases += again;
        }
    }
    println!("{cases} cases of a recovery that dies too");
    assert!(cases > 100);
}

/// The number of a call in a cycle without faults.
fn number(method: &str, what: &str) -> usize {
    let rig = Rig::new();
    cycle(&rig);
    rig.host.log().iter().position(|c| c.method == method && c.what == what).unwrap()
}

#[test]
fn a_lie_about_the_account_is_found_by_the_audit_and_undone() {
    let rig = Rig::new();
    rig.host.fault(number("revert", "account"), Fault::Lie);
    assert_eq!(cycle(&rig), Outcome::Clean);
    rig.assert_clean(&"after the lie");
    let reverts = rig.host.log().iter().filter(|c| c.method == "revert" && c.what == "account").count();
    assert_eq!(reverts, 2, "the second attempt believes no earlier answer");
}

#[test]
fn a_stuck_disk_keeps_its_record_and_names_itself() {
    let rig = Rig::new();
    let driver = rig.driver();
    let made = rig.runtime.block_on(driver.allocate(request(), Watch::quiet())).unwrap();
    // open, observe, workload, two layers, and then the last volume.
    let begin = rig.host.calls();
    rig.host.fault(begin + 5, Fault::Stuck);
    let error = rig.runtime.block_on(driver.deallocate(&made.identifier, Watch::quiet())).unwrap_err();
    assert_eq!(error.code(), ExitCode::LeftBehind);
    let DeallocateError::Left(left) = &error else { panic!("{error}") };
    assert!(left.stuck.iter().any(|s| s.what.contains("is pinned")), "{left:?}");
    assert!(left.leaked.iter().any(|l| l.kind == "volume"), "{left:?}");
    assert_eq!(error.hint().as_deref(), Some("let it go"));
    assert!(error.to_string().contains("pinned"), "{error}");

    // A start tries again, fails again and keeps it; the environment is not gone.
    let (driver, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.kept.len(), 1);
    let status = rig.runtime.block_on(driver.inspect(&made.identifier)).unwrap();
    assert!(!status.problems.is_empty(), "{status:?}");
    rig.host.heal();
    assert!(rig.runtime.block_on(driver.audit_fix(Watch::quiet())).unwrap().audit.clean);
    rig.assert_clean(&"after it was let go");
}

#[test]
fn both_errors_are_reported() {
    let rig = Rig::new();
    // The volume of the home can't be made, and the account can't be removed again.
    rig.host.fault(number("execute", "account"), Fault::Stuck);
    rig.host.fault(number("execute", "home"), Fault::FailBefore);
    let driver = rig.driver();
    let error = rig.runtime.block_on(driver.allocate(request(), Watch::quiet())).unwrap_err();
    assert!(matches!(&error.cause, AllocateCause::Step(e) if e.message.contains("scripted")), "{error:?}");
    let cleanup = error.cleanup.as_ref().unwrap();
    assert!(cleanup.stuck.iter().any(|s| s.what.contains("account is pinned")), "{cleanup:?}");
    assert_eq!(error.code(), ExitCode::LeftBehind);
    assert_eq!(error.step(), Some("volume"));
}
