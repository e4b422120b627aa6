//! What a start does about everything that earlier processes, power cuts and other people left.

use std::fs;

use crate::common::{Rig, fixture, request, small};
use native_config::EnvironmentId;
use native_driver::store::{JOURNAL, NOTE};
use native_driver::{
    DeallocateError, Driver, ExitCode, Explain, JournalError, NativeDriver, PrepareOptions, Status, Watch,
};
use native_platform::{AccountStep, Platform, Scope, Step, VolumeName};

fn id(text: &str) -> EnvironmentId {
    text.parse().unwrap()
}

fn allocated(rig: &Rig, driver: &NativeDriver) -> EnvironmentId {
    rig.runtime.block_on(driver.allocate(request(), Watch::quiet())).unwrap().identifier
}

/// What becomes of a journal's text.
type Damage = fn(&[u8]) -> Vec<u8>;

/// An account that the platform has a record of, made for this directory.
fn orphan(rig: &Rig, name: &str, dir: std::path::PathBuf) {
    let scope = Scope { id: id(name), dir, isolation: rig.config.isolation, uids: (70000, 79999) };
    let mut session = rig.host.platform().open(&scope).unwrap();
    session.execute(&Step::Account(AccountStep::default())).unwrap();
    session.finish().unwrap();
}

#[test]
fn an_allocated_environment_is_adopted_and_goes_on() {
    let rig = Rig::new();
    let made = allocated(&rig, &rig.driver());
    rig.host.kill();
    rig.host.restart();
    let (driver, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.adopted, std::slice::from_ref(&made));
    let status = rig.runtime.block_on(driver.inspect(&made)).unwrap();
    assert!(status.running && status.problems.is_empty(), "{status:?}");
    assert_eq!((status.uid, status.limits.cpu, status.limits.disk_gb), (Some(70000), 1, 2));
    rig.runtime.block_on(driver.deallocate(&made, Watch::quiet())).unwrap();
    rig.assert_clean(&"adopted");
}

#[test]
fn damaged_journals_are_kept_named_and_never_guessed() {
    let texts: [(&str, Damage); 6] = [
        ("empty", |_| Vec::new()),
        ("torn", |t| t[..t.len() / 2].to_vec()),
        ("zero-filled tail", |t| [&t[..t.len() / 2], &vec![0; t.len() / 2][..]].concat()),
        ("duplicated tail", |t| [t, &t[t.len() / 2..]].concat()),
        ("not text", |_| vec![0xff; 100]),
        ("another's", |_| fs::read(fixture("journal-v1.json")).unwrap()),
    ];
    let cases = texts.into_iter().flat_map(|text| [(NOTE, text), (JOURNAL, text)]);
    // Of a note that was not waited for, a power cut leaves these: the journal on disk speaks.
    let lost = ["empty", "zero-filled tail"];
    for (file, (what, damage)) in cases.filter(|(file, (what, _))| *file == JOURNAL || !lost.contains(what)) {
        let rig = Rig::new();
        let made = allocated(&rig, &rig.driver());
        let note = rig.journal_path(&made);
        let text = fs::read(&note).unwrap();
        if file == JOURNAL {
            fs::remove_file(&note).unwrap();
        }
        fs::write(note.with_file_name(file), damage(&text)).unwrap();
        let before = rig.host.state();

        let (driver, prepared) = rig.recovered().unwrap();
        assert_eq!(prepared.recovered.kept.len(), 1, "{what}");
        let kept = &prepared.recovered.kept[0];
        assert!(kept.message.contains(file) && kept.hint.as_ref().unwrap().contains(made.as_str()), "{kept:?}");
        assert_eq!(rig.host.state(), before, "{what}: nothing is touched");
        assert_eq!(rig.runtime.block_on(driver.status(&made)).unwrap(), Status::Allocated, "{what}");
        let list = rig.runtime.block_on(driver.list()).unwrap();
        assert_eq!(list[0].problems.len(), 1, "{what}: {list:?}");

        // Nobody knows what it holds: no room is promised beside it.
        let error = rig.runtime.block_on(driver.allocate(small(), Watch::quiet())).unwrap_err();
        assert!(error.hint().unwrap().contains("deallocate"), "{what}: {error:?}");

        // An operator who asks gets it removed by the host's own record.
        let gone = rig.runtime.block_on(driver.deallocate(&made, Watch::quiet()));
        assert!(gone.unwrap_or_else(|e| panic!("{what}: {e}")).audit.clean);
        rig.assert_clean(&what);
    }
}

