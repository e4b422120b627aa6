//! One label from end to end: what the workload sees, what the caller gets, what the host has afterwards.

use e2e::{Bench, Tree, command};

/// Says everything that a test wants to know of the inside, then fills its disk and ends with 42.
const LOOK: &str = r#"#!/bin/sh
echo "user=$(id -un) uid=$(id -u) home=$HOME"
echo "cwd=$(pwd -P) home=$(cd && pwd -P)"
echo "name=$APP_NAME"
echo "nested=$OUTER_INNER"
echo "number=$COUNT"
echo "disk=$WS"
echo "which=$(cat which)"
for file in init.sh which "$WS/tool"; do echo "owner=$(stat -c '%U %n' "$file")"; done
"$WS/tool"
dd if=/dev/zero of="$WS/big" bs=1M count=4096 2>dd.err || grep -o 'No space left on device' dd.err
echo "filled=$(stat -c %s "$WS/big")"
touch /tmp/was-here /var/tmp/was-here /dev/shm/was-here
ipcmk -Q >/dev/null 2>&1
setsid sleep 600 &
(sleep 601 & sleep 602 &)
exit 42
"#;

/// The value of a `key=` line of the workload's output.
fn value<'a>(output: &'a str, key: &str) -> &'a str {
    let prefix = format!("{key}=");
    output.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {key}= in:\n{output}"))
}

#[test]
fn a_label_becomes_an_environment_and_disappears_again() {
    let Some(bench) = Bench::new() else { return };
    let base = bench.image("base", &Tree::new().program("init.sh", LOOK).file("which", "first\n"));
    let over = bench.image("over", &Tree::new().file("which", "second\n"));
    let tool = bench.image("tool", &Tree::new().program("tool", "#!/bin/sh\necho tool says hello\n"));
    let images = [bench.source(&base, None), bench.source(&over, None), bench.source(&tool, Some("ws"))];
    let metadata = r#"{OUTER: {INNER: "a 'quoted' \"value\" $HOME"}, COUNT: 1000000, WS: "{{ .Disks.ws }}"}"#;
    let label = bench.label_of(&images, metadata);

    let out = bench.fish(&["run", &label, "-m", "APP_NAME=the application", "-m", "COUNT=1"]).code(42);
    let text = &out.stdout;
    let user = value(text, "user").split(' ').next().unwrap_or_default().to_owned();
    assert!(user.len() == 11 && user.starts_with("fish-"), "{user}");
    assert!(user[5..].bytes().all(|b| b.is_ascii_lowercase()), "{user}");
    let (cwd, home) = value(text, "cwd").split_once(" home=").expect("cwd and home");
    assert_eq!(cwd, home);
    assert_eq!(value(text, "name"), "the application");
    assert_eq!(value(text, "nested"), "a 'quoted' \"value\" $HOME");
    assert_eq!(value(text, "number"), "1000000", "the label's metadata goes over the application's");
    assert!(value(text, "disk").starts_with('/'), "{text}");
    assert_eq!(value(text, "which"), "second");
    let owners: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("owner=")).collect();
    assert_eq!(owners.len(), 3, "{text}");
    assert!(owners.iter().all(|line| line.starts_with(&format!("{user} "))), "{owners:?}");
    assert!(text.contains("tool says hello"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    let filled: u64 = value(text, "filled").parse().expect("a number");
    // The file system's own share is a few per cent.
    assert!((900_000_000..=1 << 30).contains(&filled), "a disk of 1 GB held {filled} bytes");

    bench.assert_as_before();
    // Again, on what the first run left in the cache.
    bench.fish(&["run", &label, "-m", "APP_NAME=x"]).code(42);
    assert_eq!(bench.server.requests(&base.file), 1);
    bench.assert_as_before();
}

#[test]
fn the_document_of_run_has_its_keys_and_nothing_else_is_on_stdout() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\necho some output\nexit 3\n");
    let out = bench.fish(&["run", &label, "--json"]).code(3);
    let json = out.json();
    for key in ["identifier", "user", "uid", "home", "disks", "timings_ms", "exit_code", "audit"] {
        assert!(!json[key].is_null(), "{key} in {json}");
    }
    for key in ["account", "volumes", "images", "layers", "start", "total", "stop", "revert", "audit"] {
        assert!(json["timings_ms"][key].is_u64(), "timings_ms.{key} in {json}");
    }
    assert_eq!(json["exit_code"], 3);
    assert_eq!(json["audit"], serde_json::json!({"clean": true, "leaked": []}));
    assert!(json["disks"]["ws"].is_string(), "{json}");
    assert!(out.stderr.contains("some output"), "the workload's output goes to standard error: {}", out.stderr);
    bench.assert_as_before();
}

