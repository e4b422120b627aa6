//! What `/proc` and `/sys` say: mounts, processes, loop devices. Parsers take text; readers feed them.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::store::ProcessId;
use crate::sys;

/// One line of `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// The file system's type.
    pub(crate) kind: String,
    /// What is mounted.
    pub(crate) source: String,
    /// The options of the file system itself.
    pub(crate) super_options: String,
}

/// The mounts that this process sees.
///
/// # Errors
/// When `/proc` can't be read.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// See proc_pid_mountinfo(5). Lines of another shape are passed over: there are none.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        Some(Mount {
            point: PathBuf::from(unescape(left.split(' ').nth(4)?)),
            kind: right.next()?.to_owned(),
            source: unescape(right.next()?),
            super_options: right.next().unwrap_or_default().to_owned(),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Undoes the octal escapes for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Some(byte) = std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 8).ok())
        {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A process, as its `status` file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) name: String,
    /// Whether all of it has ended, and only its parent has not asked how.
    pub(crate) zombie: bool,
    /// Real, effective, saved and file-system uid.
    pub(crate) uids: Vec<u32>,
    /// The same of the gid, and the supplementary groups.
    pub(crate) gids: Vec<u32>,
}

fn parse_process(pid: i32, status: &str) -> Option<Process> {
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t"));
    // A process whose first thread has ended says Z while the others run.
    let is_alone = field("Threads").is_none_or(|threads| threads.trim() == "1");
    let numbers = |text: &str| text.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u32>>();
    let mut gids = field("Gid").map(numbers).unwrap_or_default();
    gids.extend(field("Groups").map(numbers).unwrap_or_default());
    Some(Process {
        pid,
        name: field("Name")?.to_owned(),
        zombie: field("State")?.starts_with(['Z', 'X']) && is_alone,
        uids: field("Uid").map(numbers)?,
        gids,
    })
}

/// The processes of the host that are wanted.
///
/// # Errors
/// When `/proc` can't be listed.
pub(crate) fn processes(wanted: &dyn Fn(&Process) -> bool) -> io::Result<Vec<Process>> {
    processes_but(&[], wanted)
}

/// The same without some, which are in order.
///
/// # Errors
/// When `/proc` can't be listed.
pub(crate) fn processes_but(bystanders: &[i32], wanted: &dyn Fn(&Process) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    let mut status = vec![0; 4096];
    let kernels = kernel_threads();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        if bystanders.binary_search(&pid).is_ok() || kernels.binary_search(&pid).is_ok() && has_no_program(pid) {
            continue;
        }
        // A process that ended in this moment is not there to be read.
        let Ok(status) = read_into(&mut status, &format!("/proc/{pid}/status")) else { continue };
        found.extend(parse_process(pid, &status).filter(|p| wanted(p)));
    }
    Ok(found)
}