/// What was up when the power went is gone; its note may be gone with it.
#[test]
fn an_environment_whose_note_a_power_cut_took_is_removed() {
    for left in [None, Some(&b""[..]), Some(&b"{\"vers\0\0\0\0"[..])] {
        let rig = Rig::new();
        let made = allocated(&rig, &rig.driver());
        let note = rig.journal_path(&made);
        match left {
            None => fs::remove_file(&note).unwrap(),
            Some(left) => fs::write(&note, left).unwrap(),
        }
        let (_, prepared) = rig.recovered().unwrap();
        assert_eq!(prepared.recovered.reverted, [made], "{left:?}");
        rig.assert_clean(&format!("{left:?}"));
    }
}

#[test]
fn a_newer_journal_is_kept_whoever_asks() {
    let rig = Rig::new();
    let made = allocated(&rig, &rig.driver());
    let path = rig.journal_path(&made);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"version\": 1", "\"version\": 2, \"novelty\": true", 1)).unwrap();
    let before = rig.host.state();
    let (driver, prepared) = rig.recovered().unwrap();
    assert!(prepared.recovered.kept[0].message.contains("version 2"), "{:?}", prepared.recovered.kept);
    let error = rig.runtime.block_on(driver.deallocate(&made, Watch::quiet())).unwrap_err();
    assert!(matches!(error, DeallocateError::Journal(JournalError::Newer { found: 2, known: 1, .. })), "{error}");
    assert_eq!(error.code(), ExitCode::NotReady);
    let fixed = rig.runtime.block_on(driver.audit_fix(Watch::quiet())).unwrap();
    assert!(!fixed.audit.clean);
    assert_eq!(rig.host.state(), before);
}

#[test]
fn audit_fix_purges_what_lost_its_journal() {
    let rig = Rig::new();
    let made = allocated(&rig, &rig.driver());
    fs::remove_file(rig.journal_path(&made)).unwrap();
    fs::write(rig.journal_path(&made), "").unwrap();
    let driver = rig.driver();
    let audit = rig.runtime.block_on(driver.audit()).unwrap();
    let kinds: Vec<_> = audit.leaked.iter().map(|l| l.kind.as_str()).collect();
    assert!(!audit.clean && kinds.contains(&"journal") && kinds.contains(&"account"), "{audit:?}");
    let fixed = rig.runtime.block_on(driver.audit_fix(Watch::quiet())).unwrap();
    assert!(fixed.audit.clean, "{fixed:?}");
    assert_eq!(fixed.recovered.purged, [made]);
    rig.assert_clean(&"fixed");
}

#[test]
fn a_claim_that_died_before_its_journal_is_removed() {
    let rig = Rig::new();
    fs::create_dir(rig.workspace.path().join("fish-emptyy")).unwrap();
    fs::create_dir(rig.workspace.path().join("fish-locked")).unwrap();
    fs::write(rig.workspace.path().join("fish-locked/lock"), "").unwrap();
    fs::write(rig.workspace.path().join("fish-locked/journal.json.new"), "{").unwrap();
    fs::create_dir_all(rig.workspace.path().join(".gone-fish-halfly/disk")).unwrap();
    let (_, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.reverted.len(), 2);
    rig.assert_clean(&"claims");
}

#[test]
fn a_directory_that_holds_something_is_not_a_dead_claim() {
    let rig = Rig::new();
    let dir = rig.workspace.path().join("fish-filled");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("data"), "precious").unwrap();
    let (_, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.kept.len(), 1);
    assert!(dir.join("data").exists());
}

#[test]
fn what_is_not_named_like_an_environment_is_left_alone() {
    let rig = Rig::new();
    for name in ["lost+found", "fish-UPPER1", "fish-toolong", ".gone-notes", "notes"] {
        fs::create_dir(rig.workspace.path().join(name)).unwrap();
    }
    let before = rig.entries();
    rig.recovered().unwrap();
    assert_eq!(rig.entries(), before);
}

#[test]
fn a_record_without_a_directory_is_purged_here_and_nowhere_else() {
    let rig = Rig::new();
    let elsewhere = tempfile::tempdir().unwrap();
    orphan(&rig, "fish-herehe", rig.workspace.path().join("fish-herehe"));
    orphan(&rig, "fish-theree", elsewhere.path().join("fish-theree"));
    let (driver, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.purged, [id("fish-herehe")]);
    let state = rig.host.state();
    assert!(!state.accounts.contains_key("fish-herehe") && state.accounts.contains_key("fish-theree"));
    // It is a leak all the same: no journal anywhere says that it lives.
    let audit = rig.runtime.block_on(driver.audit()).unwrap();
    assert!(audit.leaked.iter().all(|l| l.identifier == Some(id("fish-theree"))), "{audit:?}");
    assert!(!audit.clean);
    fs::create_dir(elsewhere.path().join("fish-theree")).unwrap();
    fs::write(elsewhere.path().join("fish-theree/journal.json"), "{}").unwrap();
    assert!(rig.runtime.block_on(driver.audit()).unwrap().clean, "another workspace's environment is its own");
}

