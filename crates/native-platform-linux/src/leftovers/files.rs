//! Files of an account, by the place where they lie.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Found, Search};
use crate::volume;

/// How names count, beside owners.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Whoever owns it has it.
    Owner,
    /// Also what is called like the account: root owns it, and acts on the account's behalf.
    OwnerOrName,
}

/// What lies in this very directory. A link to a directory is not searched: its target is another place.
fn in_directory(search: &Search<'_>, dir: &Path, by: By, found: &mut Vec<Found>) -> io::Result<Vec<PathBuf>> {
    let mut open_to_all = Vec::new();
    if !fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
        return Ok(open_to_all);
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(open_to_all),
        Err(e) => return Err(io::Error::new(e.kind(), format!("list {}: {e}", dir.display()))),
    };
    for entry in entries {
        let entry = entry?;
        // What went away in this moment is not left.
        let Ok(meta) = entry.metadata() else { continue };
        if (search.owns)(meta.uid()) || by == By::OwnerOrName && search.is_name(&entry.file_name()) {
            found.push(Found::file(entry.path()));
        } else if meta.is_dir() && meta.mode() & 0o002 != 0 {
            open_to_all.push(entry.path());
        }
    }
    Ok(open_to_all)
}

fn in_directories(search: &Search<'_>, dirs: &[&str], by: By) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for dir in dirs {
        in_directory(search, Path::new(dir), by, &mut found)?;
    }
    Ok(found)
}

/// The same, and in what somebody else has opened to all below.
fn in_trees(search: &Search<'_>, dirs: &[&str]) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut places: Vec<PathBuf> = dirs.iter().map(PathBuf::from).collect();
    while let Some(place) = places.pop() {
        places.extend(in_directory(search, &place, By::Owner, &mut found)?);
    }
    Ok(found)
}

pub(super) fn temporary(search: &Search<'_>) -> io::Result<Vec<Found>> {
    in_trees(search, &["/tmp", "/var/tmp"])
}

pub(super) fn shared_memory(search: &Search<'_>) -> io::Result<Vec<Found>> {
    in_trees(search, &["/dev/shm"])
}

pub(super) fn world_writable(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = in_trees(search, &["/run/lock"])?;
    for dir in &search.places.world {
        in_directory(search, dir, By::Owner, &mut found)?;
    }
    Ok(found)
}

pub(super) fn group_writable(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for (dir, gid) in &search.places.group {
        // Without a record it is not known which groups the uid had.
        if search.record.is_none_or(|r| r.gid == *gid || r.groups.contains(gid)) {
            in_directory(search, dir, By::Owner, &mut found)?;
        }
    }
    Ok(found)
}

pub(super) fn writable_paths(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = search.record.map(|r| r.writable_paths.clone()).unwrap_or_default();
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(io::Error::new(e.kind(), format!("list {}: {e}", dir.display()))),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            if (search.owns)(meta.uid()) {
                found.push(Found::file(entry.path()));
            } else if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(found)
}

pub(super) fn crontabs(search: &Search<'_>) -> io::Result<Vec<Found>> {
    in_directories(search, &["/var/spool/cron/crontabs", "/var/spool/cron", "/var/spool/fcron"], By::OwnerOrName)
}

pub(super) fn at_jobs(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let dirs = ["/var/spool/cron/atjobs", "/var/spool/cron/atspool", "/var/spool/at", "/var/spool/at/spool"];
    in_directories(search, &dirs, By::Owner)
}

pub(super) fn mail(search: &Search<'_>) -> io::Result<Vec<Found>> {
    in_directories(search, &["/var/mail", "/var/spool/mail"], By::OwnerOrName)
}

pub(super) fn linger(search: &Search<'_>) -> io::Result<Vec<Found>> {
    in_directories(search, &["/var/lib/systemd/linger"], By::OwnerOrName)
}

pub(super) fn runtime_directory(search: &Search<'_>) -> io::Result<Vec<Found>> {
    in_directories(search, &["/run/user"], By::Owner)
}

pub(super) fn disks(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let Some(record) = search.record else { return Ok(Vec::new()) };
    let dirs = record.volumes.iter().map(|v| volume::directory(search.paths, record, &v.volume));
    Ok(dirs.filter(|dir| fs::symlink_metadata(dir).is_ok()).map(|dir| Found::step(dir.display().to_string())).collect())
}

pub(super) fn mount_points(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let Some(id) = search.id else { return Ok(Vec::new()) };
    let dirs = [search.paths.own(id), search.paths.home(id)];
    let there = dirs.into_iter().filter(|dir| fs::symlink_metadata(dir).is_ok());
    Ok(there.map(|dir| Found::step(dir.display().to_string())).collect())
}