/// The children of the kernel's own first thread, in order, where there is one to be seen: nearly all of a quiet host's
/// processes. What has no program of those is a thread of the kernel's, which has nobody's ids; what has one was started by
/// the kernel for somebody (core(5), "Piping core dumps to a program") and counts like any other.
fn kernel_threads() -> Vec<i32> {
    const KTHREAD: u64 = 0x0020_0000;
    // Field 9, after the name in parentheses: flags of the process (proc_pid_stat(5)). Nobody else can have this one.
    let stat = fs::read_to_string("/proc/2/stat").unwrap_or_default();
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    if flags.is_none_or(|flags| flags & KTHREAD == 0) {
        return Vec::new();
    }
    let text = fs::read_to_string("/proc/2/task/2/children").unwrap_or_default();
    let mut pids: Vec<i32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn has_no_program(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Reads a file of the kernel's. There are as many as processes, and asking for sizes that they don't have doubles the time.
fn read_into<'a>(buffer: &'a mut Vec<u8>, path: &str) -> io::Result<Cow<'a, str>> {
    let mut file = fs::File::open(path)?;
    let mut length = 0;
    loop {
        if length == buffer.len() {
            buffer.resize(2 * length, 0);
        }
        match file.read(&mut buffer[length..]) {
            Ok(0) => return Ok(String::from_utf8_lossy(&buffer[..length])),
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Every process of the host that lives (a zombie does not) and has `uid` in any column, but for bystanders, which are in
/// order.
///
/// # Errors
/// When `/proc` can't be listed.
pub(crate) fn processes_of(uid: u32, bystanders: &[i32]) -> io::Result<Vec<Process>> {
    processes_but(bystanders, &|p| !p.zombie && p.uids.contains(&uid))
}

/// The identity of a process; `None` if there is no such process, or only its zombie.
pub(crate) fn identify(pid: i32) -> Option<ProcessId> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything: fields are counted from its end. `starttime` is field 22.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let started = fields.nth(18)?.parse().ok()?;
    Some(ProcessId { pid, started })
}

/// Whether this very process still lives.
pub(crate) fn lives(process: &ProcessId) -> bool {
    identify(process.pid).as_ref() == Some(process)
}

/// A loop device in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoopDevice {
    /// `/dev/loopN`.
    pub(crate) device: PathBuf,
    /// The name that it was configured with: `fish-abcdef:ws` if it is ours.
    pub(crate) name: String,
    /// The file under it as the kernel names it, with ` (deleted)` if it has no name any more.
    pub(crate) backing: String,
}

/// The loop devices in use whose backing file, as the kernel names it, is `wanted`.
///
/// A device that was in use once stays on the host without a size, hundreds of them after a busy day: `/proc/partitions`
/// names the others alone, in one read. Only what is wanted is opened: to open one waits for whoever ties or mounts it.
///
/// # Errors
/// When the devices can't be listed or one can't be asked.
pub(crate) fn loops(wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<LoopDevice>> {
    let mut found = Vec::new();
    // `major minor #blocks name`, after two lines of a heading.
    let names = fs::read_to_string("/proc/partitions")?;
    for name in names.lines().filter_map(|line| line.split_whitespace().nth(3)).filter(|n| n.starts_with("loop")) {
        // A partition of one has no such file, and neither has a device that has just been untied.
        let Some(backing) = backing_of(name).filter(|backing| wanted(backing)) else { continue };
        let device = Path::new("/dev").join(name);
        let Ok(file) = fs::File::open(&device) else { continue };
        if let Some(name) = sys::loop_name(file.as_fd())? {
            found.push(LoopDevice { device, name, backing });
        }
    }
    Ok(found)
}

/// The file under a loop device (`loop3`), if it is in use.
fn backing_of(name: &str) -> Option<String> {
    let backing = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(backing.trim_end().to_owned())
}

/// Whether a loop device is still tied to the file that it was seen with.
pub(crate) fn is_tied(device: &LoopDevice) -> bool {
    let name = device.device.file_name().unwrap_or_default().to_string_lossy();
    backing_of(&name).is_some_and(|backing| backing == device.backing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo_with_escapes_and_optional_fields() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/a\\134b rw,errors=continue\n\
                    37 35 0:5 / /proc rw - proc proc rw\nnot a line\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/mnt 2"));
        assert_eq!((mounts[0].source.as_str(), mounts[0].super_options.as_str()), ("/dev/a\\b", "rw,errors=continue"));
        assert_eq!((mounts[1].kind.as_str(), mounts[1].point.as_path()), ("proc", Path::new("/proc")));
    }

    #[test]
    fn reads_a_process_with_a_name_of_any_shape() {
        let status = "Name:\tkworker/0:1\nUmask:\t0022\nState:\tZ (zombie)\nUid:\t0\t70001\t0\t0\nGid:\t1\t2\t1\t1\nGroups:\t50 \n";
        let process = parse_process(7, status).unwrap();
        assert!(process.zombie && process.uids == [0, 70001, 0, 0] && process.name == "kworker/0:1");
        assert_eq!(process.gids, [1, 2, 1, 1, 50]);
        assert_eq!(parse_process(7, "nothing"), None);
        for (threads, zombie) in [(1, true), (2, false)] {
            let status = format!("Name:\tx\nState:\tZ (zombie)\nUid:\t1\t1\t1\t1\nThreads:\t{threads}\n");
            assert_eq!(parse_process(7, &status).unwrap().zombie, zombie, "{threads} threads");
        }
    }

    #[test]
    fn every_process_is_seen_but_threads_of_the_kernel() {
        let own = std::process::id().cast_signed();
        let found = processes(&|_| true).unwrap();
        assert!(found.iter().any(|p| p.pid == own));
        assert!(!found.iter().any(|p| kernel_threads().contains(&p.pid) && p.name.starts_with("kworker/")));
    }

    #[test]
    fn a_process_is_identified_by_its_start() {
        let own = identify(std::process::id().cast_signed()).unwrap();
        assert!(lives(&own));
        assert!(!lives(&ProcessId { started: own.started + 1, ..own }));
    }
}
