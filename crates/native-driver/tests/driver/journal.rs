//! The journal's format, and its store: whole or refused, never half.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::OnceLock;

use crate::common::fixture;
use native_config::EnvironmentId;
use native_driver::JournalError;
use native_driver::journal::{Journal, JournalPhase, State};
use native_driver::store::{FsStore, Hold, Store, Text, WorkspaceLock};
use proptest::prelude::*;

fn id() -> EnvironmentId {
    "fish-abcdef".parse().unwrap()
}

fn parse(text: &[u8]) -> Result<Journal, JournalError> {
    Journal::parse(text, Path::new("/w/fish-abcdef/journal.json"), &id())
}

fn text() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| fs::read(fixture("journal-v1.json")).unwrap())
}

#[test]
fn version_1_is_read_and_written_as_it_was() {
    for name in ["journal-v1.json", "journal-v1-every-state.json"] {
        let text = fs::read(fixture(name)).unwrap();
        let journal = parse(&text).unwrap();
        assert_eq!(String::from_utf8(journal.to_text().unwrap()).unwrap(), String::from_utf8(text).unwrap(), "{name}");
    }
    let leaked = parse(&fs::read(fixture("journal-v1-every-state.json")).unwrap()).unwrap();
    assert_eq!(leaked.phase, JournalPhase::Leaked);
    assert_eq!(leaked.stuck().len(), 2);
    let may: Vec<_> = leaked.steps.iter().map(|r| r.state.may_exist()).collect();
    assert_eq!(may, [false, true, true, true, true, false, false, false]);
    assert_eq!(leaked.steps[5].state, State::Planned);
}

