//! Hosts whose first process is systemd: what a workload can ask it for dies with the environment, or can't be asked for.
//!
//! Any user may tell logind to let its services linger, and systemd then runs them outside of every cgroup of ours.

use std::path::Path;

use e2e::{Bench, command, say};

/// Asks systemd for whatever an unprivileged user may have of it, and says what it got.
const ASK: &str = r#"#!/bin/bash
me=$(id -un) uid=$(id -u)
export XDG_RUNTIME_DIR=/run/user/$uid DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$uid/bus
ask() { if timeout 30 "$@" </dev/null >/dev/null 2>&1; then echo "got: $*"; else echo "refused: $*"; fi; }
mkdir -p ~/.config/systemd/user/default.target.wants
printf '[Service]\nExecStart=/bin/sleep 6543\n[Install]\nWantedBy=default.target\n' >~/.config/systemd/user/stay.service
ln -s ../stay.service ~/.config/systemd/user/default.target.wants/stay.service
ask loginctl enable-linger
ask busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager SetUserLinger ubb "$uid" true true
ask systemd-run --user --unit planted sleep 6542
ask systemctl --user start stay.service
ask systemd-run --no-ask-password sleep 6541
ask at -M now + 1 hour
echo '* * * * * sleep 6540' | crontab - >/dev/null 2>&1 && echo 'got: crontab' || echo 'refused: crontab'
echo '/bin/sleep 6539' | at now >/dev/null 2>&1 && echo 'got: at' || echo 'refused: at'
sleep 2
echo "asked as $me $uid"
"#;

fn systemd_keeps_nothing(isolation: &str) {
    let Some(bench) = Bench::new() else { return };
    if !Path::new("/run/systemd/system").exists() {
        say("skipped: the first process is not systemd (cargo xtask vm boots one where it is)");
        return;
    }
    bench.configure(&format!("isolation: {isolation}\n"));
    let label = bench.label(ASK);
    let out = bench.fish(&["run", &label]).code(0);
    let uid = out.stdout.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    assert!(uid.parse::<u32>().is_ok(), "{out:?}");
    let got: Vec<&str> = out.stdout.lines().filter_map(|line| line.strip_prefix("got: ")).collect();
    say(&format!("with isolation: {isolation} it got {got:?}"));
    if isolation == "private" {
        assert_eq!(got, [""; 0], "it reached a service of the host");
    }
    let users = command("loginctl").args(["list-users", "--no-legend"]).output().expect("ask logind");
    let users = String::from_utf8_lossy(&users.stdout).into_owned();
    let known = users.lines().any(|line| line.split_whitespace().any(|word| word == uid));
    assert!(!known, "logind still knows {uid}: {users}\n{}", out.stdout);
    let state = command("systemctl").args(["is-active", &format!("user@{uid}.service")]).output().expect("ask systemd");
    assert_ne!(String::from_utf8_lossy(&state.stdout).trim(), "active", "its service manager lives\n{}", out.stdout);
    bench.assert_as_before();
}

#[test]
fn nothing_lingers_with_private_isolation() {
    systemd_keeps_nothing("private");
}

#[test]
fn nothing_lingers_with_basic_isolation() {
    systemd_keeps_nothing("basic");
}
