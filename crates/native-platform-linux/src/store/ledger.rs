//! The uid ledger: which uids may not be given away, and which were at some time.
//!
//! A uid is held by the record of its environment. Between the ledger's word and the record's, it is held by whoever asked
//! for it: nothing is made as this uid before the record is there, so that it goes back when that process dies.
//!
//! The ledger on disk (`uids.json`) is a little behind: what changes with every environment is noted for this boot
//! (`uids.now`). After a power cut the records, which are on disk, say which uids are held, and those that may have been
//! given away since are passed over ([`AHEAD`]).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use native_config::EnvironmentId;
use serde::{Deserialize, Serialize};

use super::boot_id;
use super::{ProcessId, Record, Store, StoreError, VERSION};
use crate::document::{read, replace, write};
use crate::proc;

/// The ledger on disk is written anew after so many uids.
const AHEAD: u32 = 64;

/// Which uids may not be given away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ledger {
    version: u32,
    /// The boot in which it was written; after another one, records say more than it does.
    #[serde(default)]
    boot: String,
    /// The uid to try next. It never goes back but at the end of the range.
    next: u32,
    /// In use, or of an environment whose audit has not been clean.
    held: BTreeSet<u32>,
    /// Given to somebody whose record is not written yet.
    #[serde(default)]
    minted: Vec<Minted>,
    /// Ranges of uids that were given away at some time, both ends included: what belongs to one of these, and to no
    /// user of the host, was left by an environment.
    #[serde(default)]
    given: Vec<(u32, u32)>,
    /// The uid to try next as it is on disk, if there is a ledger.
    #[serde(skip)]
    kept_next: Option<u32>,
}

/// A uid on its way into a record. Nothing is made as this uid before the record is there: when whoever asked for it dies
/// first, it is free again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Minted {
    uid: u32,
    id: EnvironmentId,
    by: Option<ProcessId>,
}

/// What the ledger knows of uids.
#[derive(Debug, Default)]
pub(crate) struct Uids {
    /// Ranges of those that were given away at some time, both ends included.
    pub(crate) given: Vec<(u32, u32)>,
    /// Those that may not be given away now.
    pub(crate) held: BTreeSet<u32>,
}

impl Ledger {
    fn give(&mut self, uid: u32, id: &EnvironmentId, by: Option<ProcessId>) {
        self.minted.push(Minted { uid, id: id.clone(), by });
        self.remember(uid);
    }

    /// Writes down that the uid was given away at some time.
    fn remember(&mut self, uid: u32) {
        if self.given.iter().any(|(from, to)| (*from..=*to).contains(&uid)) {
            return;
        }
        // Uids come one after the other: nearly always the last range grows by one.
        match self.given.iter_mut().find(|(_, to)| to.checked_add(1) == Some(uid)) {
            Some(range) => range.1 = uid,
            None => self.given.push((uid, uid)),
        }
    }
}

