//! `rm`, `find`, `cp`, `chown`, `chflags` and `tar`, in exactly the shapes that the driver and the published one use. They
//! work below the emulated root only.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::{Host, Reply};

/// Runs one of them.
pub(super) fn run(host: &Host, tool: &str, args: &[&str]) -> Reply {
    let paths = args.iter().filter(|a| a.starts_with('/'));
    if !paths.clone().all(|p| host.inside(p)) || paths.count() == 0 {
        return Reply::unsupported(tool, args);
    }
    match (tool, args) {
        ("rm", ["-rf", path]) => rm(host, path),
        ("find", [roots @ .., "-xdev", "-uid", uid, "-delete"]) if roots.iter().all(|r| r.starts_with('/')) => {
            find_delete(host, roots, uid)
        }
        ("chflags", ["-R", flag @ ("nouchg" | "uchg"), path]) => chflags(host, flag, path),
        ("chown", ["-R", owner, path]) => chown(host, owner, path),
        ("cp", ["-c", from, to]) => clone(host, "-p", from, to),
        ("cp", ["-Rpc", from, to]) => clone(host, "-Rp", from, to),
        ("tar", ["-x", "-f", "-", "-C", _, "--no-same-owner"]) if host.euid() != 0 => real("/bin/tar", args),
        _ => Reply::unsupported(tool, args),
    }
}

/// Runs the Linux tool with our rights.
fn real(program: &str, args: &[&str]) -> Reply {
    #[expect(clippy::disallowed_methods, reason = "this is a tool, not the driver")]
    let status = Command::new(program).args(args).status();
    match status {
        Ok(status) => Reply { code: status.code().unwrap_or(1), ..Reply::default() },
        Err(e) => Reply::failed(1, format!("{program}: {e}\n")),
    }
}

fn rm(host: &Host, path: &str) -> Reply {
    let held = host.state().uchg.into_iter().find(|p| p.starts_with(path) && p.symlink_metadata().is_ok());
    if let Some(held) = held {
        return Reply::failed(1, format!("rm: {}: Operation not permitted\n", held.display()));
    }
    let Ok(meta) = fs::symlink_metadata(path) else { return Reply::default() };
    let removed = host.as_caller(|| if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
    match removed {
        Ok(()) => Reply::default(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Reply::default(),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            Reply::failed(1, format!("rm: {path}: Resource busy\n"))
        }
        Err(_) => Reply::failed(1, format!("rm: {path}: Permission denied\n")),
    }
}

fn find_delete(host: &Host, roots: &[&str], uid: &str) -> Reply {
    let Ok(uid) = uid.parse::<u32>() else { return Reply::failed(1, format!("find: -uid: {uid}: no such user\n")) };
    let mut err = String::new();
    host.as_caller(|| {
        for root in roots {
            if let Ok(entries) = fs::read_dir(root) {
                entries.flatten().for_each(|e| delete_owned(&e.path(), uid, &mut err));
            } else {
                err.push_str(&format!("find: {root}: No such file or directory\n"));
            }
        }
    });
    Reply { code: i32::from(!err.is_empty()), out: String::new(), err }
}

fn delete_owned(path: &Path, uid: u32, err: &mut String) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_dir() {
        match fs::read_dir(path) {
            Ok(entries) => entries.flatten().for_each(|e| delete_owned(&e.path(), uid, err)),
            Err(_) => err.push_str(&format!("find: {}: Permission denied\n", path.display())),
        }
    }
    if meta.uid() == uid {
        let gone = if meta.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        if let Err(e) = gone {
            err.push_str(&format!("find: {}: {e}\n", path.display()));
        }
    }
}

fn chflags(host: &Host, flag: &str, path: &str) -> Reply {
    let euid = host.euid();
    let mut all = Vec::new();
    walk(Path::new(path), &mut all);
    let foreign = all.iter().find(|p| fs::symlink_metadata(p).is_ok_and(|m| euid != 0 && m.uid() != euid));
    if let Some(path) = foreign {
        return Reply::failed(1, format!("chflags: {}: Operation not permitted\n", path.display()));
    }
    host.change(|state| {
        state.uchg.retain(|p| !p.starts_with(path));
        if flag == "uchg" {
            state.uchg.extend(all);
        }
    });
    Reply::default()
}

fn walk(path: &Path, all: &mut Vec<std::path::PathBuf>) {
    all.push(path.to_owned());
    if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|e| walk(&e.path(), all));
    }
}

/// `chown -R USER:GROUP PATH`: symbolic links themselves, hard links reach their file, and a volume without
/// owners takes no notice.
fn chown(host: &Host, owner: &str, path: &str) -> Reply {
    let Some((user, group)) = owner.split_once(':') else { return Reply::unsupported("chown", &["-R", owner, path]) };
    let Some((uid, _)) = host.visible_user(user) else {
        return Reply::failed(1, format!("chown: {user}: illegal user name\n"));
    };
    let state = host.state();
    let gid = state.od.get("Groups").and_then(|g| g.get(group)?.get("PrimaryGroupID")?.first()?.parse::<u32>().ok());
    let Some(gid) = gid else { return Reply::failed(1, format!("chown: {group}: illegal group name\n")) };
    if host.euid() != 0 {
        return Reply::failed(1, format!("chown: {path}: Operation not permitted\n"));
    }
    if state.images.iter().any(|i| !i.owners && i.mounted.as_deref().is_some_and(|m| Path::new(path).starts_with(m))) {
        return Reply::default();
    }
    match Host::chown_tree(Path::new(path), uid, gid) {
        Ok(()) => Reply::default(),
        Err(_) => Reply::failed(1, format!("chown: {path}: No such file or directory\n")),
    }
}

fn clone(host: &Host, flags: &str, from: &str, to: &str) -> Reply {
    // A clone needs one volume, and each mounted image is one of its own.
    let volume = |path: &str| {
        let images = host.state().images;
        images.into_iter().find(|i| i.mounted.as_deref().is_some_and(|m| Path::new(path).starts_with(m))).map(|i| i.id)
    };
    if volume(from) != volume(to) {
        return Reply::failed(1, format!("cp: {to}: clonefile failed: Cross-device link\n"));
    }
    host.as_caller(|| real("/bin/cp", &[flags, "--reflink=auto", from, to]))
}