#[test]
fn a_newer_version_is_named_even_if_nothing_else_is_understood() {
    let newer = parse(br#"{"version": 7, "everything": "else"}"#);
    assert!(matches!(newer, Err(JournalError::Newer { found: 7, known: 1, .. })), "{newer:?}");
    assert!(matches!(parse(br#"{"version": 0}"#), Err(JournalError::Damaged { .. })));
    assert!(matches!(parse(br#"{"id": "fish-abcdef"}"#), Err(JournalError::Damaged { .. })));
}

#[test]
fn unknown_keys_and_other_names_are_refused() {
    let text = String::from_utf8(text().to_vec()).unwrap();
    for (from, to) in [
        ("\"uid\": 70000,\n  \"home\"", "\"uid\": 70000, \"gid\": 1,\n  \"home\""),
        ("\"id\": \"fish-abcdef\"", "\"id\": \"fish-abcdeg\""),
    ] {
        assert!(text.contains(from));
        let error = parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
    }
}

proptest! {
    #[test]
    fn a_torn_journal_is_never_a_journal(cut in 0..text().len() - 2) {
        prop_assert!(parse(&text()[..cut]).is_err());
        let mut zeros = text()[..cut].to_vec();
        zeros.resize(text().len(), 0);
        prop_assert!(parse(&zeros).is_err());
        let doubled = [text(), &text()[cut..]].concat();
        prop_assert!(parse(&doubled).is_err());
    }

    #[test]
    fn any_bytes_are_an_answer_and_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_flipped_byte_is_refused_or_still_a_whole_document(at in 0..text().len(), to in any::<u8>()) {
        let mut bytes = text().to_vec();
        bytes[at] = to;
        if let Ok(journal) = parse(&bytes) {
            prop_assert_eq!(journal.version, 1);
            prop_assert_eq!(journal.id, id());
        }
    }
}

fn locked(store: &FsStore) -> WorkspaceLock {
    match store.try_workspace().unwrap() {
        Hold::Got(lock) => lock,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_is_exclusive_and_a_lock_is_held_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (FsStore::new(dir.path()), FsStore::new(dir.path()));
    assert!(matches!(theirs.try_hold(&id()).unwrap(), Hold::NoSuch));
    let lock = locked(&ours);
    assert!(matches!(theirs.try_workspace().unwrap(), Hold::Busy));
    let held = ours.claim(&lock, &id()).unwrap().unwrap();
    assert!(ours.claim(&lock, &id()).unwrap().is_none());
    drop(lock);
    drop(locked(&theirs));
    assert!(matches!(theirs.try_hold(&id()).unwrap(), Hold::Busy));
    assert_eq!(theirs.ids().unwrap(), [id()]);
    drop(held);
    assert!(matches!(theirs.try_hold(&id()).unwrap(), Hold::Got(_)));
}

#[test]
fn a_lock_of_a_directory_that_was_removed_is_worth_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::new(dir.path());
    let lock = locked(&store);
    let held = store.claim(&lock, &id()).unwrap().unwrap();
    store.write(&held, b"x").unwrap();
    store.remove(held).unwrap();
    assert!(matches!(store.try_hold(&id()).unwrap(), Hold::NoSuch));
    assert!(store.read(&id()).unwrap().is_none());
    // The same name again, while what an interrupted removal left is still there.
    fs::create_dir_all(dir.path().join(".gone-fish-abcdef/home")).unwrap();
    let held = store.claim(&lock, &id()).unwrap().unwrap();
    store.remove(held).unwrap();
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);
}

#[test]
fn a_write_replaces_and_an_interrupted_one_is_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::new(dir.path());
    let held = store.claim(&locked(&store), &id()).unwrap().unwrap();
    assert!(store.read(&id()).unwrap().is_none());
    store.write(&held, b"one").unwrap();
    fs::write(dir.path().join("fish-abcdef/journal.json.new"), "half of tw").unwrap();
    assert_eq!(store.read(&id()).unwrap().unwrap().text, b"one");
    store.write(&held, b"two").unwrap();
    assert_eq!(store.read(&id()).unwrap().unwrap().text, b"two");
    assert!(store.contents(&id()).unwrap().is_empty());
}

#[test]
fn a_claim_is_read_until_there_is_a_journal_and_what_is_left_of_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::new(dir.path());
    let held = store.claim(&locked(&store), &id()).unwrap().unwrap();
    store.note(&held, b"{}\n").unwrap();
    assert_eq!(store.read(&id()).unwrap().unwrap().text, b"{}\n");
    assert!(store.contents(&id()).unwrap().is_empty());
    for left in [&b""[..], b"{", b"\0\0\0", b"{\0}\n"] {
        fs::write(dir.path().join("fish-abcdef/claim.json"), left).unwrap();
        assert_eq!(store.read(&id()).unwrap(), None, "{left:?}");
    }
    store.write(&held, b"").unwrap();
    assert_eq!(store.read(&id()).unwrap().unwrap().text, b"", "a journal is never passed over");
    assert!(!dir.path().join("fish-abcdef/claim.json").exists());
}

#[test]
fn a_note_goes_before_the_journal_unless_a_power_cut_took_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::new(dir.path());
    let held = store.claim(&locked(&store), &id()).unwrap().unwrap();
    store.write(&held, b"on disk").unwrap();
    store.note(&held, b"noted").unwrap();
    let note = dir.path().join("fish-abcdef/journal.now");
    assert_eq!(store.read(&id()).unwrap().unwrap(), Text { name: "journal.now", text: b"noted".to_vec() });
    assert!(store.contents(&id()).unwrap().is_empty());
    for left in [&b""[..], b"\0\0\0", b"no\0\0\0"] {
        fs::write(&note, left).unwrap();
        assert_eq!(store.read(&id()).unwrap().unwrap().text, b"on disk", "{left:?}");
    }
    fs::write(&note, "not").unwrap();
    assert_eq!(store.read(&id()).unwrap().unwrap().text, b"not", "half of one is nobody's to guess");
    store.write(&held, b"on disk again").unwrap();
    assert!(!note.exists());
    assert_eq!(store.read(&id()).unwrap().unwrap().text, b"on disk again");
}

#[test]
fn links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::new(dir.path());
    let held = store.claim(&locked(&store), &id()).unwrap().unwrap();
    let target = dir.path().join("target");
    fs::write(&target, "theirs").unwrap();
    symlink(&target, dir.path().join("fish-abcdef/journal.json")).unwrap();
    assert!(store.read(&id()).is_err());
    symlink(&target, dir.path().join("fish-abcdef/journal.json.new")).unwrap();
    assert!(store.write(&held, b"ours").is_err());
    assert_eq!(fs::read(&target).unwrap(), b"theirs");
    symlink(dir.path().join("fish-abcdef"), dir.path().join("fish-linked")).unwrap();
    assert_eq!(store.ids().unwrap(), [id()]);
}