#[test]
fn a_signal_is_passed_through_as_128_plus_its_number() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\nkill -SEGV $$\n");
    bench.fish(&["run", &label]).code(139);
    bench.assert_as_before();
}

#[test]
fn variables_reach_the_workload_byte_for_byte() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\nprintf '%s' \"$VALUE\" | od -An -tx1 | tr -d ' \\n'; echo\n");
    let value = "a'b\"c\\d $(id) `id` {x}\n\ttab ünïcödé 🐟 ";
    let file = bench.write("metadata.json", &serde_json::json!({ "VALUE": value }).to_string());
    let out = bench.fish(&["run", &label, "--metadata", &file]).code(0);
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    assert_eq!(out.stdout.trim(), hex);
    bench.assert_as_before();
}

#[test]
fn a_plan_is_printed_and_nothing_is_done() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\nexit 0\n");
    let out = bench.fish(&["run", &label, "--dry-run"]).code(0);
    for word in ["account", "home", "disk ws", "work", "init.sh"] {
        assert!(out.stdout.contains(word), "{word} in:\n{}", out.stdout);
    }
    let json = bench.fish(&["run", &label, "--dry-run", "--json"]).code(0).json();
    assert!(json["steps"].as_array().is_some_and(|steps| steps.len() > 3), "{json}");
    assert_eq!(bench.server.requests("work-20260101.000000_0badcafe.tar.xz"), 0);
    bench.assert_as_before();
}

#[test]
fn the_lifetime_ends_a_workload() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label("#!/bin/sh\necho started\nexec sleep 600\n");
    let out = bench.fish(&["run", &label, "--lifetime", "1s"]);
    assert!(out.stdout.contains("started"), "{out:?}");
    assert!(out.code >= 128, "ended by a signal, not by itself: {out:?}");
    bench.assert_as_before();
}

#[test]
fn a_label_comes_from_standard_input_and_in_the_older_shape_too() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("work", &Tree::new().program("start", "#!/bin/sh\necho older\n"));
    let text = format!(
        "definition:\n  driver: native\n  options:\n    images: [{}]\n    entry: ./start\n  resources: {{cpu: 1, ram: 1}}\n",
        bench.source(&image, None)
    );
    let path = bench.write("older.yml", &text);
    let mut shell = command("sh");
    let line = format!("{} run - < '{path}'", bench.line());
    shell.args(["-c", &line]).current_dir(bench.dir.path());
    let out = e2e::Running::start(shell).finish().code(0);
    assert_eq!(out.stdout, "older\n");
    bench.assert_as_before();
}

#[test]
fn the_demo_ends_clean() {
    let Some(bench) = Bench::new() else { return };
    if bench.service().is_some() {
        // It brings its own workspace, which root's rules know nothing of.
        let out = bench.fish(&["demo"]).code(10);
        assert!(out.stderr.contains("sudo fish-native demo"), "{}", out.stderr);
        return;
    }
    let out = bench.fish(&["demo"]).code(0);
    for word in ["I am fish-", "greet says: good morning", "exit code: 0", "timings:", "clean: true"] {
        assert!(out.stdout.contains(word), "{word} in:\n{}\n{}", out.stdout, out.stderr);
    }
    bench.assert_as_before();
}
