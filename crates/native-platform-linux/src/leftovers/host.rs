//! What the kernel and the user database keep of an account.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Group, User};

use super::{Found, Search, Thing};
use crate::cgroup::Trees;
use crate::{layout, pins, proc, sys};

/// How long the kernel's collector of keys may take.
const KEYS: Duration = Duration::from_secs(2);
/// Programs that lock the user database for as long as they run.
const DATABASE_TOOLS: &[&str] = &[
    "useradd", "userdel", "usermod", "groupadd", "groupdel", "groupmod", "passwd", "chpasswd", "chage", "gpasswd",
    "vipw", "vigr", "newusers", "chsh", "chfn", "adduser", "deluser", "pwck", "grpck",
];

fn text(file: &str) -> io::Result<String> {
    match fs::read_to_string(file) {
        // Not every system has all of them.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(io::Error::new(e.kind(), format!("read {file}: {e}"))),
        text => text,
    }
}

pub(super) fn processes(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let ours = proc::processes_but(search.bystanders, &|process| search.is_process(process))?;
    let found = ours.into_iter().map(|process| {
        let uid = process.uids.iter().copied().find(|uid| (search.owns)(*uid));
        let thing = uid.or(search.record.map(|r| r.uid)).map_or(Thing::Alarm, Thing::Process);
        Found { place: format!("{} ({})", process.pid, process.name), thing }
    });
    Ok(found.collect())
}

/// The ranges that a file of subordinate ids gives to the account.
fn ranges(search: &Search<'_>, file: &str) -> io::Result<Vec<RangeInclusive<u32>>> {
    let text = text(file)?;
    let uid = search.record.map(|r| r.uid.to_string());
    let range = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        if !search.is_name(owner.as_ref()) && Some(owner) != uid.as_deref() {
            return None;
        }
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        Some(first..=first.checked_add(count.checked_sub(1)?)?)
    };
    Ok(text.lines().filter_map(range).collect())
}

pub(super) fn subuid_processes(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let ranges = ranges(search, "/etc/subuid")?;
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let ours = |p: &proc::Process| p.uids.iter().copied().find(|uid| ranges.iter().any(|range| range.contains(uid)));
    let found = proc::processes(&|p| !p.zombie && ours(p).is_some())?.into_iter();
    let thing = |p: &proc::Process| ours(p).map_or(Thing::Alarm, Thing::Process);
    Ok(found.map(|p| Found { place: format!("{} ({})", p.pid, p.name), thing: thing(&p) }).collect())
}

pub(super) fn cgroups(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let Some(id) = search.id else { return Ok(Vec::new()) };
    let Ok(trees) = Trees::find() else { return Ok(Vec::new()) };
    let ours = trees.environments().into_iter().filter(|(name, _)| name == id.as_ref() as &str);
    Ok(ours.map(|(_, path)| Found::step(path.display().to_string())).collect())
}

pub(super) fn mounts(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let Some(id) = search.id else { return Ok(Vec::new()) };
    let ours = [search.paths.own(id), search.paths.home(id)];
    let mounts = proc::mounts()?.into_iter().filter(|m| ours.iter().any(|dir| m.point.starts_with(dir)));
    Ok(mounts.map(|m| Found::step(m.point.display().to_string())).collect())
}

/// The loop devices of the environment, by their name or by the file below its directory.
fn attached<'a>(search: &'a Search<'_>) -> io::Result<&'a [proc::LoopDevice]> {
    let Some(id) = search.id else { return Ok(&[]) };
    if let Some(devices) = search.devices.get() {
        return Ok(devices);
    }
    let dir = search.record.map(|r| r.scope.dir.as_path());
    let mut devices = layout::devices_near(id)?;
    devices.retain(|device| layout::is_device_of(device, id, dir));
    Ok(search.devices.get_or_init(|| devices))
}

pub(super) fn loops(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let place = |d: &proc::LoopDevice| Found::step(format!("{} ({})", d.device.display(), d.backing));
    Ok(attached(search)?.iter().map(place).collect())
}

pub(super) fn mounts_elsewhere(search: &Search<'_>) -> io::Result<Vec<Found>> {
    held(search, &|holder| holder.mounts)
}

