//! `su` and `sudo`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Host, Reply, fault, sudoers};

/// `su -l USER -c COMMAND`: five variables, the home as working directory, and an exit code that hides how
/// the shell died.
pub(super) fn su(host: &Host, args: &[&str]) -> Reply {
    let ["-l", name, "-c", line] = args else { return Reply::unsupported("su", args) };
    if host.euid() != 0 {
        return Reply::failed(1, "su: Sorry\n");
    }
    let Some((uid, gid)) = host.visible_user(name) else {
        return Reply::failed(1, format!("su: unknown login: {name}\n"));
    };
    let record = host.state().od.remove("Users").and_then(|mut u| u.remove(*name)).unwrap_or_default();
    let first = |key: &str| record.get(key).and_then(|v| v.first().cloned()).unwrap_or_default();
    let (home, shell) = (first("NFSHomeDirectory"), first("UserShell"));
    if !host.inside(&home) || !Path::new(&home).is_dir() {
        return Reply::failed(1, "su: no directory\n");
    }
    // pam_launchd opens the user's Background domain.
    host.change(|state| {
        if !state.domains.contains(&uid) {
            state.domains.push(uid);
        }
    });
    #[expect(clippy::disallowed_methods, reason = "this is a tool, not the driver")]
    let mut command = Command::new("/bin/sh");
    command.arg0("-sh").args(["-c", line]).env_clear().current_dir(&home).uid(uid).gid(gid);
    command.env("HOME", &home).env("SHELL", shell).env("PATH", "/bin:/usr/bin").env("USER", name);
    match command.status() {
        // WEXITSTATUS of a shell that a signal killed is 0.
        Ok(status) => Reply { code: status.code().unwrap_or(0), ..Reply::default() },
        Err(e) => Reply::failed(1, format!("su: {e}\n")),
    }
}

/// A user without any right.
const NOBODY: u32 = 65534;

/// `sudo -n [-l [-U USER]] COMMAND ...`, and `sudo -n -u nobody COMMAND ...` for root. Without `-n` it waits for a password, for ever.
pub(super) fn sudo(host: &Host, args: &[&str]) -> Reply {
    if let ["-n", "-u", "nobody", program, rest @ ..] = args
        && host.euid() == 0
    {
        #[expect(clippy::disallowed_methods, reason = "this is a tool, not the driver")]
        let status = Command::new(program).args(rest).env_remove("FAKE_SUDO").uid(NOBODY).gid(NOBODY).status();
        return Reply { code: status.ok().and_then(|s| s.code()).unwrap_or(1), ..Reply::default() };
    }
    let (asked, command) = match args {
        ["-n", "-l", "-U", _, command @ ..] if host.euid() == 0 => (true, command),
        ["-n", "-l", command @ ..] => (true, command),
        ["-n", command @ ..] => (false, command),
        _ => fault::hang(),
    };
    let Some((program, rest)) = command.split_first() else { return Reply::unsupported("sudo", args) };
    let rules = std::fs::read_to_string(host.root().join("sudoers")).unwrap_or_default();
    // Before macOS 14 sudo has no regular expressions; the text then matches nothing.
    let allowed = sudoers::allows(&rules, program, rest, host.config.macos.0 >= 14);
    match (asked, allowed) {
        (true, true) => return Reply::said(format!("{}\n", command.join(" "))),
        (true, false) => return Reply::failed(1, ""),
        (false, false) => return Reply::failed(1, "sudo: a password is required\n"),
        (false, true) => {}
    }
    #[expect(clippy::disallowed_methods, reason = "this is a tool, not the driver")]
    let mut child = Command::new(program);
    child.args(rest).env("FAKE_SUDO", "1").env("SUDO_UID", host.euid().to_string()).stdin(Stdio::inherit());
    match child.status() {
        Ok(status) => {
            if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
                // sudo ends as its command did.
                let signal = rustix::process::Signal::from_named_raw(signal).unwrap_or(rustix::process::Signal::KILL);
                let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            }
            Reply { code: status.code().unwrap_or(1), ..Reply::default() }
        }
        Err(_) => Reply::failed(1, format!("sudo: {program}: command not found\n")),
    }
}
