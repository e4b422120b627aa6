//! The whole life of an environment against the emulated Mac, in both privilege modes.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod common;

use std::fs;
use std::io::Cursor;
use std::time::Duration;

use common::{Rig, Service, allocate, plan, revert, runnable};
use native_platform::{Enter, EnterIo, Platform, Presence, Receipt, Stream};
use native_platform_macos::Privilege;

const SCRIPT: &str = "#!/bin/sh\necho \"hello $TOKEN $USER $HOME $(cat share/a.txt) $(cat secret/key)\"\n\
    cat /proc/self/status | grep ^Uid\necho err >&2\necho \"tmp $TMPDIR\"; sleep 0.2; exit 7\n";

fn whole_cycle(mode: Privilege) {
    if !runnable() {
        return;
    }
    let rig = Rig::new(mode);
    let scope = rig.scope();
    let plan = plan(&rig, SCRIPT);
    let start = rig.snapshot();
    {
        let _service = Service::enter(mode);
        let platform = rig.platform();
        let mut session = platform.open(&scope).unwrap();
        let mut receipts = Vec::new();
        for step in &plan {
            assert_eq!(session.probe(step).unwrap(), Presence::Absent, "{}", step.describe());
            receipts.push(session.execute(step).unwrap());
            assert_eq!(session.probe(step).unwrap(), Presence::Ours, "{}", step.describe());
        }
        let Receipt::Account { uid, gid: 20 } = receipts[0] else { panic!("{receipts:?}") };
        assert_eq!(receipts[4], Receipt::Layers { method: "copy".to_owned(), why: None });
        let seen = session.observe().unwrap();
        assert!(seen.up && seen.running && seen.pids > 0, "{seen:?}");
        session.finish().unwrap();

        // Another driver finds it.
        let mut session = rig.platform().open(&scope).unwrap();
        let ended = session.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(ended.exit.as_ref().map(|e| (e.code, e.signal)), Some((7, None)), "{ended:?}");
        let log = fs::read_to_string(scope.dir.join("log")).unwrap();
        let home = rig.host.fs().join("Users/fish-abcdef");
        let home = home.display();
        assert!(log.contains(&format!("hello it's a\nsecret fish-abcdef {home} b k\n")), "{log}");
        assert!(log.contains(&format!("Uid:\t{uid}\t{uid}")) && log.contains("err\n"), "{log}");
        assert!(log.contains(&format!("tmp {home}/.tmp")), "{log}");
        session.finish().unwrap();
        let outsider = fs::read_dir(rig.host.fs().join("Users/fish-abcdef"));
        assert_eq!(outsider.is_ok(), mode == Privilege::Root, "the home is closed");

        assert_eq!(rig.platform().known().unwrap(), std::slice::from_ref(&scope));
        revert(&rig.platform(), &scope, &plan).unwrap();
        let before = rig.host.calls();
        revert(&rig.platform(), &scope, &plan).unwrap();
        assert_eq!(rig.host.calls(), before, "a second revert runs nothing");
        assert_eq!(rig.platform().known().unwrap(), []);
        assert_eq!(rig.platform().audit(&[]).unwrap(), []);
        assert_eq!(rig.platform().open(&scope).unwrap().audit().unwrap(), []);
    }
    common::same(&start, &rig.snapshot());
    let usual = ["FAKE_SUDO", "LC_ALL", "PATH", "SUDO_UID"];
    for call in rig.host.logged() {
        assert!(!call.args.join(" ").contains("secret"), "{call:?}");
        // What jobs run has the account's own environment.
        if !call.env.iter().any(|name| name == "HOME") {
            assert!(call.env.iter().all(|name| usual.contains(&name.as_str())), "{call:?}");
        }
    }
}

#[test]
fn whole_cycle_as_root() {
    whole_cycle(Privilege::Root);
}

#[test]
fn whole_cycle_by_sudo() {
    whole_cycle(Privilege::SudoCommands);
}

fn enter(mode: Privilege) {
    if !runnable() {
        return;
    }
    let rig = Rig::new(mode);
    let scope = rig.scope();
    let plan = plan(&rig, "#!/bin/sh\nsleep 60\n");
    let _service = Service::enter(mode);
    allocate(&rig.platform(), &scope, &plan).unwrap();
    let mut session = rig.platform().open(&scope).unwrap();
    let mut run = |command: &[&str], input: &str| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = |stream, bytes: &[u8]| match stream {
            Stream::Out => out.extend_from_slice(bytes),
            Stream::Err => err.extend_from_slice(bytes),
        };
        let io = EnterIo { input: Box::new(Cursor::new(input.to_owned())), output: &mut output };
        let command = command.iter().map(|w| (*w).to_owned()).collect();
        let code = session.enter(&Enter { command, terminal: None, variables: Vec::new() }, io);
        (code.unwrap(), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    assert_eq!(run(&["cat"], "in\nput"), (0, "in\nput".to_owned(), String::new()));
    assert_eq!(run(&["sh", "-c", "echo e >&2; printf o; exit 3"], ""), (3, "o".to_owned(), "e\n".to_owned()));
    assert_eq!(run(&["sh", "-c", "kill -9 $$"], "").0, 137);
    assert_eq!(run(&["no-such-command"], "").0, 127);
    revert(&rig.platform(), &scope, &plan).unwrap();
}

#[test]
fn enters_as_root() {
    enter(Privilege::Root);
}

#[test]
fn enters_by_sudo() {
    enter(Privilege::SudoCommands);
}
