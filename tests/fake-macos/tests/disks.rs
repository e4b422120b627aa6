//! Disks that are kept, cloned or a home; the keeper's lifetime, memory limit and log.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::{GB, Rig, Service, account, allocate, disk, revert, runnable, sized, volume, workload};
use native_platform::{
    Backing, ErrorKind, Exit, LayersStep, Platform, Scope, Step, VolumeName, VolumeStep, WorkloadStep,
};
use native_platform_macos::Privilege;

fn custom(name: VolumeName, reuse: bool, clone_from: Option<PathBuf>) -> Step {
    Step::Volume(VolumeStep { volume: name, backing: sized(GB), label: Some("my data".to_owned()), reuse, clone_from })
}

/// Runs a script in a home of its own, with one more volume; returns the log and how it ended.
fn run(rig: &Rig, extra: Step, script: &str, change: impl FnOnce(&mut WorkloadStep)) -> (String, Option<Exit>) {
    let scope = rig.scope();
    let layer = rig.layer("base", &[("init.sh", script)], 0o700);
    let mut step = workload("./init.sh", &[]);
    change(&mut step);
    let mut plan = vec![account(&[])];
    if !matches!(&extra, Step::Volume(v) if v.volume == VolumeName::Home) {
        plan.push(volume(VolumeName::Home, Backing::Dir));
    }
    plan.push(extra);
    plan.push(Step::Layers(LayersStep { volume: VolumeName::Home, layers: vec![layer] }));
    plan.push(Step::Workload(step));
    let _service = Service::enter(rig.mode);
    allocate(&rig.platform(), &scope, &plan).unwrap();
    let mut session = rig.platform().open(&scope).unwrap();
    let seen = session.wait(Duration::from_secs(20)).unwrap();
    session.finish().unwrap();
    let read = |name| fs::read_to_string(scope.dir.join(name)).unwrap_or_default();
    let log = read("log.1") + &read("log");
    revert(&rig.platform(), &scope, &plan).unwrap();
    assert_eq!(rig.platform().audit(&[]).unwrap(), []);
    drop(fs::remove_file(scope.dir.join("status")));
    (log, seen.exit)
}

#[test]
fn a_kept_disk_comes_back_as_the_next_accounts() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::Root);
    let disk = || custom(disk("ws"), true, None);
    let at = rig.host.fs().join("Volumes/fish-abcdef_ws");
    let (log, _) = run(&rig, disk(), &format!("#!/bin/sh\nid -u\necho kept > {}/note\n", at.display()), |_| {});
    let first = log.trim().to_owned();
    let script = format!("#!/bin/sh\nid -u\ncat {0}/note\necho more >> {0}/note\n", at.display());
    let (log, exit) = run(&rig, disk(), &script, |_| {});
    assert!(log.ends_with("kept\n") && !log.starts_with(&first), "{log} {first}");
    assert_eq!(exit.unwrap().code, 0);
}

#[test]
fn a_kept_disk_needs_a_right_that_no_expression_can_fence() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::SudoCommands);
    run(&rig, custom(disk("ws"), true, None), "#!/bin/sh\n", |_| {});
    let scope = rig.scope();
    let _service = Service::enter(rig.mode);
    let mut session = rig.platform().open(&scope).unwrap();
    session.execute(&account(&[])).unwrap();
    let error = session.execute(&custom(disk("ws"), true, None)).unwrap_err();
    assert!(error.hint.unwrap().contains("privilege: root"), "{}", error.message);
    drop(session);
    assert_eq!(rig.platform().audit(&[]).unwrap(), []);
}

