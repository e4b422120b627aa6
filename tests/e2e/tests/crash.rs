//! kill -9 of the program, at any moment: a new process finds what there is and removes it.

use e2e::{Answer, Bench, Tree, until};
use rustix::process::Signal;

const COUNT: &str = "#!/bin/sh\nn=0\nwhile [ ! -e stop ]; do echo line $((n += 1)); sleep 0.05; done\nexit 5\n";

#[test]
fn an_allocated_environment_outlives_the_process_that_made_it() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(COUNT);
    let out = bench.fish(&["allocate", &label]).code(0);
    let id = out.stdout.trim().to_owned();
    assert!(id.len() == 11 && id.starts_with("fish-"), "{out:?}");

    let status = bench.fish(&["status", &id, "--json"]).code(0).json();
    assert_eq!(status["identifier"], id.as_str());
    assert_eq!(status["status"], "ALLOCATED");
    assert!(["overlay", "copy"].iter().any(|way| status["layers"]["home"] == *way), "{status:#}");
    assert_eq!(status["running"], true);
    assert_eq!(status["exit_code"], serde_json::Value::Null);
    for key in ["cpu_seconds", "memory_bytes", "disk_bytes"] {
        assert!(status["usage"][key].is_number(), "usage.{key} in {status}");
    }
    let list = bench.fish(&["list", "--json"]).code(0).json();
    assert_eq!(list["environments"][0]["identifier"], id.as_str());

    until("the workload's third line", || bench.fish(&["logs", &id]).code(0).stdout.contains("line 3\n").then_some(()));
    let inside =
        bench.fish(&["exec", &id, "--", "sh", "-c", "id -un; echo to stderr >&2; touch ~/stop; exit 7"]).code(7);
    assert_eq!(inside.stdout.trim(), id);
    assert!(inside.stderr.contains("to stderr"), "{inside:?}");

    // `--follow` ends when the workload ends.
    let followed = bench.fish(&["logs", &id, "--follow"]).code(0);
    assert!(followed.stdout.starts_with("line 1\nline 2\n"), "{followed:?}");
    let ended = until("the end of the workload", || {
        let status = bench.fish(&["status", &id, "--json"]).code(0).json();
        (status["running"] == false).then_some(status)
    });
    assert_eq!(ended["exit_code"], 5);
    assert_eq!(ended["status"], "ALLOCATED", "ended is not gone");

    bench.fish(&["deallocate", &id]).code(0);
    bench.fish(&["deallocate", &id]).code(15);
    let status = bench.fish(&["status", &id, "--json"]).code(15).json();
    assert_eq!(status["status"], "NONE");
    bench.assert_as_before();
}

#[test]
fn run_is_killed_while_the_workload_runs() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(COUNT);
    let mut run = bench.start(&["run", &label]);
    assert!(run.prints("line 2\n"), "{:?}", run.finish());
    run.signal(Signal::KILL);
    run.finish().code(137);

    let ids = bench.environments();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = &ids[0];
    assert_eq!(bench.fish(&["status", id, "--json"]).code(0).json()["running"], true);
    // It goes on, and what it prints is kept.
    let lines = |text: &str| text.lines().count();
    let before = lines(&bench.fish(&["logs", id]).code(0).stdout);
    until("more lines", || (lines(&bench.fish(&["logs", id]).code(0).stdout) > before).then_some(()));
    bench.fish(&["deallocate", id]).code(0);
    bench.assert_as_before();
}

/// Kills `allocate` when it says that a phase begins; whatever it left, a new process removes.
#[track_caller]
fn killed_in(phase: &str) {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(COUNT);
    let mut run = bench.start(&["allocate", &label, "--log-format", "json"]);
    assert!(run.says(&format!("{{\"started\":\"{phase}\"}}")), "no phase {phase}: {:?}", run.finish());
    run.signal(Signal::KILL);
    run.finish().code(137);
    bench.fish(&["deallocate", "--all"]).code(0);
    assert_eq!(bench.environments(), [""; 0]);
    // And the workspace still works.
    let label = bench.label("#!/bin/sh\necho fine\n");
    assert_eq!(bench.fish(&["run", &label]).code(0).stdout, "fine\n");
    bench.assert_as_before_but_for_downloads();
}

#[test]
fn allocate_is_killed_while_the_account_is_made() {
    killed_in("account");
}

#[test]
fn allocate_is_killed_while_the_volumes_are_made() {
    killed_in("volumes");
}

#[test]
fn allocate_is_killed_while_the_layers_are_placed() {
    killed_in("layers");
}

#[test]
fn allocate_is_killed_while_the_workload_starts() {
    killed_in("start");
}

#[test]
fn allocate_is_killed_in_the_middle_of_a_download() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("work", &Tree::new().program("init.sh", COUNT).file("data", vec![1; 3_000_000]));
    bench.server.set(&image.file, Answer::Stall(image.path.clone(), image.size() / 2));
    let label = bench.label_of(&[bench.source(&image, None)], "{}");
    let mut run = bench.start(&["allocate", &label, "--log-format", "json"]);
    until("the request", || (bench.server.requests(&image.file) > 0).then_some(()));
    run.signal(Signal::KILL);
    run.finish().code(137);
    bench.server.set(&image.file, Answer::File(image.path.clone()));
    bench.fish(&["deallocate", "--all"]).code(0);
    bench.fish(&["run", &label, "--lifetime", "1s"]);
    bench.assert_as_before();
}

#[test]
fn a_workspace_with_several_environments_is_emptied_at_once() {
    let Some(bench) = Bench::new() else { return };
    bench.configure("cpu_alter: 16\nram_alter: 32\n");
    let label = bench.label(COUNT);
    let mut ids: Vec<String> =
        (0..3).map(|_| bench.fish(&["allocate", &label]).code(0).stdout.trim().to_owned()).collect();
    ids.sort();
    let mut listed = bench.environments();
    listed.sort();
    assert_eq!(listed, ids);
    let json = bench.fish(&["deallocate", "--all", "--json"]).code(0).json();
    assert_eq!(json["environments"].as_array().map(Vec::len), Some(3), "{json}");
    bench.assert_as_before();
}

#[test]
fn what_ran_before_a_reboot_does_not_run_and_is_removed() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(COUNT);
    let id = bench.fish(&["allocate", &label]).code(0).stdout.trim().to_owned();
    // The ids and start times in its record are those of living processes: another boot's may well be.
    let status = bench.after_a_reboot(&["status", &id, "--json"]).code(0).json();
    assert_eq!((&status["status"], &status["running"]), (&"ALLOCATED".into(), &false.into()), "{status}");
    bench.after_a_reboot(&["deallocate", &id]).code(0);
    bench.assert_as_before();
}
