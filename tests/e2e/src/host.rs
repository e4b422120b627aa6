//! [`Snapshot`]: what can be left behind on a host, as a set of lines.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The range of uids that environments get.
const UIDS: std::ops::RangeInclusive<u32> = 70_000..=79_999;

/// Everything on the host that an environment could leave behind, one line each.
#[derive(Debug, Clone)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// The host as it is now.
    pub fn take() -> Self {
        // Whoever else works on the machine makes files in these directories all the time: of these, only what an
        // environment owns or what is called like one counts, unless the machine is said to be the suite's alone.
        let alone = std::env::var_os("FISH_E2E_ALONE").is_some();
        let mut lines = BTreeSet::new();
        for database in ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"] {
            add_lines(&mut lines, &format!("/etc/{database}"), |line| Some(line.to_owned()));
        }
        // Fields 4 and 5 are the root within the file system and where it is mounted; the ids before them vary.
        add_lines(&mut lines, "/proc/self/mountinfo", |line| {
            let fields: Vec<&str> = line.split(' ').collect();
            // systemd's own, with each start of a service that has some (a terminal's, while the system still boots).
            let is_systemds = fields.get(4)?.starts_with("/run/credentials/");
            (!is_systemds).then_some(())?;
            Some(format!("{} {}", fields.get(3)?, fields.get(4)?))
        });
        for table in ["msg", "sem", "shm"] {
            ipc(&mut lines, table);
        }
        for dir in [
            "/tmp",
            "/var/tmp",
            "/dev/shm",
            "/dev/mqueue",
            "/home",
            "/var/mail",
            "/var/spool/cron/crontabs",
            "/var/spool/cron/atjobs",
            "/run/user",
            "/var/lib/systemd/linger",
        ] {
            for name in names(Path::new(dir)) {
                let path = format!("{dir}/{name}");
                let user = fs::symlink_metadata(&path).map(|m| m.uid()).unwrap_or_default();
                if alone || names_an_environment(&name) || UIDS.contains(&user) {
                    lines.insert(path);
                }
            }
        }
        // Root's own: with an environment go its record, its notes and its lock.
        for dir in ["/var/lib/fish-native/environments", "/var/lib/fish-native/locks"] {
            lines.extend(names(Path::new(dir)).into_iter().map(|name| format!("{dir}/{name}")));
        }
        loops(&mut lines);
        cgroups(&mut lines, Path::new("/sys/fs/cgroup"));
        processes(&mut lines);
        Self(lines)
    }

    /// What was not there before and stays: lines that come and go (other work on the same host) are waited out.
    pub fn new_since(before: &Self) -> Vec<String> {
        let start = Instant::now();
        let mut left: BTreeSet<String> = Self::take().0.difference(&before.0).cloned().collect();
        while !left.is_empty() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(100));
            let now = Self::take();
            left.retain(|line| now.0.contains(line));
        }
        left.into_iter().collect()
    }

    /// What was there before and is gone, apart from what other environments may have taken with them.
    pub fn gone_since(before: &Self) -> Vec<String> {
        let now = Self::take();
        let ours =
            |line: &&String| !is_an_environments(line) && !line.starts_with("process ") && !line.starts_with("loop ");
        before.0.difference(&now.0).filter(ours).filter(|l| !l.starts_with("/tmp/")).cloned().collect()
    }
}

fn add_lines(lines: &mut BTreeSet<String>, file: &str, pick: impl Fn(&str) -> Option<String>) {
    let text = fs::read_to_string(file).unwrap_or_default();
    lines.extend(text.lines().filter_map(pick).map(|line| format!("{file}: {line}")));
}

/// System V objects by key, id and owner: sizes and times of what was there before may change.
fn ipc(lines: &mut BTreeSet<String>, table: &str) {
    let text = fs::read_to_string(format!("/proc/sysvipc/{table}")).unwrap_or_default();
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let owner = rows.next().and_then(|titles| titles.iter().position(|title| *title == "uid")).unwrap_or_default();
    for row in rows {
        if let (Some(key), Some(id), Some(uid)) = (row.first(), row.get(1), row.get(owner)) {
            lines.insert(format!("ipc {table} key {key} id {id} of uid {uid}"));
        }
    }
}

/// Whether a line is about an environment's user or what it owns: it may belong to another run on the same host.
fn is_an_environments(line: &str) -> bool {
    let uid = line.rsplit(' ').next().and_then(|word| word.parse().ok());
    line.contains("fish-") || uid.is_some_and(|uid| UIDS.contains(&uid))
}

/// Whether a name ends in an environment's identifier (`fish-` and six small letters). Other tests' temporary files are
/// called `fish-WHAT-RANDOM` or `fish-WHAT.log`.
fn names_an_environment(name: &str) -> bool {
    let last = name.rfind("fish-").map(|at| &name[at + "fish-".len()..]);
    last.is_some_and(|letters| letters.len() == 6 && letters.bytes().all(|b| b.is_ascii_lowercase()))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Loop devices that hold a file, by the file.
fn loops(lines: &mut BTreeSet<String>) {
    for name in names(Path::new("/sys/block")) {
        if let Ok(file) = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")) {
            lines.insert(format!("loop {}", file.trim()));
        }
    }
}

fn cgroups(lines: &mut BTreeSet<String>, dir: &Path) {
    for name in names(dir) {
        let path = dir.join(&name);
        // Symbolic links of a v1 hierarchy (cpu -> cpu,cpuacct) would be counted twice.
        // Services of the host come and go: somebody's first question to polkit starts it.
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) && name != "system.slice" {
            lines.insert(format!("cgroup {}", path.display()));
            cgroups(lines, &path);
        }
    }
}

/// Processes of an environment's user, in any of the four uids, and processes of the program itself.
fn processes(lines: &mut BTreeSet<String>) {
    for pid in names(Path::new("/proc")).into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim();
        let ours = field("Uid:").split_whitespace().filter_map(|n| n.parse().ok()).any(|uid| UIDS.contains(&uid));
        let name = field("Name:");
        // The helper and the keeper are the program itself, whatever they call themselves.
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if ours || program.file_name().is_some_and(|n| n.to_string_lossy().starts_with("fish-native")) {
            lines.insert(format!("process {pid} {name} uids {}", field("Uid:")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_seen() {
        let before = Snapshot::take();
        let file = tempfile::Builder::new()
            .prefix("fish-e2e-seen-")
            .suffix(".fish-abcdef")
            .tempfile_in("/var/tmp")
            .expect("make a file");
        let path = file.path().display().to_string();
        let now = Snapshot::take();
        assert!(!names_an_environment("fish-driver-x1y2z3") && !names_an_environment("fish-a1B2c3"));
        assert!(now.0.difference(&before.0).any(|line| *line == path), "{path}");
        assert!(now.0.iter().any(|line| line.starts_with("/etc/passwd: root:")));
        assert!(now.0.iter().any(|line| line.starts_with("/proc/self/mountinfo:") && line.ends_with(" /")));
    }
}
