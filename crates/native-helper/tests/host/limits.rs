//! Limits, as the kernel has them and as a workload meets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use native_config::LimitsMode;
use native_platform::{LayersStep, Limits, Step, VolumeName, WorkloadStep};

use crate::common::{Bench, account, shell, sized, volume, workload};

/// Starts a script with these limits and waits for its end.
fn run(bench: &Bench, limits: Limits, script: &str) -> native_platform::Exit {
    let layers = vec![bench.layer("base", &[("init.sh", script)])];
    let mut session = bench.session();
    for step in [
        account(),
        volume(VolumeName::Home, sized(64)),
        volume(VolumeName::Temp, sized(32)),
        Step::Layers(LayersStep { volume: VolumeName::Home, layers }),
        Step::Workload(WorkloadStep { limits, ..workload("./init.sh") }),
    ] {
        session.execute(&step).unwrap();
    }
    let seen = session.wait(Duration::from_secs(60)).unwrap();
    session.finish().unwrap();
    seen.exit.unwrap()
}

/// A limit's value, from whichever tree has its controller: the file of v2, or that of v1.
fn value(bench: &Bench, v2: &str, v1: &str) -> Option<String> {
    let trees = shell("awk '$3 == \"cgroup\" || $3 == \"cgroup2\" {print $2}' /proc/mounts");
    let dirs = trees.lines().map(|tree| PathBuf::from(tree).join("fish-native").join(bench.scope.id.as_ref()));
    let read = |path: PathBuf| fs::read_to_string(path).ok();
    dirs.flat_map(|dir| [read(dir.join("work").join(v2)), read(dir.join(v1))])
        .flatten()
        .map(|text| text.trim().to_owned())
        .next()
}

fn limits(mode: LimitsMode) -> Limits {
    Limits { mode, ..workload("x").limits }
}

#[test]
fn hard_limits_hold() {
    let Some(bench) = Bench::new("fish-limita") else { return };
    let script = "#!/bin/bash\nulimit -n\n\
        n=0; for i in $(seq 200); do sleep 30 & done 2>err; grep -c . err >/dev/null && echo few; jobs -p | wc -l\nkill $(jobs -p)\n";
    let exit = run(&bench, limits(LimitsMode::Hard), script);
    let log = bench.log();
    assert!(log.starts_with("1024\n"), "{log} {exit:?}");
    // As many as fit, and not one more: the shell gives up, or goes on without them.
    let started: u32 = log.lines().filter_map(|l| l.parse().ok()).nth(1).unwrap_or(0);
    assert!(started < 64, "{log}");
    assert_eq!(value(&bench, "pids.max", "pids.max").as_deref(), Some("64"));
    assert_eq!(value(&bench, "memory.max", "memory.limit_in_bytes").as_deref(), Some("268435456"));
    let quota = value(&bench, "cpu.max", "cpu.cfs_quota_us").unwrap();
    assert!(quota == "100000 100000" || quota == "100000", "{quota}");
}

#[test]
fn a_shared_cpu_is_a_weight() {
    let Some(bench) = Bench::new("fish-limitb") else { return };
    let limits = Limits { cpu: 3, cpu_shared: true, ..limits(LimitsMode::Hard) };
    run(&bench, limits, "#!/bin/sh\nexit 0\n");
    let quota = value(&bench, "cpu.max", "cpu.cfs_quota_us").unwrap();
    assert!(quota.starts_with("max") || quota == "-1", "{quota}");
    let weight = value(&bench, "cpu.weight", "cpu.shares").unwrap();
    assert!(weight == "300" || weight == "3072", "{weight}");
}

#[test]
fn soft_limits_are_no_ceilings_and_off_sets_none() {
    for (id, mode) in [("fish-limitc", LimitsMode::Soft), ("fish-limitd", LimitsMode::Off)] {
        let Some(bench) = Bench::new(id) else { return };
        let exit = run(&bench, limits(mode), "#!/bin/sh\nhead -c 300000000 /dev/zero | tail >/dev/null && echo fine\n");
        assert!(exit.code == 0 && !exit.out_of_memory && bench.log() == "fine\n", "{mode:?}: {exit:?} {}", bench.log());
        let pids = value(&bench, "pids.max", "pids.max").unwrap();
        assert_eq!(pids, if mode == LimitsMode::Off { "max" } else { "64" }, "{mode:?}");
        let quota = value(&bench, "cpu.max", "cpu.cfs_quota_us").unwrap();
        assert!(quota.starts_with("max") || quota == "-1", "{mode:?}: {quota}");
    }
}

#[test]
fn memory_beyond_the_limit_is_told() {
    let Some(bench) = Bench::new("fish-limite") else { return };
    let exit =
        run(&bench, limits(LimitsMode::Hard), "#!/bin/sh\nhead -c 600000000 /dev/zero | tail >/dev/null\nexit 5\n");
    // With v1 the kernel kills one process, with v2 all of them.
    assert!(exit.out_of_memory && (exit.code == 5 || exit.signal == Some(9)), "{exit:?}");
}

#[test]
fn a_set_uid_program_works_only_where_it_is_allowed() {
    for (id, allow) in [("fish-limitf", false), ("fish-limitg", true)] {
        let Some(bench) = Bench::new(id) else { return };
        if !Path::new("/usr/bin/sudo").exists() {
            println!("skipped: no sudo (apt-get install sudo)");
            return;
        }
        let rule = format!("/etc/sudoers.d/{id}");
        fs::write(&rule, format!("{id} ALL=(root) NOPASSWD: /usr/bin/id -u\n")).unwrap();
        shell(&format!("chmod 440 {rule}"));
        let _undo = crate::common::Undo(format!("rm {rule}"));
        let layers =
            vec![bench.layer("base", &[("init.sh", "#!/bin/sh\nsudo -n id -u || exit 9\ntouch /etc/x || exit 8\n")])];
        let mut session = bench.session();
        for step in [
            account(),
            volume(VolumeName::Home, sized(64)),
            volume(VolumeName::Temp, sized(32)),
            Step::Layers(LayersStep { volume: VolumeName::Home, layers }),
            Step::Workload(WorkloadStep { allow_setuid: allow, ..workload("./init.sh") }),
        ] {
            session.execute(&step).unwrap();
        }
        let exit = session.wait(Duration::from_secs(60)).unwrap().exit.unwrap();
        session.finish().unwrap();
        // Root inside: and the host is read-only all the same.
        let expected = if allow { (8, true) } else { (9, false) };
        assert_eq!((exit.code, bench.log().starts_with("0\n")), expected, "{}", bench.log());
    }
}
