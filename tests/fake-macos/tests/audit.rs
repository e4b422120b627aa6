//! Every leftover of the table in `docs/src/macos.md`, planted and found, by the audit of the environment and by that of
//! the whole host.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::{Rig, account, allocate, runnable};
use fake_macos::host::{Image, Ipc};
use native_platform::{Leak, Platform};
use native_platform_macos::Privilege;

type Plant = fn(&Rig, u32);

fn file(rig: &Rig, path: &str, uid: u32) {
    let path = rig.host.fs().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "x").unwrap();
    chown(&path, Some(uid), Some(20)).unwrap();
}

fn image(rig: &Rig, disk: Option<u32>) -> Image {
    let path = rig.host.fs().join("private/var/work/fish-abcdef/disk-ws.sparseimage");
    let mounted = disk.map(|_| rig.host.fs().join("Volumes/fish-abcdef_ws"));
    let (fs, volume) = ("APFS".to_owned(), "ws".to_owned());
    Image { id: 9, path, fs, volume, disk, mounted, made: true, owners: true, nobrowse: true }
}

const ROWS: &[(&str, Plant)] = &[
    ("file", |r, uid| file(r, "private/tmp/x", uid)),
    ("file", |r, uid| file(r, "private/var/tmp/.x", uid)),
    ("file", |r, uid| file(r, "Users/Shared/a/x", uid)),
    ("file", |r, uid| file(r, "private/var/folders/zz/hash/T/x", uid)),
    ("crontab", |r, uid| file(r, "private/var/at/tabs/fish-abcdef", uid)),
    ("at-job", |r, uid| file(r, "private/var/at/jobs/a00001", uid)),
    ("mail", |r, uid| file(r, "private/var/mail/fish-abcdef", uid)),
    ("home", |r, uid| file(r, "Users/fish-abcdef/x", uid)),
    ("home", |r, uid| file(r, "Users/Deleted Users/fish-abcdef.dmg", uid)),
    ("mount-point", |r, uid| file(r, "Volumes/fish-abcdef_ws/x", uid)),
    ("launchd-disabled", |r, uid| {
        file(r, &format!("private/var/db/com.apple.xpc.launchd/disabled.{uid}.plist"), 0);
    }),
    ("launchd-domain", |r, uid| r.host.change(|s| s.domains.push(uid))),
    ("group-member", |r, _| {
        r.host.change(|s| {
            let group = s.od.get_mut("Groups").unwrap().get_mut("com.apple.sharepoint.group.1").unwrap();
            group.get_mut("GroupMembership").unwrap().push("fish-abcdef".to_owned());
        });
    }),
    ("share-point", |r, _| {
        r.host.change(|s| {
            s.od.get_mut("SharePoints").unwrap().insert("fish-abcdef's Public Folder".to_owned(), Default::default())
        });
    }),
    ("ipc", |r, uid| r.host.change(|s| s.ipc.push(Ipc { kind: 'm', id: 65536, uid }))),
    ("image", |r, uid| file(r, "private/var/fish-native/images/fish-abcdef/disk-ws.sparseimage", uid)),
    ("attached-image", |r, _| r.host.change(|s| s.images.push(image(r, Some(4))))),
    ("mount", |r, _| r.host.change(|s| s.images.push(image(r, Some(4))))),
];

fn kinds(leaks: &[Leak]) -> Vec<&str> {
    leaks.iter().map(|l| l.kind.as_str()).collect()
}

#[test]
fn every_row_is_found() {
    if !runnable() {
        return;
    }
    for (kind, plant) in ROWS {
        let rig = Rig::new(Privilege::Root);
        let scope = rig.scope();
        let platform = rig.platform();
        // A live account, so that its uid is known.
        allocate(&platform, &scope, &[account(&["staff"])]).unwrap();
        let mut session = platform.open(&scope).unwrap();
        assert_eq!(kinds(&session.audit().unwrap()), ["account"]);
        plant(&rig, rig.host.config.uids.0);
        let found = session.audit().unwrap();
        assert!(found.iter().any(|l| l.kind == *kind && l.identifier.as_ref() == Some(&scope.id)), "{kind}: {found:?}");
        // The host's audit finds it too, but for what is known by the uid of a record alone, and nothing of a
        // living environment.
        let all = platform.audit(&[]).unwrap();
        let by_record = ["launchd-domain"];
        assert!(by_record.contains(kind) || kinds(&all).contains(kind), "{kind}: {all:?}");
        assert_eq!(platform.audit(std::slice::from_ref(&scope.id)).unwrap(), [], "{kind}");
        session.finish().unwrap();
    }
    println!("{} leftovers planted and found", ROWS.len());
}

#[test]
fn processes_are_found_and_only_ours() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::Root);
    let scope = rig.scope();
    let platform = rig.platform();
    allocate(&platform, &scope, &[account(&[])]).unwrap();
    let uid = rig.host.config.uids.0;
    #[expect(clippy::disallowed_methods, reason = "a process to be found")]
    let mut child = Command::new("/bin/sleep").arg("600").uid(uid).stdin(Stdio::null()).spawn().unwrap();
    let mut session = platform.open(&scope).unwrap();
    assert!(kinds(&session.audit().unwrap()).contains(&"process"));
    session.finish().unwrap();
    assert!(kinds(&platform.audit(&[]).unwrap()).contains(&"process"));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What can be removed is removed when the account is; what is left then is an error that says what.
#[test]
fn leftovers_go_with_the_account() {
    if !runnable() {
        return;
    }
    for (kind, plant) in ROWS {
        let rig = Rig::new(Privilege::Root);
        let scope = rig.scope();
        let platform = rig.platform();
        let step = account(&["staff"]);
        allocate(&platform, &scope, std::slice::from_ref(&step)).unwrap();
        plant(&rig, rig.host.config.uids.0);
        let mut session = platform.open(&scope).unwrap();
        let reverted = session.revert(&step);
        let left = session.audit().unwrap();
        match *kind {
            "file" | "crontab" | "at-job" | "mail" | "launchd-disabled" | "launchd-domain" | "group-member" => {
                reverted.unwrap();
                assert_eq!(left, [], "{kind}");
            }
            // These only a person or their own step removes: told, not hidden.
            "ipc" | "share-point" => assert!(reverted.unwrap_err().hint.is_some(), "{kind}"),
            _ => assert!(kinds(&left).contains(kind), "{kind}: {left:?}"),
        }
        session.finish().unwrap();
    }
}
