//! What tools print, as values. Lines that are not of the known form are skipped, never guessed.

use std::path::{Path, PathBuf};

use crate::plist::{self, Value};

/// `dscl . list /Users UniqueID`: a name, blanks, a number that may be negative.
pub(crate) fn user_ids(text: &str) -> Vec<(&str, i64)> {
    let row = |line: &'_ str| -> Option<(usize, i64)> {
        let at = line.trim_end().rfind(char::is_whitespace)?;
        Some((at, line[at..].trim().parse().ok()?))
    };
    text.lines().filter_map(|l| row(l).map(|(at, id)| (l[..at].trim(), id))).collect()
}

/// `dscl . list /Groups GroupMembership`: a group, blanks, its members.
pub(crate) fn memberships(text: &str) -> Vec<(&str, Vec<&str>)> {
    let row = |line| {
        let mut words = str::split_whitespace(line);
        words.next().map(|group| (group, words.collect()))
    };
    text.lines().filter_map(row).collect()
}

/// One attribute of `dscl . read`: on the key's line, or on the next one if it holds a space.
pub(crate) fn attribute<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.strip_prefix("dsAttrTypeNative:").unwrap_or(line);
        if let Some(value) = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')) {
            let value = value.trim();
            return if value.is_empty() { lines.next().map(str::trim) } else { Some(value) };
        }
    }
    None
}

/// A process of [`crate::table::PROCESSES`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Process {
    pub(crate) uid: i64,
    pub(crate) real_uid: i64,
    pub(crate) pid: u32,
    pub(crate) zombie: bool,
    pub(crate) rss_kib: u64,
    pub(crate) cpu_seconds: f64,
}

impl Process {
    /// Whether it is the uid's, by either of its uids. One that has ended and was not reaped yet is not.
    pub(crate) fn is_of(&self, uid: u32) -> bool {
        !self.zombie && (self.uid == i64::from(uid) || self.real_uid == i64::from(uid))
    }
}

/// `ps -axo uid=,ruid=,pid=,stat=,rss=,time=`.
pub(crate) fn processes(text: &str) -> Vec<Process> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split_whitespace().collect();
        let [uid, real_uid, pid, stat, rss, time] = cells[..] else { return None };
        Some(Process {
            uid: uid.parse().ok()?,
            real_uid: real_uid.parse().ok()?,
            pid: pid.parse().ok()?,
            zombie: stat.starts_with('Z'),
            rss_kib: rss.parse().ok()?,
            cpu_seconds: seconds(time)?,
        })
    };
    text.lines().filter_map(row).collect()
}

/// `1-02:03:04.05`, `3:04.05` and what is in between.
fn seconds(text: &str) -> Option<f64> {
    let (days, rest) = text.split_once('-').unwrap_or(("0", text));
    let mut seconds = 0.0;
    for part in rest.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(days.parse::<f64>().ok()? * 86400.0 + seconds)
}

/// A line of `mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    pub(crate) owners: bool,
}

/// `mount`: `DEVICE on PATH (OPTIONS)`. A path may hold spaces and ` (`, so the last ` (` ends it.
pub(crate) fn mounts(text: &str) -> Vec<Mount> {
    let row = |line: &str| {
        let (rest, options) = line.rsplit_once(" (")?;
        let (_, path) = rest.split_once(" on ")?;
        let owners = !options.trim_end_matches(')').split(", ").any(|o| o == "noowners");
        Some(Mount { path: PathBuf::from(path), owners })
    };
    text.lines().filter_map(row).collect()
}

/// An attached image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) image: PathBuf,
    /// The whole disk that was attached first, such as `disk4`: detaching it detaches what is on it.
    pub(crate) device: String,
    pub(crate) mounted: Option<PathBuf>,
}

/// `hdiutil info -plist`; `None` when it can't be read, which is not the same as none attached.
pub(crate) fn attached(text: &str) -> Option<Vec<Attached>> {
    let document = plist::parse(text)?;
    let images = document.get("images")?;
    let image = |value: &Value| {
        let image = PathBuf::from(value.get("image-path")?.text()?);
        let (device, mounted) = entities(value)?;
        Some(Attached { image, device, mounted })
    };
    Some(images.items().iter().filter_map(image).collect())
}

/// `system-entities`: the first device, and where the one that is mounted is mounted. `dev-entry` is
/// `/dev/disk9s1` from hdiutil and bare `disk25` from its successor.
pub(crate) fn entities(value: &Value) -> Option<(String, Option<PathBuf>)> {
    let entities = value.get("system-entities")?.items();
    let device = |e: &Value| {
        let name = e.get("dev-entry")?.text()?;
        let bare = Path::new(name).file_name()?.to_str()?.to_owned();
        let number = bare.strip_prefix("disk")?.split('s').next()?.to_owned();
        Some(format!("disk{number}"))
    };
    let first = entities.iter().find_map(device)?;
    let mounted = entities.iter().find_map(|e| e.get("mount-point")?.text().map(PathBuf::from));
    Some((first, mounted))
}

/// `ipcs`: kind, id and owner of each object.
pub(crate) fn ipc(text: &str) -> Vec<(&str, &str, &str)> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        if let [kind @ ("m" | "q" | "s"), id, _, _, owner, ..] = cells[..] {
            rows.push((kind, id, owner));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_negative_and_huge() {
        let text = "nobody  -2\nj.doe   1846203115\nbroken\n";
        assert_eq!(user_ids(text), [("nobody", -2), ("j.doe", 1_846_203_115)]);
    }

    #[test]
    fn attributes_on_the_same_line_and_on_the_next() {
        let text = "UniqueID: 70001\nRealName:\n Aquarium Fish env user\ndsAttrTypeNative:IsHidden: 1\n";
        assert_eq!(attribute(text, "UniqueID"), Some("70001"));
        assert_eq!(attribute(text, "RealName"), Some("Aquarium Fish env user"));
        assert_eq!(attribute(text, "IsHidden"), Some("1"));
        assert_eq!(attribute(text, "Unique"), None);
    }

    #[test]
    fn processes_have_two_owners() {
        let rows =
            processes("    0 70001 17 Ss 1234 0:01.50\n70001 70001 18 Z 0 0:00.00\n junk\n-2 -2 9 S 1 1-02:03:04\n");
        assert!(rows[0].is_of(70001) && !rows[1].is_of(70001) && rows.len() == 3);
        assert!((rows[0].cpu_seconds - 1.5).abs() < 1e-9 && (rows[2].cpu_seconds - 93784.0).abs() < 1e-9);
    }

    #[test]
    fn a_mount_point_is_compared_whole() {
        let rows = mounts("/dev/disk9s1 on /Volumes/fish-aaaaaa_ws 1 (apfs, local, noowners)\ndevfs on /dev (devfs)\n");
        assert_eq!(rows[0], Mount { path: "/Volumes/fish-aaaaaa_ws 1".into(), owners: false });
        assert!(rows[1].owners);
    }

    #[test]
    fn ipc_rows() {
        let text = "T     ID     KEY        MODE       OWNER    GROUP\nShared Memory:\nm  65536 0x0 --rw------- fish-aaaaaa  staff\n";
        assert_eq!(ipc(text), [("m", "65536", "fish-aaaaaa")]);
    }
}
