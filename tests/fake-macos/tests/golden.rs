//! The emulated tools answer as is documented: the same table that a true Mac is compared with.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod common;

use std::process::{Command, Stdio};

use common::{Rig, Service, runnable};
use fake_macos::UNSUPPORTED;
use fake_macos::pattern::fnmatch;
use native_platform::command::By;
use native_platform_macos::{COMMANDS, Privilege};

fn rows() -> Vec<Vec<&'static str>> {
    let text = include_str!("../golden.tsv");
    text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split('\t').collect()).collect()
}

#[test]
fn the_emulator_answers_as_documented() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::SudoCommands);
    let start = rig.snapshot();
    let uid = rig.host.config.uids.0.to_string();
    let fill = |text: &str| {
        let text = text.replace("@ROOT@", &rig.host.fs().display().to_string()).replace("@UID@", &uid);
        text.replace("@MACOS@", "26.3").replace("\\n", "\n").replace("\\t", "\t")
    };
    // Brackets mean a class to the matcher, and text to the table.
    let matches = |pattern: &str, text: &str| fnmatch(&fill(pattern).replace('[', "\\["), text);
    let rows = rows();
    for row in &rows {
        let [who, code, out, err, tool, args @ ..] = &row[..] else { panic!("{row:?}") };
        let _service = Service::enter(if *who == "root" { Privilege::Root } else { Privilege::SudoCommands });
        #[expect(clippy::disallowed_methods, reason = "calls the emulated tools as the driver's runner would")]
        let mut command = Command::new(rig.host.root().join("bin").join(tool));
        let args: Vec<_> = args.iter().map(|a| fill(a)).collect();
        let output = command.args(&args).env_clear().stdin(Stdio::null()).output().unwrap();
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code().unwrap().to_string(), *code, "{tool} {args:?}: {said}{complained}");
        assert!(matches(out, &said), "{tool} {args:?}: stdout {said:?} is not {:?}", fill(out));
        assert!(matches(err, &complained), "{tool} {args:?}: stderr {complained:?} is not {:?}", fill(err));
    }
    rig.host.change(|s| s.domains.retain(|d| *d == 0));
    common::same(&start, &rig.snapshot());
    println!("{} answers compared", rows.len());
}

/// No command of the driver's table has a shape that the emulator does not know, and what it does not know
/// fails loudly.
#[test]
fn every_command_of_the_table_is_known() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::Root);
    let run = |tool: &str, args: &[String]| {
        #[expect(clippy::disallowed_methods, reason = "calls the emulated tools as the driver's runner would")]
        let mut command = Command::new(rig.host.root().join("bin").join(tool));
        command.args(args).env_clear().stdin(Stdio::null()).output().unwrap().status.code()
    };
    // What every system has alike is not emulated.
    for row in COMMANDS.iter().filter(|row| !["chmod", "mkdir"].contains(&row.tool)) {
        // Some tools behave in another way for root, who has no reason to call them so.
        let _account = Service::enter(if row.by == By::Account { Privilege::SudoCommands } else { Privilege::Root });
        let inside = rig.host.fs().display().to_string();
        let args = row.example(&rig.site());
        let args: Vec<_> =
            args.iter().map(|a| a.replace("/private/var/fish/x", &format!("{inside}/private/var/x"))).collect();
        assert_ne!(run(row.tool, &args), Some(UNSUPPORTED), "{} {args:?}", row.tool);
        if row.arguments().next().is_some() {
            let mut more = args.clone();
            more.insert(0, "--no-such-option".to_owned());
            let code = run(row.tool, &more);
            // dscl takes the first argument for a data source.
            assert!(
                code == Some(UNSUPPORTED) || (row.tool == "dscl" && code == Some(69)),
                "{} {more:?}: {code:?}",
                row.tool
            );
        }
    }
}

/// The script for a true Mac reads the same table the same way: against the emulated one it finds no difference,
/// and finds one that is there.
#[test]
fn the_conformance_script_compares() {
    if !runnable() {
        return;
    }
    let rig = Rig::new(Privilege::Root);
    let start = rig.snapshot();
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let run = |table: &str| {
        // The shell looks for `uname` too, and there is none in the emulated tools.
        let script = "uname() { echo Darwin; }; . \"$0\"";
        #[expect(clippy::disallowed_methods, reason = "runs the script as a person would")]
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, &format!("{top}/contrib/macos-conformance.sh"), table]).stdin(Stdio::null());
        command.env("PATH", format!("{}:/usr/bin:/bin", rig.host.root().join("bin").display()));
        command.env("FAKE_ROOT", rig.host.root()).env("FISH_CONFORMANCE_ROOT", rig.host.fs());
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/golden.tsv");
    let (code, text) = run(table);
    assert!(code == Some(0) && text.contains(&format!("{} answers compared, 0 differ", rows().len())), "{text}");
    let wrong = rig.host.root().join("wrong.tsv");
    std::fs::write(&wrong, "root\t7\tx\t\tsw_vers\t-productVersion\n").unwrap();
    let (code, text) = run(wrong.to_str().unwrap());
    assert!(code == Some(1) && text.contains("exit code 0 instead of 7; other output"), "{text}");
    rig.host.change(|s| s.domains.retain(|d| *d == 0));
    common::same(&start, &rig.snapshot());
}
