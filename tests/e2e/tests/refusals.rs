//! What goes wrong before a workload runs: each with its own message and exit code, nothing left, nothing half in the
//! cache.

use e2e::{Answer, Bench, Outcome, Tree, command};

const WORK: &str = "#!/bin/sh\necho ran\n";

/// Asserts the exit code of `allocate`, the error's document and words of its message, and that nothing is left.
#[track_caller]
fn refused(bench: &Bench, label: &str, code: i32, step: &str, words: &[&str]) -> Outcome {
    let out = bench.fish(&["allocate", label]).code(code);
    assert_eq!(out.stdout, "", "an error is no result");
    for word in words {
        assert!(out.stderr.to_lowercase().contains(&word.to_lowercase()), "{word:?} in:\n{}", out.stderr);
    }
    bench.assert_as_before();
    let json = bench.fish(&["allocate", label, "--json"]).code(code).json();
    assert_eq!(json["error"]["code"], code, "{json}");
    assert_eq!(json["error"]["step"], step, "{json}");
    assert!(json["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{json}");
    assert!(json["error"].as_object().is_some_and(|e| e.contains_key("hint")), "{json}");
    // `run` passes codes through, so its own failures are all one code; the document has the real one.
    let json = bench.fish(&["run", label, "--json"]).code(125).json();
    assert_eq!(json["error"]["code"], code, "{json}");
    bench.assert_as_before();
    out
}

fn cached(bench: &Bench) -> usize {
    let list = bench.fish(&["images", "list", "--json"]).code(0).json();
    list["images"].as_array().map_or(usize::MAX, Vec::len)
}

#[test]
fn a_wrong_password() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(WORK);
    let text = std::fs::read_to_string(bench.config()).expect("the configuration").replace("water", "s3cr3t-but-wrong");
    bench.write("config.yml", &text);
    let out = refused(&bench, &label, 12, "images", &["401"]);
    assert!(!out.stderr.contains("s3cr3t"), "the password is in:\n{}", out.stderr);
    assert_eq!(cached(&bench), 0);
}

#[test]
fn a_wrong_sum() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("work", &Tree::new().program("init.sh", WORK));
    let wrong = bench.source(&image, None).replace(&image.sum, &format!("sha256:{}", "0".repeat(64)));
    let label = bench.label_of(&[wrong], "{}");
    refused(&bench, &label, 12, "images", &["sha256", &"0".repeat(64)]);
    assert_eq!(cached(&bench), 0);
    // The right sum still works afterwards.
    let label = bench.label_of(&[bench.source(&image, None)], "{}");
    assert_eq!(bench.fish(&["run", &label]).code(0).stdout, "ran\n");
    bench.assert_as_before();
}

#[test]
fn an_image_that_is_not_there() {
    let Some(bench) = Bench::new() else { return };
    let url = bench.server.url("none-1.0.tar.xz");
    let label = bench.label_of(&[format!("{{url: '{url}'}}")], "{}");
    refused(&bench, &label, 12, "images", &["404", "none-1.0"]);
    assert_eq!(cached(&bench), 0);
}

#[test]
fn a_server_that_is_not_there() {
    let Some(bench) = Bench::new() else { return };
    // Port 9 is `discard`, which nobody has run for decades. It is tried again a few times, so once is enough here.
    let label = bench.label_of(&["{url: 'http://127.0.0.1:9/none-1.0.tar.xz'}".to_owned()], "{}");
    let json = bench.fish(&["allocate", &label, "--json"]).code(12).json();
    assert_eq!(json["error"]["step"], "images", "{json}");
    assert!(json["error"]["message"].as_str().is_some_and(|m| m.contains("127.0.0.1")), "{json}");
    bench.assert_as_before();
}

#[test]
fn a_truncated_archive() {
    let Some(bench) = Bench::new() else { return };
    // The archive itself ends early, and the server's length agrees with it.
    let image = bench.image("work", &Tree::new().program("init.sh", WORK).file("data", vec![7; 300_000]));
    let bytes = std::fs::read(&image.path).expect("the image");
    let short = bench.dir.path().join("short.tar.xz");
    std::fs::write(&short, &bytes[..bytes.len() / 2]).expect("write");
    bench.server.set(&image.file, Answer::File(short));
    let label = bench.label_of(&[format!("{{url: '{}'}}", bench.server.url(&image.file))], "{}");
    refused(&bench, &label, 12, "images", &["work"]);
    assert_eq!(cached(&bench), 0);
}

#[test]
fn a_missing_entry() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("work", &Tree::new().file("README", "no entry here\n"));
    let label = bench.label_of(&[bench.source(&image, None)], "{}");
    refused(&bench, &label, 2, "workload", &["init.sh"]);
}

#[test]
fn a_label_that_does_not_fit() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("work", &Tree::new().program("init.sh", WORK));
    let label = bench.label_of(&[bench.source(&image, None)], "{}");
    let text = std::fs::read_to_string(&label).expect("the label").replace("cpu: 1", "cpu: 4096");
    let label = bench.write("label.yml", &text);
    refused(&bench, &label, 11, "capacity", &["cpu"]);
    let capacity = bench.fish(&["capacity", &label, "--json"]).code(0).json();
    assert_eq!(capacity["count"], 0);
    assert_eq!(capacity["limited_by"], "cpu");
    assert_eq!(bench.server.requests(&image.file), 0, "nothing is fetched for what does not fit");
}

#[test]
fn a_node_filter_that_does_not_match() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(WORK);
    let text =
        std::fs::read_to_string(&label).expect("the label").replace("cpu: 1", "node_filter: ['OS:plan9'], cpu: 1");
    let label = bench.write("label.yml", &text);
    refused(&bench, &label, 11, "capacity", &["OS:plan9"]);
}

#[test]
fn a_tool_path_that_is_not_there() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(WORK);
    bench.configure("tar_path: /nonexistent/tar\n");
    refused(&bench, &label, 2, "config", &["tar_path", "/nonexistent/tar"]);
}

#[test]
fn a_missing_tool() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(WORK);
    // In a mount namespace of its own the program finds no mkfs.ext4; the host keeps it.
    let mut shell = command("unshare");
    let line = format!(
        "mount --bind /dev/null \"$(readlink -f /usr/sbin/mkfs.ext4)\" && exec {} allocate '{label}' --json",
        bench.line()
    );
    shell.args(["--mount", "sh", "-c", &line]).current_dir(bench.dir.path());
    let out = e2e::Running::start(shell).finish().code(10);
    let json = out.json();
    assert_eq!(json["error"]["code"], 10, "{json}");
    assert!(json["error"]["message"].as_str().is_some_and(|m| m.contains("mkfs")), "{json}");
    assert!(json["error"]["hint"].as_str().is_some_and(|h| h.contains("e2fsprogs")), "{json}");
    bench.assert_as_before();
}

#[test]
fn a_wrong_label_shows_the_place_and_the_advice() {
    let Some(bench) = Bench::new() else { return };
    let label = bench.write("label.yml", "definitions:\n  - driver: native\n    resources: {cpuu: 1, ram: 1}\n");
    let out = refused(&bench, &label, 2, "label", &["cpuu", "label.yml:3"]);
    assert!(out.stderr.contains("^"), "marked like rustc does:\n{}", out.stderr);
}
