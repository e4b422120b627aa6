//! A caller who lies: the service user speaks to the root helper itself, through the real sudo, and asks for what is not
//! its own. Every such request is refused, and nothing changes on the host.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use e2e::{Bench, Mode, command};
use serde_json::{Value, json};

const ID: &str = "fish-liarxx";

/// A helper behind sudo, as the service user starts it.
struct Helper {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Helper {
    fn start(bench: &Bench) -> Self {
        let mut words = bench.service().expect("the helper's mode").as_user();
        words.extend(["sudo", "-n", "/usr/libexec/fish-native-helper"].map(str::to_owned));
        let mut sudo = command(&words[0]);
        sudo.args(&words[1..]).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sudo.spawn().expect("start sudo");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, output }
    }

    /// Sends a line as it is and returns the answer; null when the helper has ended.
    fn send(&mut self, line: &str) -> Value {
        let input = self.child.stdin.as_mut().expect("stdin is piped");
        // One that has ended reads nothing more.
        drop(input.write_all(format!("{line}\n").as_bytes()).and_then(|()| input.flush()));
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("read the answer");
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.send(&request.to_string())
    }

    /// Closes its input and waits for its end.
    fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("wait for sudo");
    }
}

fn bench() -> Option<Bench> {
    let bench = Bench::in_mode(Mode::Helper)?;
    // The program makes the workspace, as its user.
    bench.fish(&["list"]).code(0);
    let dir = bench.dir.path().join("workspace").join(ID);
    let mut words = bench.service()?.as_user();
    words.extend(["mkdir".to_owned(), "-p".to_owned(), dir.display().to_string()]);
    assert!(command(&words[0]).args(&words[1..]).status().expect("start mkdir").success());
    Some(bench)
}

/// The environment that the service user may really have.
fn scope(bench: &Bench) -> Value {
    let dir = bench.dir.path().join("workspace").join(ID);
    json!({"id": ID, "dir": dir, "isolation": "private", "uids": [70000, 79999]})
}

fn open(scope: &Value) -> Value {
    json!({"request": "open", "scope": scope})
}

fn execute(step: &Value) -> Value {
    json!({"request": "execute", "steps": [step]})
}

#[track_caller]
fn refused(answer: &Value, words: &str) {
    assert_eq!(answer["answer"], "failed", "{answer}");
    said(&answer["error"], words);
}

/// The request is refused by root's rules, or its only step by the platform.
#[track_caller]
fn step_refused(answer: &Value, words: &str) {
    match answer["answer"].as_str() {
        Some("done") => said(&answer["value"][0]["result"]["Err"], words),
        _ => refused(answer, words),
    }
}

#[track_caller]
fn said(error: &Value, words: &str) {
    assert!(error["message"].as_str().is_some_and(|m| m.contains(words)), "{words:?} in {error}");
}

fn without_leftovers(bench: &Bench) {
    fs::remove_dir_all(bench.dir.path().join("workspace").join(ID)).expect("remove the claim");
    bench.assert_as_before();
}

#[test]
fn foreign_scopes_are_refused() {
    let Some(bench) = bench() else { return };
    let own = scope(&bench);
    let with = |key: &str, value: Value| {
        let mut scope = own.clone();
        scope[key] = value;
        open(&scope)
    };
    let workspace = bench.dir.path().join("workspace");
    std::os::unix::fs::symlink("/etc", workspace.join("fish-linked")).expect("make a link");
    let elsewhere = bench.dir.path().join(ID);
    fs::create_dir(&elsewhere).expect("make a directory");
    for (request, words) in [
        (with("id", json!("root")), "fish-"),
        (with("id", json!("fish-../..")), "fish-"),
        (with("id", json!("fish-otherr")), "refuses"),
        (with("dir", json!("/etc")), "refuses"),
        (with("dir", json!(workspace.join("..").join("workspace").join(ID))), "refuses"),
        (with("dir", json!(elsewhere)), "none of its workspaces"),
        (with("uids", json!([0, 79999])), "refuses uids"),
        (with("uids", json!([0, 0])), "refuses uids"),
        (with("uids", json!([79999, 70000])), "refuses uids"),
        (with("isolation", json!("none")), "unknown variant"),
        (with("caller", json!(0)), "caller"),
        (
            open(
                &json!({"id": "fish-linked", "dir": workspace.join("fish-linked"), "isolation": "private", "uids": [70000, 79999]}),
            ),
            "refuses",
        ),
    ] {
        let mut helper = Helper::start(&bench);
        refused(&helper.ask(&request), words);
        helper.end();
    }
    fs::remove_file(workspace.join("fish-linked")).expect("remove the link");
    fs::remove_dir(elsewhere).expect("remove the directory");
    without_leftovers(&bench);
}