#[test]
fn a_record_without_a_directory_can_be_deallocated_by_name() {
    let rig = Rig::new();
    orphan(&rig, "fish-herehe", rig.workspace.path().join("fish-herehe"));
    let driver = rig.driver();
    assert_eq!(rig.runtime.block_on(driver.status(&id("fish-herehe"))).unwrap(), Status::Allocated);
    rig.runtime.block_on(driver.deallocate(&id("fish-herehe"), Watch::quiet())).unwrap();
    rig.assert_clean(&"by name");
    let again = rig.runtime.block_on(driver.deallocate(&id("fish-herehe"), Watch::quiet())).unwrap_err();
    assert_eq!(again.code(), ExitCode::NoSuchEnvironment);
}

#[test]
fn what_somebody_works_on_is_left_alone() {
    let rig = Rig::new();
    let driver = rig.driver();
    let made = allocated(&rig, &driver);
    // A live process holds the lock and is half-way: its journal does not say `allocated`.
    let path = rig.journal_path(&made);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"phase\": \"allocated\"", "\"phase\": \"allocating\"", 1)).unwrap();
    let lock = fs::File::open(path.with_file_name("lock")).unwrap();
    lock.try_lock().unwrap();
    let before = rig.host.state();
    let (other, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.busy, std::slice::from_ref(&made));
    assert_eq!(rig.host.state(), before);
    assert!(rig.runtime.block_on(other.audit()).unwrap().clean, "what is worked on is alive");
    drop(lock);
    let (_, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.reverted, [made]);
    rig.assert_clean(&"after the lock was freed");
}

#[test]
fn foreign_things_are_refused_and_stay() {
    // The name is chosen at random, so the host is full of strangers: every name that can be, is not feasible;
    // what can be planted is found by the session that the driver opens.
    let rig = Rig::new();
    let foreign = id("fish-strang");
    rig.host.plant_account(foreign.as_str(), 1234);
    rig.host.plant_volume(&foreign, VolumeName::Home);
    let planted = rig.host.state();
    let scope = Scope {
        id: foreign.clone(),
        dir: rig.workspace.path().join(foreign.as_str()),
        isolation: rig.config.isolation,
        uids: (70000, 79999),
    };
    let mut session = rig.host.platform().open(&scope).unwrap();
    let step = Step::Account(AccountStep::default());
    assert!(matches!(session.probe(&step).unwrap(), native_platform::Presence::Foreign(_)));
    assert!(session.execute(&step).is_err());
    session.revert(&step).unwrap();
    session.purge().unwrap();
    assert!(session.audit().unwrap().is_empty());
    drop(session);
    let (driver, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered, Default::default());
    assert!(rig.runtime.block_on(driver.audit_fix(Watch::quiet())).unwrap().audit.clean);
    assert_eq!(rig.host.state(), planted);
}

#[test]
fn the_oldest_journal_is_read_for_ever() {
    let rig = Rig::new();
    let old = id("fish-abcdef");
    let dir = rig.workspace.path().join(old.as_str());
    fs::create_dir(&dir).unwrap();
    fs::copy(fixture("journal-v1.json"), dir.join("journal.json")).unwrap();
    let (driver, prepared) = rig.recovered().unwrap();
    assert_eq!(prepared.recovered.adopted, std::slice::from_ref(&old));
    let status = rig.runtime.block_on(driver.inspect(&old)).unwrap();
    assert_eq!((status.uid, status.limits.cpu, status.disks.len()), (Some(70000), 1, 2));
    assert!(!status.running);
    rig.runtime.block_on(driver.deallocate(&old, Watch::quiet())).unwrap();
    rig.assert_clean(&"version 1");
}

#[test]
fn a_workspace_that_is_not_there_is_made() {
    let rig = Rig::new();
    let path = rig.workspace.path().join("a/b c");
    let config = native_config::DriverConfig { workspace_path: Some(path.clone()), ..rig.config.clone() };
    let driver = rig.process();
    rig.runtime.block_on(driver.prepare(&config, PrepareOptions::CHANGE, Watch::quiet())).unwrap();
    assert!(path.is_dir());
    let config = native_config::DriverConfig { workspace_path: Some("/dev/null/x".into()), ..rig.config.clone() };
    let error = rig.runtime.block_on(driver.prepare(&config, PrepareOptions::CHANGE, Watch::quiet())).unwrap_err();
    assert_eq!(error.code(), ExitCode::NotReady);
}
