//! `sw_vers`, `sysctl`, `mdutil`, `crontab`, `launchctl`, `ipcs` and `ipcrm`.

use std::fs;
use std::io::Read;

use crate::tools::processes;
use crate::{Host, Reply};

/// `sw_vers -productVersion`.
pub(super) fn sw_vers(host: &Host, args: &[&str]) -> Reply {
    match args {
        ["-productVersion"] => Reply::said(format!("{}.{}\n", host.config.macos.0, host.config.macos.1)),
        _ => Reply::unsupported("sw_vers", args),
    }
}

/// `sysctl -n hw.ncpu hw.memsize`.
pub(super) fn sysctl(args: &[&str]) -> Reply {
    match args {
        ["-n", "hw.ncpu", "hw.memsize"] => Reply::said("10\n17179869184\n"),
        _ => Reply::unsupported("sysctl", args),
    }
}

/// `mdutil -i off VOLUME` and `mdutil -s VOLUME`.
pub(super) fn mdutil(host: &Host, args: &[&str]) -> Reply {
    match args {
        ["-i", "off", volume] if host.euid() == 0 => Reply::said(format!("{volume}:\n\tIndexing disabled.\n")),
        ["-s", volume] => Reply::said(format!("{volume}:\n\tIndexing enabled.\n")),
        _ => Reply::unsupported("mdutil", args),
    }
}

/// `crontab [-u USER] -l|-r|-`.
pub(super) fn crontab(host: &Host, args: &[&str]) -> Reply {
    if !matches!(args, [] | ["-u", _, "-l" | "-r" | "-"] | ["-l" | "-r" | "-"]) {
        return Reply::unsupported("crontab", args);
    }
    let (name, rest) = match args {
        ["-u", name, rest @ ..] if host.euid() == 0 => ((*name).to_owned(), rest),
        ["-u", ..] => return Reply::failed(1, "crontab: must be privileged to use -u\n"),
        rest => {
            let users = host.state().od.remove("Users").unwrap_or_default();
            let uid = host.euid().to_string();
            let own = |r: &crate::host::Record| r.get("UniqueID").is_some_and(|v| v.contains(&uid));
            match users.into_iter().find(|(_, r)| own(r)) {
                Some((name, _)) => (name, rest),
                None => return Reply::failed(1, "crontab: your UID isn't in the passwd file, bailing out\n"),
            }
        }
    };
    let path = host.fs().join("private/var/at/tabs").join(&name);
    let none = || Reply::failed(1, format!("crontab: no crontab for {name}\n"));
    match rest {
        ["-l"] => fs::read_to_string(path).map_or_else(|_| none(), Reply::said),
        ["-r"] => fs::remove_file(path).map_or_else(|_| none(), |()| Reply::default()),
        ["-"] => {
            let mut text = String::new();
            drop(std::io::stdin().read_to_string(&mut text));
            match fs::write(path, text) {
                Ok(()) => Reply::default(),
                Err(e) => Reply::failed(1, format!("crontab: {e}\n")),
            }
        }
        _ => Reply::unsupported("crontab", args),
    }
}

/// `launchctl print|bootout user/UID` and `launchctl managername`.
pub(super) fn launchctl(host: &Host, args: &[&str]) -> Reply {
    if let ["managername"] = args {
        return Reply::said("Background\n");
    }
    let domain = |text: &&str| text.strip_prefix("user/").and_then(|n| n.parse::<u32>().ok());
    let [verb @ ("print" | "bootout"), target] = args else { return Reply::unsupported("launchctl", args) };
    let Some(uid) = domain(target) else { return Reply::unsupported("launchctl", args) };
    if *verb == "print" {
        return if host.state().domains.contains(&uid) {
            Reply::said(format!("user/{uid} = {{\n\ttype = user\n}}\n"))
        } else {
            Reply::failed(113, format!("Could not find domain for user: {uid}\n"))
        };
    }
    if host.euid() != 0 {
        return Reply::failed(1, "Boot-out failed: 1: Operation not permitted\n");
    }
    let had = host.change(|state| {
        let had = state.domains.contains(&uid);
        state.domains.retain(|d| *d != uid);
        had
    });
    if !had {
        return Reply::failed(3, "Boot-out failed: 3: No such process\n");
    }
    processes::signal_all(host, uid, rustix::process::Signal::KILL);
    Reply::default()
}

/// `ipcs`.
pub(super) fn ipcs(host: &Host, args: &[&str]) -> Reply {
    if !args.is_empty() {
        return Reply::unsupported("ipcs", args);
    }
    let state = host.state();
    let mut out = String::from("IPC status from <running system> as of Mon Jan  1 00:00:00 UTC 2024\n");
    for (kind, title) in [('q', "Message Queues"), ('m', "Shared Memory"), ('s', "Semaphores")] {
        out.push_str("T     ID     KEY        MODE       OWNER    GROUP\n");
        out.push_str(&format!("{title}:\n"));
        for object in state.ipc.iter().filter(|o| o.kind == kind) {
            let (id, uid) = (object.id, object.uid);
            let users = state.od.get("Users");
            let has = |r: &crate::host::Record| r.get("UniqueID").is_some_and(|v| v.contains(&uid.to_string()));
            let owner = users.and_then(|u| u.iter().find(|(_, r)| has(r)));
            // A deleted user shows as its number.
            let owner = owner.map_or_else(|| uid.to_string(), |(name, _)| name.clone());
            out.push_str(&format!("{kind}  {id:5} 0x00000000 --rw------- {owner:>8}    staff\n"));
        }
        out.push('\n');
    }
    Reply::said(out)
}

/// `ipcrm -m|-q|-s ID`.
pub(super) fn ipcrm(host: &Host, args: &[&str]) -> Reply {
    let [flag @ ("-m" | "-q" | "-s"), id] = args else { return Reply::unsupported("ipcrm", args) };
    let euid = host.euid();
    let gone = host.change(|state| {
        let before = state.ipc.len();
        let hit =
            |o: &crate::host::Ipc| flag.ends_with(o.kind) && o.id.to_string() == *id && (euid == 0 || o.uid == euid);
        state.ipc.retain(|o| !hit(o));
        state.ipc.len() < before
    });
    if gone { Reply::default() } else { Reply::failed(1, format!("ipcrm: {id}: No such object\n")) }
}