#[test]
fn steps_with_foreign_names_and_paths_are_refused() {
    let Some(bench) = bench() else { return };
    let account = |group: &str| execute(&json!({"step": "account", "groups": [group], "kind": "real"}));
    let layer = |dir: &str| {
        let source = json!({"image": "x-1", "digest": "", "dir": dir});
        execute(&json!({"step": "layers", "volume": "home", "layers": [source]}))
    };
    let volume = |from: Value| {
        let backing = json!({"sized": {"bytes": 33_554_432, "fs": null}});
        execute(
            &json!({"step": "volume", "volume": "home", "backing": backing, "label": null, "reuse": false, "clone_from": from}),
        )
    };
    let limits = json!({"mode": "hard", "cpu": 1, "cpu_shared": false, "memory_bytes": 268_435_456, "pids": 64, "open_files": 64});
    let workload = |key: &str, value: Value| {
        let mut step = json!({
            "step": "workload", "entry": "/bin/true", "variables": [], "limits": limits, "lifetime_ms": null,
            "stop_grace_ms": 0, "log_bytes": 4096, "writable_paths": [], "allow_setuid": false,
        });
        step[key] = value;
        execute(&step)
    };
    let images = bench.dir.path().join("images").display().to_string();
    for (request, words) in [
        (account("root"), "refuses group root"),
        (account("shadow"), "refuses group shadow"),
        (account("docker"), "refuses group docker"),
        (account("users"), "refuses group users"),
        (account("0"), "group"),
        (layer("/etc"), "refuses a layer"),
        (layer(&images), "refuses a layer"),
        (layer(&format!("{images}/../../../../etc")), "refuses a layer"),
        (volume(json!("/etc/shadow")), "refuses a disk"),
        (workload("writable_paths", json!(["/etc"])), "refuses /etc"),
        (workload("allow_setuid", json!(true)), "refuses set-uid"),
        // Allowed by themselves, but there is no account to have a workload.
        (workload("entry", json!("/bin/sh")), "has no account"),
        (volume(Value::Null), "has no account"),
    ] {
        let mut helper = Helper::start(&bench);
        assert_eq!(helper.ask(&open(&scope(&bench)))["answer"], "done");
        step_refused(&helper.ask(&request), words);
        helper.end();
    }
    without_leftovers(&bench);
}

#[test]
fn replayed_and_reordered_requests_change_nothing() {
    let Some(bench) = bench() else { return };
    let account = execute(&json!({"step": "account", "groups": [], "kind": "real"}));
    let revert = json!({"request": "revert", "steps": [{"step": "account", "groups": [], "kind": "real"}]});
    let mut helper = Helper::start(&bench);
    assert_eq!(helper.ask(&open(&scope(&bench)))["answer"], "done");
    let first = helper.ask(&account);
    assert!(first["value"][0]["result"]["Ok"].is_object(), "{first}");
    // The same again is the same account, not another one.
    assert_eq!(helper.ask(&account)["value"][0]["result"], first["value"][0]["result"]);
    refused(&helper.ask(&open(&scope(&bench))), "makes no sense here");
    refused(&helper.ask(&json!({"request": "sweep"})), "makes no sense here");
    for _ in 0..2 {
        assert_eq!(helper.ask(&revert)["value"], json!([{"Ok": null}]));
    }
    assert_eq!(helper.ask(&json!({"request": "audit"}))["answer"], "done");
    // Out of its order, and when nothing is there any more.
    refused(&helper.ask(&json!({"request": "input", "data": ""})), "makes no sense here");
    assert_eq!(helper.ask(&json!({"request": "purge"}))["answer"], "done");
    assert_eq!(helper.ask(&json!({"request": "observe"}))["value"]["up"], false);
    assert_eq!(helper.ask(&json!({"request": "finish"}))["answer"], "done");
    refused(&helper.ask(&account), "makes no sense here");
    helper.end();
    without_leftovers(&bench);
}