pub(super) fn pinned(search: &Search<'_>) -> io::Result<Vec<Found>> {
    held(search, &|holder| !holder.mounts)
}

fn held(search: &Search<'_>, of: &dyn Fn(&pins::Holder) -> bool) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for device in attached(search)? {
        for holder in pins::holders(device)?.iter().filter(|h| of(h)) {
            found.push(Found::step(format!("{} by {holder}", device.device.display())));
        }
    }
    Ok(found)
}

pub(super) fn sysv(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for kind in ["shm", "sem", "msg"] {
        // A kernel without SysV IPC keeps none.
        let text = text(&format!("/proc/sysvipc/{kind}"))?;
        let ids = parse_ipc(&text, search.owns).into_iter();
        found.extend(ids.map(|id| Found { place: format!("{kind} {id}"), thing: Thing::Ipc(kind, id) }));
    }
    Ok(found)
}

/// The ids of the rows whose `uid` or `cuid` is one of these. The columns are named in the first line.
fn parse_ipc(text: &str, owns: &dyn Fn(u32) -> bool) -> Vec<i32> {
    let mut lines = text.lines();
    let Some(header) = lines.next() else { return Vec::new() };
    let column = |name: &str| header.split_whitespace().position(|c| c == name);
    let (Some(owner), Some(maker)) = (column("uid"), column("cuid")) else { return Vec::new() };
    let ours = |fields: &[&str]| [owner, maker].iter().filter_map(|c| fields.get(*c)?.parse().ok()).any(owns);
    let rows = lines.map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|f| ours(f));
    rows.filter_map(|f| f.get(1)?.parse().ok()).collect()
}

pub(super) fn message_queues(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let is_private = search.record.is_some_and(|r| r.scope.isolation == native_config::Isolation::Private);
    let is_mounted = proc::mounts()?.iter().any(|m| m.kind == "mqueue" && m.point == Path::new("/dev/mqueue"));
    let queues = match (is_mounted, is_private) {
        (true, _) => list_queues(Path::new("/dev/mqueue"))?,
        // They were in a namespace that has ended.
        (false, true) => Vec::new(),
        (false, false) => pins::in_namespace_of_its_own(&search.paths.run, |point| {
            let none = None::<&str>;
            nix::mount::mount(Some("mqueue"), point, Some("mqueue"), nix::mount::MsFlags::empty(), none)?;
            let lines = list_queues(point)?.into_iter().map(|(uid, name)| format!("{uid} {name}\n"));
            Ok(lines.collect())
        })?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(uid, name)| Some((uid.parse().ok()?, name.to_owned())))
        .collect(),
    };
    let ours = queues.into_iter().filter(|(uid, _)| (search.owns)(*uid));
    Ok(ours.map(|(_, name)| Found { place: format!("/{name}"), thing: Thing::Queue(name) }).collect())
}

fn list_queues(dir: &Path) -> io::Result<Vec<(u32, String)>> {
    let mut queues = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let (Ok(meta), Some(name)) = (entry.metadata(), entry.file_name().to_str()) {
            queues.push((meta.uid(), name.to_owned()));
        }
    }
    Ok(queues)
}