impl Store {
    fn ledger_paths(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("uids.json"), self.dir.join("uids.now"))
    }

    /// The ledger as this boot knows it.
    fn noted_ledger(&self) -> Result<Option<Ledger>, StoreError> {
        let (path, note) = self.ledger_paths();
        let Some(mut kept) = read::<Ledger>(&path)? else { return Ok(None) };
        let boot = boot_id();
        let noted = fs::read(note).ok().and_then(|text| serde_json::from_slice::<Ledger>(&text).ok());
        let kept_next = Some(kept.next);
        if let Some(noted) = noted.filter(|noted| noted.boot == boot) {
            return Ok(Some(Ledger { kept_next, ..noted }));
        }
        if kept.boot != boot {
            for record in self.records()? {
                kept.held.insert(record.uid);
                kept.remember(record.uid);
            }
            kept.next = kept.next.saturating_add(AHEAD);
        }
        Ok(Some(Ledger { kept_next, ..kept }))
    }

    /// Writes the ledger: on disk when it has come far from what is there, else for this boot.
    fn write_ledger(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let (path, note) = self.ledger_paths();
        ledger.boot = boot_id();
        let is_near = |kept: u32| (kept..kept.saturating_add(AHEAD)).contains(&ledger.next);
        if !ledger.kept_next.is_some_and(is_near) {
            write(&path, ledger)?;
        }
        replace(&note, ledger)
    }

    /// The ledger, with every uid that was minted before now held by its record, or free again.
    fn ledger(&self) -> Result<Option<Ledger>, StoreError> {
        let Some(mut ledger) = self.noted_ledger()? else { return Ok(None) };
        let (held, minted) = (&mut ledger.held, &mut ledger.minted);
        minted.retain(|minted| {
            if self.record_path(&minted.id).exists() {
                held.insert(minted.uid);
                return false;
            }
            minted.by.as_ref().is_some_and(proc::lives)
        });
        Ok(Some(ledger))
    }

    /// Takes a uid that nobody has, for an environment whose record comes next. `taken` says whether the host knows the
    /// uid already.
    ///
    /// # Errors
    /// When there is none, or the ledger can't be written.
    pub fn mint_uid(
        &self,
        id: &EnvironmentId,
        (from, to): (u32, u32),
        taken: &dyn Fn(u32) -> bool,
    ) -> Result<u32, StoreError> {
        let _lock = self.lock("uids")?;
        let mut ledger = self.ledger()?.unwrap_or(Ledger {
            version: VERSION,
            boot: String::new(),
            next: from,
            held: BTreeSet::new(),
            minted: Vec::new(),
            given: Vec::new(),
            kept_next: None,
        });
        if !(from..=to).contains(&ledger.next) {
            ledger.next = from;
        }
        let order = (ledger.next..=to).chain(from..ledger.next);
        let is_held = |uid: &u32| ledger.held.contains(uid) || ledger.minted.iter().any(|m| m.uid == *uid);
        let free = order.into_iter().find(|uid| !is_held(uid) && !taken(*uid));
        let Some(uid) = free else {
            return Err(StoreError::NoUid { from, to, held: ledger.held.len() + ledger.minted.len() });
        };
        // Whoever writes the ledger has its lock: what others began to write is nobody's.
        self.remove_halves(&self.dir, "uids");
        ledger.next = if uid == to { from } else { uid + 1 };
        ledger.give(uid, id, proc::identify(std::process::id().cast_signed()));
        self.write_ledger(&mut ledger)?;
        Ok(uid)
    }

    /// What the ledger knows of uids.
    ///
    /// # Errors
    /// When the ledger can't be read.
    pub(crate) fn uids(&self) -> Result<Uids, StoreError> {
        let ledger = self.ledger()?;
        Ok(ledger.map(|l| Uids { given: l.given, held: l.held }).unwrap_or_default())
    }

    /// Lets go of uids that no record speaks of: whoever held them died before its record was written. Only those that
    /// `is_clean` finds nothing of. Not done while anybody works on any environment.
    ///
    /// # Errors
    /// When the records or the ledger can't be read or written.
    pub(crate) fn release_unknown(&self, is_clean: &dyn Fn(u32) -> bool) -> Result<(), StoreError> {
        let _lock = self.lock("uids")?;
        let Some(mut ledger) = self.ledger()? else { return Ok(()) };
        let locks = self.dir.join("locks");
        for entry in fs::read_dir(&locks).map_err(StoreError::io(&locks))?.flatten() {
            let id = entry.path().file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            if id.is_some_and(|id| self.is_busy(&id)) {
                return Ok(());
            }
        }
        let known: BTreeSet<u32> = self.records()?.into_iter().map(|r| r.uid).collect();
        let before = ledger.held.len();
        ledger.held.retain(|uid| known.contains(uid) || !is_clean(*uid));
        if ledger.held.len() == before { Ok(()) } else { self.write_ledger(&mut ledger) }
    }

    /// Forgets an environment whose audit was clean, and lets its uid go.
    ///
    /// # Errors
    /// When the ledger or the record can't be changed.
    pub fn release(&self, record: &Record) -> Result<(), StoreError> {
        let id = &record.scope.id;
        let _lock = self.lock("uids")?;
        if let Some(mut ledger) = self.ledger()?
            && ledger.held.remove(&record.uid)
        {
            // As if it had just been minted: held as long as there is the record, if we die now, and free without it.
            ledger.give(record.uid, id, None);
            // On a full disk the uid stays held, which costs nothing but a uid until [`Self::release_unknown`].
            drop(self.write_ledger(&mut ledger));
        }
        self.forget_halves(id);
        // A note is never without its record, whenever we die.
        for path in [self.note_path(id), self.record_path(id), self.environment_lock(id)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::io(&path)(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{id, record, store};
    use super::*;

    #[test]
    fn a_uid_comes_back_only_after_its_release_and_only_at_the_end_of_the_range() {
        let (_dir, store) = store();
        let mint = || store.mint_uid(&id("fish-xxxxxx"), (70000, 70003), &|uid| uid == 70001);
        let first = record("fish-aaaaaa", store.mint_uid(&id("fish-aaaaaa"), (70000, 70003), &|_| false).unwrap());
        store.keep(&first).unwrap();
        assert_eq!(first.uid, 70000);
        assert_eq!(mint().unwrap(), 70002);
        store.release(&first).unwrap();
        assert_eq!(mint().unwrap(), 70003, "70000 is free, but later uids come first");
        assert_eq!(mint().unwrap(), 70000);
        assert!(matches!(mint(), Err(StoreError::NoUid { held: 3, .. })));
        assert_eq!(store.record(&first.scope.id).unwrap(), None);
    }

    #[test]
    fn a_uid_whose_asker_died_is_free_without_a_record_and_held_with_one() {
        let (dir, store) = store();
        let mint = |name: &str| store.mint_uid(&id(name), (70000, 70001), &|_| false);
        assert_eq!((mint("fish-aaaaaa").unwrap(), mint("fish-bbbbbb").unwrap()), (70000, 70001));
        assert!(matches!(mint("fish-cccccc"), Err(StoreError::NoUid { held: 2, .. })), "their askers live");
        store.keep(&record("fish-aaaaaa", 70000)).unwrap();
        let ledger = dir.path().join("uids.now");
        let dead = fs::read_to_string(&ledger).unwrap().replace("\"started\":", "\"started\":1");
        fs::write(&ledger, dead).unwrap();
        assert_eq!(store.uids().unwrap().held, BTreeSet::from([70000]), "its record speaks for it");
        assert_eq!(mint("fish-cccccc").unwrap(), 70001);
        store.release(&record("fish-aaaaaa", 70000)).unwrap();
        assert!(store.uids().unwrap().held.is_empty());
        assert_eq!(mint("fish-dddddd").unwrap(), 70000);
    }

    #[test]
    fn after_a_power_cut_no_uid_comes_back_too_early() {
        let (dir, store) = store();
        let mint = |name: &str| store.mint_uid(&id(name), (70000, 70199), &|_| false).unwrap();
        assert_eq!(mint("fish-aaaaaa"), 70000);
        let on_disk = fs::read(dir.path().join("uids.json")).unwrap();
        assert_eq!(mint("fish-bbbbbb"), 70001);
        store.keep(&record("fish-bbbbbb", 70001)).unwrap();
        assert_eq!(fs::read(dir.path().join("uids.json")).unwrap(), on_disk, "not with every uid");
        // Another boot: with the note of the one before, with half of one, and without.
        for left in [fs::read(dir.path().join("uids.now")).unwrap(), vec![0; 80], Vec::new()] {
            for name in ["uids.json", "uids.now"] {
                let text = if name == "uids.json" { on_disk.clone() } else { left.clone() };
                let text = String::from_utf8(text).unwrap().replace(&boot_id(), "before");
                fs::write(dir.path().join(name), text).unwrap();
            }
            let known = store.uids().unwrap();
            assert_eq!((known.held, known.given), (BTreeSet::from([70001]), vec![(70000, 70001)]));
            assert_eq!(mint("fish-cccccc"), 70001 + AHEAD);
            assert_eq!(mint("fish-dddddd"), 70002 + AHEAD);
        }
        // Far from what was there it is on disk again.
        let kept: Ledger = serde_json::from_slice(&fs::read(dir.path().join("uids.json")).unwrap()).unwrap();
        assert_eq!(kept.next, 70002 + AHEAD);
    }

    #[test]
    fn uids_that_were_given_away_are_remembered_as_ranges() {
        let mut ledger = Ledger {
            version: VERSION,
            boot: String::new(),
            next: 0,
            held: BTreeSet::new(),
            minted: Vec::new(),
            given: Vec::new(),
            kept_next: None,
        };
        for uid in [70000, 70001, 70002, 70001, 79000, 79001] {
            ledger.give(uid, &id("fish-aaaaaa"), None);
        }
        assert_eq!(ledger.given, [(70000, 70002), (79000, 79001)]);
        // A ledger of before has none, and is read.
        let old: Ledger = serde_json::from_str("{\"version\":1,\"next\":70000,\"held\":[]}").unwrap();
        assert!(old.given.is_empty());
    }
}