#[test]
fn whoever_hangs_up_in_the_middle_has_nothing() {
    let Some(bench) = bench() else { return };
    let account = execute(&json!({"step": "account", "groups": [], "kind": "real"}));
    let purge = json!({"request": "purge"});
    for talk in [
        vec![],
        vec![open(&scope(&bench))],
        vec![open(&scope(&bench)), account.clone()],
        vec![open(&scope(&bench)), account, purge],
    ] {
        let mut helper = Helper::start(&bench);
        for request in &talk {
            assert_eq!(helper.ask(request)["answer"], "done");
        }
        helper.end();
        // What it made is gone; root's record, and with it the uid, waits for an audit.
        let mut helper = Helper::start(&bench);
        assert_eq!(helper.ask(&open(&scope(&bench)))["answer"], "done");
        assert_eq!(helper.ask(&json!({"request": "audit"}))["value"], json!([]));
        helper.end();
    }
    without_leftovers(&bench);
}

#[test]
fn garbage_ends_the_helper_and_nothing_else() {
    let Some(bench) = bench() else { return };
    for garbage in
        ["", "{", "null", "\u{0}\u{1b}[31m", "{\"request\":\"open\"}", &"{\"a\":".repeat(5000), &"x".repeat(17 << 20)]
    {
        for opened in [false, true] {
            let mut helper = Helper::start(&bench);
            if opened {
                assert_eq!(helper.ask(&open(&scope(&bench)))["answer"], "done");
            }
            let answer = helper.send(garbage);
            assert!(answer["answer"] == "failed" || answer.is_null(), "{answer}");
            helper.end();
        }
    }
    without_leftovers(&bench);
}

#[test]
fn sudo_takes_no_arguments_and_no_other_user() {
    let Some(bench) = bench() else { return };
    let as_user = bench.service().expect("the helper's mode").as_user();
    let run = |words: &[&str]| {
        let mut sudo = command(&as_user[0]);
        sudo.args(&as_user[1..]).args(words).stdin(Stdio::null());
        sudo.output().expect("start sudo")
    };
    for words in [
        &["sudo", "-n", "/usr/libexec/fish-native-helper", "__helper"][..],
        &["sudo", "-n", "/usr/libexec/fish-native-helper", ""],
        &["sudo", "-n", "/bin/sh", "-c", "id"],
        &["sudo", "-n", "-u", "daemon", "/usr/libexec/fish-native-helper"],
        &["sudo", "-n", "LD_PRELOAD=/tmp/x.so", "/usr/libexec/fish-native-helper"],
        &["sudo", "-n", "SUDO_UID=0", "/usr/libexec/fish-native-helper"],
    ] {
        assert!(!run(words).status.success(), "{words:?}");
    }
    // Without sudo it is a program like any other: it has no right, whatever the environment says.
    let direct = run(&["env", "SUDO_UID=0", "/usr/libexec/fish-native-helper"]);
    assert!(direct.stdout.is_empty(), "{direct:?}");
    // Rules that somebody else can write are none.
    let rules = "/etc/fish-native/helper.yml";
    fs::set_permissions(rules, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("open the rules");
    let mut helper = Helper::start(&bench);
    refused(&helper.ask(&open(&scope(&bench))), "somebody other than root can write it");
    refused(&helper.ask(&json!({"request": "sweep"})), "somebody other than root can write it");
    helper.end();
    without_leftovers(&bench);
}
