//! `ps`, `killall`, `pkill` and `pgrep` over real processes: those whose real user is an emulated one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Host, Reply};

/// A process of an emulated user.
struct Process {
    pid: i32,
    uid: u32,
    state: char,
    rss_kib: u64,
    ticks: u64,
    /// Whether its arguments can be read: `killall` does not see it otherwise.
    named: bool,
}

fn processes(host: &Host) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| read(host, pid)).collect()
}

fn read(host: &Host, pid: i32) -> Option<Process> {
    // Whose directory it is costs a tenth of what its status does, and nearly all are somebody else's.
    let owner = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    if !host.is_emulated(owner) {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let uid = field("Uid:")?.split_whitespace().next()?.parse().ok()?;
    if !host.is_emulated(uid) {
        return None;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Some(Process {
        pid,
        uid,
        state: field("State:")?.chars().next()?,
        rss_kib: field("VmRSS:").and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(0),
        ticks: ticks(11) + ticks(12),
        named: cmdline.first().is_some_and(|b| *b != 0),
    })
}

/// Sends a signal to every process of a user.
pub(super) fn signal_all(host: &Host, uid: u32, signal: Signal) -> usize {
    let mine: Vec<_> = processes(host).into_iter().filter(|p| p.uid == uid && p.state != 'Z').collect();
    for process in &mine {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // One that has just ended is as good as reached.
            let _ = kill_process(pid, signal);
        }
    }
    mine.len()
}

/// `ps -axo KEYWORD=,...` and `ps -U USER`.
pub(super) fn ps(host: &Host, args: &[&str]) -> Reply {
    match args {
        ["-axo", format] => {
            let Some(columns) = format.split(',').map(|c| c.strip_suffix('=')).collect::<Option<Vec<_>>>() else {
                return Reply::unsupported("ps", args);
            };
            let launchd = Process { pid: 1, uid: 0, state: 'S', rss_kib: 20_000, ticks: 100, named: true };
            let mut out = String::new();
            for process in std::iter::once(launchd).chain(processes(host)) {
                let cells = columns.iter().map(|c| cell(c, &process)).collect::<Option<Vec<_>>>();
                let Some(cells) = cells else { return Reply::unsupported("ps", args) };
                out.push_str(&cells.join(" "));
                out.push('\n');
            }
            Reply::said(out)
        }
        ["-U", name] => {
            let uid = name.parse().ok().or_else(|| host.visible_user(name).map(|(uid, _)| uid));
            let Some(uid) = uid else { return Reply::failed(1, format!("ps: No user named '{name}'\n")) };
            let mut out = "  PID TTY           TIME CMD\n".to_owned();
            let mine: Vec<_> = processes(host).into_iter().filter(|p| p.uid == uid).collect();
            mine.iter().for_each(|p| out.push_str(&format!("{:5} ??         0:00.00 cmd\n", p.pid)));
            // No process and no such user end alike.
            Reply { code: i32::from(mine.is_empty()), out, err: String::new() }
        }
        _ => Reply::unsupported("ps", args),
    }
}

fn cell(column: &str, process: &Process) -> Option<String> {
    Some(match column {
        "uid" | "ruid" => process.uid.to_string(),
        "pid" => process.pid.to_string(),
        "stat" => process.state.to_string(),
        "rss" => process.rss_kib.to_string(),
        "time" => format!("{}:{:05.2}", process.ticks / 6000, (process.ticks % 6000) as f64 / 100.0),
        "comm" => "cmd".to_owned(),
        _ => return None,
    })
}

/// `killall -INT|-KILL -u USER`: by real uid, skipping zombies and processes whose arguments can't be read.
pub(super) fn killall(host: &Host, args: &[&str]) -> Reply {
    let [flag @ ("-INT" | "-KILL"), "-u", name] = args else { return Reply::unsupported("killall", args) };
    let Some((uid, _)) = host.visible_user(name) else {
        return Reply::failed(1, format!("killall: user {name} does not exist\n"));
    };
    let euid = host.euid();
    if euid != 0 {
        return Reply::failed(1, "No matching processes belonging to you were found\n");
    }
    let signal = if *flag == "-INT" { Signal::INT } else { Signal::KILL };
    let mine: Vec<_> = processes(host).into_iter().filter(|p| p.uid == uid && p.state != 'Z' && p.named).collect();
    if mine.is_empty() {
        return Reply::failed(1, "No matching processes were found\n");
    }
    for pid in mine.iter().filter_map(|p| Pid::from_raw(p.pid)) {
        let _ = kill_process(pid, signal);
    }
    Reply::default()
}

/// `pkill -INT|-KILL -U UID`: 1 if none matched.
pub(super) fn pkill(host: &Host, args: &[&str]) -> Reply {
    let [flag @ ("-INT" | "-KILL" | "-9"), "-U", uid] = args else { return Reply::unsupported("pkill", args) };
    let Ok(uid) = uid.parse() else { return Reply::failed(2, "pkill: Cannot translate user\n") };
    if host.euid() != 0 {
        return Reply::failed(1, "");
    }
    let signal = if *flag == "-INT" { Signal::INT } else { Signal::KILL };
    Reply { code: i32::from(signal_all(host, uid, signal) == 0), ..Reply::default() }
}

/// `pgrep -U UID`.
pub(super) fn pgrep(host: &Host, args: &[&str]) -> Reply {
    let ["-U", uid] = args else { return Reply::unsupported("pgrep", args) };
    let Ok(uid) = uid.parse::<u32>() else { return Reply::failed(2, "pgrep: Cannot translate user\n") };
    let mine: String = processes(host).iter().filter(|p| p.uid == uid).map(|p| format!("{}\n", p.pid)).collect();
    Reply { code: i32::from(mine.is_empty()), out: mine, err: String::new() }
}
