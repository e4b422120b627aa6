//! What `check` prints for people, word for word. The texts beside the files were read by eye; after a change that is
//! meant, `FISH_UPDATE_FIXTURES=1 cargo test -p e2e --test check` writes them anew, to be read again.

use std::fs;
use std::path::PathBuf;

use e2e::{Running, binary, command};

/// The file as `check` renders it, and the exit code.
#[track_caller]
fn renders(name: &str, code: i32) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/check");
    let mut check = command(binary());
    check.args(["check", &format!("{name}.yml")]).current_dir(&dir).env("NO_COLOR", "1");
    let out = Running::start(check).finish().code(code);
    // Problems are on standard error, the verdict is the result.
    let said = format!("{}{}", out.stderr, out.stdout);
    let expected = dir.join(format!("{name}.txt"));
    if std::env::var_os("FISH_UPDATE_FIXTURES").is_some() {
        fs::write(&expected, &said).expect("write the fixture");
    }
    assert_eq!(said, fs::read_to_string(&expected).expect("read the fixture"), "{}", expected.display());
}

#[test]
fn a_label_with_every_common_mistake() {
    renders("label", 2);
}

#[test]
fn a_config_with_every_common_mistake() {
    renders("config", 2);
}

#[test]
fn a_label_that_is_valid_with_warnings() {
    renders("warnings", 0);
}

#[test]
fn a_file_that_is_not_there_hides_nothing_of_the_others() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/check");
    let mut check = command(binary());
    check.args(["check", "--json", "none.yml", "config.yml"]).current_dir(&dir);
    let json = Running::start(check).finish().code(2).json();
    assert_eq!(json["valid"], false);
    let problems = json["problems"].as_array().expect("a list");
    assert!(problems[0]["message"].as_str().is_some_and(|m| m.contains("could not read none.yml")), "{json}");
    assert!(problems[1..].iter().all(|p| p["file"] == "config.yml") && problems.len() > 1, "{json}");
}