#[test]
fn a_cloned_disk_has_its_own_content() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::Root);
    let at = rig.host.fs().join("Volumes/fish-abcdef_ws");
    // From a directory, which is put there as the account; in both modes.
    for mode in [Privilege::Root, Privilege::SudoCommands] {
        let rig = Rig::new(mode);
        let tree = rig.layer("tree", &[("a/b.txt", "from a tree")], 0o700).dir;
        let at = rig.host.fs().join("Volumes/fish-abcdef_ws/a/b.txt");
        let (log, _) =
            run(&rig, custom(disk("ws"), false, Some(tree)), &format!("#!/bin/sh\ncat {}\n", at.display()), |_| {});
        assert_eq!(log, "from a tree");
    }
    // From an image: a kept one serves.
    run(&rig, custom(disk("ws"), true, None), &format!("#!/bin/sh\necho original > {}/note\n", at.display()), |_| {});
    let image =
        fs::read_dir(rig.host.fs().join("private/var/fish-native/reuse")).unwrap().next().unwrap().unwrap().path();
    for _ in 0..2 {
        let script = format!("#!/bin/sh\ncat {0}/note && echo changed > {0}/note\n", at.display());
        let (log, _) = run(&rig, custom(disk("ws"), false, Some(image.clone())), &script, |_| {});
        assert_eq!(log, "original\n");
    }
}

#[test]
fn a_home_with_a_size_is_a_volume_where_root_mounts_it() {
    if !runnable() {
        return;
    }
    let home = || volume(VolumeName::Home, sized(GB));
    let rig = Rig::new(Privilege::Root);
    let (log, exit) = run(&rig, home(), "#!/bin/sh\npwd\n", |_| {});
    assert_eq!(log, format!("{}\n", rig.host.fs().join("Users/fish-abcdef").display()));
    assert_eq!(exit.unwrap().code, 0);
    let rig = Rig::new(Privilege::SudoCommands);
    let scope = rig.scope();
    let _service = Service::enter(rig.mode);
    let mut session = rig.platform().open(&scope).unwrap();
    session.execute(&account(&[])).unwrap();
    assert_eq!(session.execute(&home()).unwrap_err().kind, ErrorKind::Invalid);
}

/// `hdiutil` hangs when it makes two images at once.
#[test]
fn images_are_made_one_at_a_time() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::Root);
    let scopes = ["fish-aaaaaa", "fish-bbbbbb", "fish-cccccc"].map(|id| {
        let scope = rig.scope();
        Scope { id: id.parse().unwrap(), ..scope }
    });
    let start = rig.snapshot();
    let plan = [account(&[]), volume(disk("ws"), sized(GB)), volume(disk("more"), sized(GB))];
    std::thread::scope(|threads| {
        for scope in &scopes {
            threads.spawn(|| {
                allocate(&rig.platform(), scope, &plan).unwrap();
                revert(&rig.platform(), scope, &plan).unwrap();
            });
        }
    });
    common::same(&start, &rig.snapshot());
}

#[test]
fn the_keeper_ends_what_lives_too_long_or_eats_too_much() {
    if !runnable() {
        return;
    }
    for mode in [Privilege::Root, Privilege::SudoCommands] {
        let rig = Rig::new(mode);
        let temp = || volume(VolumeName::Temp, Backing::Dir);
        let polite = "#!/bin/sh\ntrap 'echo bye; exit 5' INT\nwhile :; do sleep 0.02; done\n";
        let (log, exit) = run(&rig, temp(), polite, |w| w.lifetime_ms = Some(300));
        let exit = exit.unwrap();
        assert!(exit.lifetime_over && exit.code == 5 && log == "bye\n", "{exit:?} {log}");
        let deaf = "#!/bin/sh\ntrap '' INT\nwhile :; do sleep 0.02; done\n";
        let (_, exit) = run(&rig, temp(), deaf, |w| w.lifetime_ms = Some(300));
        let exit = exit.unwrap();
        assert!(exit.lifetime_over && exit.signal == Some(9), "{exit:?}");
        let hungry = "#!/bin/sh\nexec sleep 600\n";
        let (_, exit) = run(&rig, temp(), hungry, |w| w.limits.memory_bytes = 1 << 10);
        let exit = exit.unwrap();
        assert!(exit.out_of_memory && exit.signal == Some(9), "{exit:?}");
        let chatty = "#!/bin/sh\ni=0; while [ $i -lt 2000 ]; do echo \"line $i\"; i=$((i+1)); done\n";
        let (log, _) = run(&rig, temp(), chatty, |w| w.log_bytes = 4096);
        assert!(log.len() <= 4096 && log.ends_with("line 1999\n"), "{}", log.len());
        let (_, exit) = run(&rig, temp(), "#!/bin/sh\nkill -TERM $$\n", |_| {});
        assert_eq!(exit.unwrap().signal, Some(15));
    }
}