pub(super) fn keys(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let deadline = Instant::now() + KEYS;
    loop {
        let text = text("/proc/key-users")?;
        let ours: Vec<_> = parse_key_users(&text).into_iter().filter(|(uid, _)| (search.owns)(*uid)).collect();
        // A keyring that nobody uses any more is collected a moment later.
        if ours.is_empty() || !search.patient || Instant::now() >= deadline {
            let found = ours.into_iter();
            return Ok(found
                .map(|(uid, keys)| Found { place: format!("{keys} of uid {uid}"), thing: Thing::Keys(uid) })
                .collect());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Uids for which the kernel keeps keys.
pub(crate) fn uids_with_keys() -> io::Result<BTreeSet<u32>> {
    Ok(parse_key_users(&text("/proc/key-users")?).into_iter().map(|(uid, _)| uid).collect())
}

/// Uids with keys that count against their quota, and how many: `70001:   5 5/5 3/200 37/20000`.
fn parse_key_users(text: &str) -> Vec<(u32, u32)> {
    let user = |line: &str| {
        let (uid, rest) = line.trim().split_once(':')?;
        let keys = rest.split_whitespace().nth(2)?.split_once('/')?.0.parse().ok()?;
        Some((uid.parse().ok()?, keys))
    };
    text.lines().filter_map(user).filter(|(_, keys)| *keys > 0).collect()
}

/// Files of the user database whose lines begin with the account's name.
fn lines_of(search: &Search<'_>, files: &[&str]) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for file in files {
        let text = text(file)?;
        if text.lines().any(|line| search.is_name(line.split(':').next().unwrap_or_default().as_ref())) {
            found.push(Found::step(*file));
        }
    }
    Ok(found)
}

pub(super) fn account(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = lines_of(search, &["/etc/passwd", "/etc/shadow"])?;
    if found.is_empty()
        && search.may_be_named_elsewhere()
        && let Some(id) = search.id
        && User::from_name(id.as_ref())?.is_some()
    {
        found.push(Found::step(id.to_string()));
    }
    Ok(found)
}

pub(super) fn group(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = lines_of(search, &["/etc/group", "/etc/gshadow"])?;
    if found.is_empty()
        && search.may_be_named_elsewhere()
        && let Some(id) = search.id
        && Group::from_name(id.as_ref())?.is_some()
    {
        found.push(Found::step(id.to_string()));
    }
    Ok(found)
}

pub(super) fn memberships(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for file in ["/etc/group", "/etc/gshadow"] {
        let text = text(file)?;
        let is_member = |list: &str| list.split(',').any(|name| search.is_name(name.as_ref()));
        let groups = text.lines().filter(|line| line.split(':').skip(2).any(is_member));
        found.extend(groups.map(|line| Found::step(format!("{file}: {}", line.split(':').next().unwrap_or_default()))));
    }
    Ok(found)
}

pub(super) fn subordinate(search: &Search<'_>) -> io::Result<Vec<Found>> {
    let mut found = lines_of(search, &["/etc/subuid", "/etc/subgid"])?;
    for file in ["/etc/subuid", "/etc/subgid"] {
        if found.is_empty() && !ranges(search, file)?.is_empty() {
            found.push(Found::step(file));
        }
    }
    Ok(found)
}

/// The rows' own host search: the locks belong to nobody in particular.
pub(super) fn database_locks(search: &Search<'_>) -> io::Result<Vec<Found>> {
    if search.id.is_some() {
        return Ok(Vec::new());
    }
    Ok(stale_locks()?.into_iter().map(|(_, place)| Found { place, thing: Thing::Alarm }).collect())
}

/// Locks of the user database whose process is another one by now, each with what to say about it.
pub(crate) fn stale_locks() -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for name in ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"] {
        let file = format!("/etc/{name}.lock");
        let text = text(&file)?;
        // The tools heal a lock whose process is gone.
        let Ok(pid) = text.trim_matches(['\0', '\n', ' ']).parse::<i32>() else { continue };
        let Ok(program) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
        let program = program.trim();
        if !DATABASE_TOOLS.contains(&program) {
            let what = format!("{file} names process {pid} ({program}), which changes no users");
            found.push((file, what));
        }
    }
    Ok(found)
}

/// Removes a message queue by its name.
pub(super) fn remove_queue(name: &str) -> io::Result<()> {
    sys::queue_remove(&format!("/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ipc_by_owner_and_by_maker() {
        let text = "       key      shmid perms size cpid lpid nattch uid gid cuid cgid\n\
                    0 5 600 4096 1 1 0 70001 70001 70001 70001\n\
                    0 6 600 4096 1 1 0 0 0 70001 0\n\
                    0 7 600 4096 1 1 0 700010 0 0 0\n";
        assert_eq!(parse_ipc(text, &|uid| uid == 70001), [5, 6]);
        assert!(parse_ipc("", &|_| true).is_empty());
    }

    #[test]
    fn counts_keys_by_quota() {
        let text =
            "    0:     9 8/8 3/1000000 392/25000000\n70001:     2 0/0 0/200 0/20000\n70002: 3 3/3 3/200 37/20000\nx\n";
        assert_eq!(parse_key_users(text), [(0, 3), (70002, 3)]);
    }
}
