//! What `doctor` looks at on Linux, and the host's size.

use std::fs::{self, OpenOptions};
use std::path::Path;

use native_platform::runner::find_tool;
use native_platform::{Check, HostFacts, StepError, StepKind};
use nix::unistd::{SysconfVar, sysconf};

use crate::cgroup::Trees;
use crate::commands::{OPTIONAL, TABLE, package_of};
use crate::layout::Paths;
use crate::leftovers;
use crate::store::Store;

/// CPU threads and memory.
pub(crate) fn facts() -> Result<HostFacts, StepError> {
    let failed = |what: String| StepError::failed(StepKind::Platform, what);
    let cpus = std::thread::available_parallelism().map_err(|e| failed(format!("count the CPUs: {e}")))?;
    let number = |name: SysconfVar| sysconf(name).ok().flatten().and_then(|n| u64::try_from(n).ok());
    let memory = number(SysconfVar::_PHYS_PAGES).zip(number(SysconfVar::PAGE_SIZE));
    let (pages, size) = memory.ok_or_else(|| failed("the system does not say how much memory it has".to_owned()))?;
    Ok(HostFacts { cpus: u32::try_from(cpus.get()).unwrap_or(u32::MAX), memory_bytes: pages.saturating_mul(size) })
}

fn check(id: &str, problem: Result<String, (String, String)>) -> Check {
    match problem {
        Ok(detail) => Check { id: id.to_owned(), ok: true, detail, fix: String::new() },
        Err((detail, fix)) => Check { id: id.to_owned(), ok: false, detail, fix },
    }
}

/// Everything that steps need.
pub(crate) fn all(paths: &Paths) -> Vec<Check> {
    let mut checks = vec![root()];
    checks.extend(TABLE.tools().into_iter().filter(|t| !OPTIONAL.contains(t)).map(tool));
    checks.push(kernel());
    checks.push(loops());
    checks.push(cgroups());
    checks.push(homes(paths));
    checks.push(user_database());
    checks.push(quarantine(paths));
    checks
}

/// A lock that nobody will ever take away.
fn user_database() -> Check {
    let problem = match leftovers::stale_locks() {
        Ok(locks) if locks.is_empty() => Ok("no lock of the user database is left".to_owned()),
        Ok(locks) => {
            let fix = locks.iter().map(|(file, _)| format!("rm {file}")).collect::<Vec<_>>().join("; ");
            Err((locks.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("; "), fix))
        }
        Err(e) => Err((e.to_string(), "look at /etc/*.lock".to_owned())),
    };
    check("user-database", problem)
}

/// Uids that are held back until a clean audit. They stop nothing until there are too many of them.
fn quarantine(paths: &Paths) -> Check {
    let fix = "fish-native audit --fix".to_owned();
    let counted = Store::open(&paths.state).and_then(|store| Ok((store.uids()?.held.len(), store.records()?)));
    let problem = match counted {
        Ok((held, records)) => {
            let back = held.saturating_sub(records.len());
            match back {
                0 => Ok("no uid is held back".to_owned()),
                // As many as this, and something goes wrong all the time.
                1000.. => Err((format!("{back} uids are held back"), fix)),
                _ => Ok(format!("{back} uids are held back until they are audited: `{fix}`")),
            }
        }
        // A caller who is not root can't look; the helper can.
        Err(_) if !nix::unistd::geteuid().is_root() => Ok("not looked at: not root".to_owned()),
        Err(e) => Err((e.of_step(StepKind::Platform).message, fix)),
    };
    check("quarantine", problem)
}

fn root() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities =
        status.lines().find_map(|l| l.strip_prefix("CapEff:\t")).and_then(|h| u64::from_str_radix(h, 16).ok());
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let is_root = nix::unistd::geteuid().is_root();
    check(
        "root",
        match (is_root, capabilities) {
            (true, Some(c)) if c & CAP_SYS_ADMIN != 0 => Ok("running as root with CAP_SYS_ADMIN".to_owned()),
            (true, _) => Err((
                "root here lacks CAP_SYS_ADMIN: no namespaces, no mounts".to_owned(),
                "run outside of the container, or give it CAP_SYS_ADMIN (docker run --privileged)".to_owned(),
            )),
            (false, _) => Err(("not running as root".to_owned(), "sudo fish-native doctor".to_owned())),
        },
    )
}

fn tool(name: &str) -> Check {
    let found = find_tool(name).map(|p| p.display().to_string());
    check(
        &format!("tool-{name}"),
        found.ok_or_else(|| (format!("{name} is not installed"), format!("apt-get install {}", package_of(name)))),
    )
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.trim().split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    check(
        "kernel",
        if version >= (5, 12) {
            Ok(format!("Linux {}", release.trim()))
        } else {
            Err((
                format!("Linux {} has no mount_setattr(2), which came with 5.12", release.trim()),
                "upgrade the kernel".to_owned(),
            ))
        },
    )
}

fn loops() -> Check {
    let opened = OpenOptions::new().read(true).open("/dev/loop-control");
    check(
        "loop-devices",
        match opened {
            Ok(_) => Ok("/dev/loop-control opens".to_owned()),
            Err(e) => Err((format!("/dev/loop-control: {e}"), "modprobe loop".to_owned())),
        },
    )
}

fn cgroups() -> Check {
    let problem = match Trees::find() {
        Err(e) => Err((e.to_string(), "mount -t cgroup2 none /sys/fs/cgroup".to_owned())),
        Ok(trees) => match trees.missing().as_slice() {
            [] => Ok(format!("unified tree at {}, controllers cpu, memory and pids", trees.unified().display())),
            missing => Err((
                format!("no cgroup controller for {}", missing.join(", ")),
                "boot with cgroup_enable=memory, or set limits: off".to_owned(),
            )),
        },
    };
    check("cgroups", problem)
}

fn homes(paths: &Paths) -> Check {
    let homes: &Path = &paths.homes;
    check(
        "homes",
        if homes.is_dir() {
            Ok(format!("{} is there", homes.display()))
        } else {
            Err((format!("{} does not exist", homes.display()), format!("mkdir -m 755 {}", homes.display())))
        },
    )
}
