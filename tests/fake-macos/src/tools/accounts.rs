//! `id`, `createhomedir`, and `sysadminctl` as the bad example that it is.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use crate::{Host, Reply};

/// `id -u USER`.
pub(super) fn id(host: &Host, args: &[&str]) -> Reply {
    match args {
        ["-u", name] => match host.visible_user(name) {
            Some((uid, _)) => Reply::said(format!("{uid}\n")),
            None => Reply::failed(1, format!("id: {name}: no such user\n")),
        },
        ["-u"] => Reply::said(format!("{}\n", host.euid())),
        // Below `su`, the shell's `id` is asked too.
        [] => Reply::said(format!("uid={}\n", host.euid())),
        _ => Reply::unsupported("id", args),
    }
}

/// `createhomedir -c -u USER`. It ends with 0 whatever happens, also when it makes nothing.
pub(super) fn createhomedir(host: &Host, args: &[&str]) -> Reply {
    let ["-c", "-u", name] = args else { return Reply::unsupported("createhomedir", args) };
    let first = "creating home directories for (host)\n";
    let record = host.state().od.get("Users").and_then(|u| u.get(*name)).cloned();
    let home = record.and_then(|r| r.get("NFSHomeDirectory")?.first().cloned());
    let (Some(home), Some((uid, gid))) = (home, host.visible_user(name)) else { return Reply::said(first) };
    if host.euid() != 0 || !host.inside(&home) || fs::create_dir(&home).is_err() {
        return Reply::said(first);
    }
    let made = fs::create_dir_all(format!("{home}/Library/Preferences"))
        .and_then(|()| fs::write(format!("{home}/.CFUserTextEncoding"), "0x0:0x0"))
        .and_then(|()| Host::chown_tree(home.as_ref(), uid, gid))
        .and_then(|()| fs::set_permissions(&home, Permissions::from_mode(0o750)))
        .and_then(|()| chown(&home, Some(uid), Some(gid)));
    match made {
        Ok(()) => Reply::said(format!("{first} created ({home})\n")),
        Err(e) => Reply { code: 0, out: first.to_owned(), err: format!("createhomedir: {e}\n") },
    }
}

/// `sysadminctl -deleteUser USER`: 0 whatever happens, text on standard error, and without the grant the home
/// is gone and the record is not.
pub(super) fn sysadminctl(host: &Host, args: &[&str]) -> Reply {
    let ["-deleteUser", name] = args else { return Reply::unsupported("sysadminctl", args) };
    let home = host.fs().join("Users").join(name);
    drop(fs::remove_dir_all(home));
    if host.euid() != 0 || !host.config.tcc {
        return Reply {
            code: 0,
            out: String::new(),
            err: "### Error:-14120 File:/AppleInternal/DSRecord.m Line:1\n".to_owned(),
        };
    }
    host.change(|state| state.od.get_mut("Users").and_then(|users| users.remove(*name)));
    Reply { code: 0, out: String::new(), err: format!("sysadminctl: Deleting record for {name}\n") }
}
