//! `cargo xtask test`: everything that CI runs, in the order in which it fails fastest.

use std::fs;

use anyhow::{Context, bail};

use crate::report::{Step, Steps, say};
use crate::run::{Run, cargo, has_subcommand};
use crate::{generate, need, target, tidy};

/// Features that nothing in the workspace turns on and that have code, lints and tests of their own.
const FEATURES: [&str; 2] = ["--features", "native-capacity/serde"];

/// A cargo command over the whole workspace.
fn workspace<'a>(command: &[&'a str], more: &[&'a str]) -> Run {
    cargo(command.iter().chain(&["--workspace", "--locked"]).chain(&FEATURES).chain(more).copied())
}

/// Runs all of it.
pub(crate) fn all() -> anyhow::Result<()> {
    need::check();
    let mut steps = Steps::new();
    steps.step("format", |_| done(cargo(["fmt", "--all", "--check"]).run()));
    steps.step("tidy", |_| done(tidy::check()));
    steps.step("lints", |_| done(workspace(&["clippy"], &["--all-targets", "--", "-D", "warnings"]).run()));
    // The black-box suite drives the program itself, so it is built before any test starts.
    steps.step("build", |_| done(workspace(&["build"], &["--all-targets"]).run()));
    steps.step("tests", tests);
    steps.step("black-box tests as a service user", as_service_user);
    steps.step("doctests", |steps| {
        let (lines, success) = workspace(&["test", "--doc"], &[]).lines(is_summary)?;
        steps.summaries.push(sum("doctests", &lines));
        if success { Ok(Step::Done) } else { bail!("doctests failed") }
    });
    steps.step("docs", |_| done(workspace(&["doc", "--no-deps"], &[]).with("RUSTDOCFLAGS", "-D warnings").run()));
    steps.step("generated files", |_| done(generate::all(generate::Mode::Check)));
    steps.step("deny", |_| {
        if has_subcommand("deny") {
            // Advisories need a database from the network; a run without one must not fail for that.
            done(cargo(["deny", "check", "bans", "licenses", "sources"]).run())
        } else {
            Ok(Step::Skipped("cargo-deny is not installed (cargo install --locked cargo-deny)".to_owned()))
        }
    });
    steps.finish()
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<Step> {
    result.map(|()| Step::Done)
}

/// All tests but doctests: with nextest where it is installed, else with cargo's own runner.
fn tests(steps: &mut Steps) -> anyhow::Result<Step> {
    let binary = target().join("debug").join("fish-native");
    let binary = binary.to_str().context("the target directory is not text")?;
    let success = if has_subcommand("nextest") {
        let run = workspace(&["nextest", "run"], &["--profile", "ci"]);
        let (mut lines, success) = run.with("FISH_NATIVE_BIN", binary).lines(is_summary)?;
        steps.summaries.append(&mut lines);
        let report = report().unwrap_or_default();
        steps.skipped.extend(said(&report, "skipped:").into_iter().map(|(test, why)| format!("{test}: {why}")));
        steps.summaries.extend(said(&report, "matrix:").into_iter().map(|(_, size)| format!("matrix: {size}")));
        success
    } else {
        say("cargo-nextest is not installed: one test binary after another (cargo install --locked cargo-nextest)");
        let run = workspace(&["test"], &["--all-targets", "--no-fail-fast", "--", "--show-output"]);
        let keep = |l: &str| is_summary(l) || is_skip(l) || l.starts_with("matrix:");
        let (lines, success) = run.with("FISH_NATIVE_BIN", binary).lines(keep)?;
        let (skips, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| is_skip(l));
        let (sizes, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| l.starts_with("matrix:"));
        steps.summaries.extend(sizes);
        steps.skipped.extend(skips.iter().map(|l| l.trim_start_matches("skipped:").trim().to_owned()));
        steps.summaries.push(sum("tests", &lines));
        success
    };
    if success { Ok(Step::Done) } else { bail!("tests failed") }
}

/// The black-box suite once more, with the program as a service user and the root helper behind sudo. What is about
/// no rights at all (`check`) or about those of this mode alone (`liar`) was run already, and so was the kill matrix.
fn as_service_user(steps: &mut Steps) -> anyhow::Result<Step> {
    const SUITES: [&str; 10] =
        ["run", "refusals", "stop", "crash", "crowd", "servers", "commands", "supervision", "neighbour", "oracle"];
    let binary = target().join("debug").join("fish-native");
    let binary = binary.to_str().context("the target directory is not text")?;
    let suites: Vec<&str> = SUITES.iter().flat_map(|suite| ["--test", suite]).collect();
    // One after another: what is installed for the service user is there once.
    let args = ["test", "--locked", "--package", "e2e"].iter().chain(&suites).copied();
    let args = args.chain(["--no-fail-fast", "--", "--test-threads=1", "--show-output"]);
    let run = cargo(args).with("FISH_NATIVE_BIN", binary).with("FISH_E2E_MODE", "helper");
    let (lines, success) = run.lines(|l| is_summary(l) || is_skip(l))?;
    let (skips, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| is_skip(l));
    let mut skips: Vec<_> = skips.iter().map(|l| l.trim_start_matches("skipped:").trim().to_owned()).collect();
    skips.dedup();
    steps.skipped.extend(skips);
    steps.summaries.push(sum("tests as a service user", &lines));
    if success { Ok(Step::Done) } else { bail!("tests failed") }
}

fn is_summary(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Summary [") || line.starts_with("test result:")
}

fn is_skip(line: &str) -> bool {
    line.trim_start().starts_with("skipped:")
}

/// The runner's report: nextest keeps what a passing test printed there alone.
fn report() -> anyhow::Result<String> {
    Ok(fs::read_to_string(target().join("nextest").join("ci").join("junit.xml"))?)
}

/// The lines of a JUnit report that begin with a word, each with its test: why one was skipped, how large a matrix was.
fn said(report: &str, word: &str) -> Vec<(String, String)> {
    let mut test = String::new();
    let mut found = Vec::new();
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("<testcase name=\"") {
            test = rest.split('"').next().unwrap_or_default().to_owned();
        }
        // The first line of a test's output follows the opening tag.
        let text = line.rsplit_once('>').filter(|(tag, _)| tag.contains("<system-")).map_or(line, |(_, text)| text);
        if let Some(rest) = text.trim().strip_prefix(word) {
            found.push((test.clone(), rest.trim().to_owned()));
        }
    }
    found
}

/// One line for many `test result:` lines of cargo's own runner.
fn sum(what: &str, lines: &[String]) -> String {
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for line in lines {
        passed += count(line, "passed");
        failed += count(line, "failed");
        ignored += count(line, "ignored");
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    format!(
        "{what}: test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; {} binaries",
        lines.len()
    )
}

/// The number before a word in a `test result:` line.
fn count(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    words
        .windows(2)
        .find(|pair| pair[1].trim_end_matches(';') == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up() {
        let lines = [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s".to_owned(),
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out".to_owned(),
        ];
        assert!(lines.iter().all(|l| is_summary(l)));
        assert_eq!(sum("tests", &lines), "tests: test result: FAILED. 7 passed; 2 failed; 1 ignored; 2 binaries");
    }

    #[test]
    fn skips_are_read_from_a_report() {
        let report = "<testcase name=\"a::b\" classname=\"e2e\">\n<system-out>\nrunning 1 test\nskipped: not root\n\
                      </system-out>\n<testcase name=\"c\">\n<system-out>skipped: no nginx\n</system-out>";
        let pair = |test: &str, why: &str| (test.to_owned(), why.to_owned());
        assert_eq!(said(report, "skipped:"), [pair("a::b", "not root"), pair("c", "no nginx")]);
        assert_eq!(said(report, "matrix:"), []);
    }
}
