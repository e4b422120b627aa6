//! Rules about single files: module docs, lengths, lints tables, where processes are started, the changelog's form.

use std::collections::BTreeSet;

/// The longest that a source file may be.
const LONGEST: usize = 600;

/// Where a process may be started, and why. Elsewhere a `Runner` does it.
const STARTS_PROCESSES: [(&str, &str); 5] = [
    ("crates/native-platform/src/runner.rs", "the runner"),
    ("crates/native-platform-linux/src/", "the keeper starts the workload"),
    ("crates/native-platform-macos/src/keeper/", "the keeper starts the workload"),
    ("xtask/src/run.rs", "chores run cargo"),
    ("tests/", "tests drive programs from outside"),
];

/// What may read the wall clock, which jumps: no process is started here.
const READS_THE_CLOCK: [&str; 6] = [
    "crates/native-driver/src/allocate.rs",
    "crates/native-images/src/cache/",
    "crates/native-images/src/pack.rs",
    "crates/native-images/src/transport/headers.rs",
    "crates/native-platform-macos/src/job.rs",
    "tests/fake-macos/src/host.rs",
];

/// A source file: starts with its purpose, is not too long, starts no process and reads no clock where it may not.
pub(super) fn source(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!("{name}:1: must start with `//!`: what this file is for"));
    }
    let lines = text.lines().count();
    if lines > LONGEST {
        problems.push(format!("{name}: {lines} lines; split it (at most {LONGEST})"));
    }
    // The lint finds each `Command::new`; this finds each place where the lint is silenced.
    let silenced = concat!("clippy::", "disallowed_methods");
    let is_test = name.contains("/tests/") && name.starts_with("crates/");
    let may_start = STARTS_PROCESSES.iter().any(|(place, _)| name.starts_with(place));
    let may_read = READS_THE_CLOCK.iter().any(|place| name.starts_with(place)) && !text.contains("Command::new");
    if text.contains(silenced) && !is_test && !may_start && !may_read {
        problems.push(format!("{name}: silences {silenced}; only these may: {}", places()));
    }
    problems
}

fn places() -> String {
    STARTS_PROCESSES.map(|(place, why)| format!("{place} ({why})")).join(", ")
}

/// A crate's manifest: takes the workspace's lints.
pub(super) fn lints(name: &str, text: &str) -> Vec<String> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return vec![format!("{name}: {error}")],
    };
    let inherits = table.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
    if inherits == Some(true) { Vec::new() } else { vec![format!("{name}: needs `[lints] workspace = true`")] }
}

/// A crate's own `clippy.toml` replaces the root's: it must repeat what the root bans.
pub(super) fn clippy(name: &str, text: &str, root: &toml::Table) -> Vec<String> {
    let own: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return vec![format!("{name}: {error}")],
    };
    let mut problems = Vec::new();
    for key in ["disallowed-methods", "disallowed-types"] {
        let here = banned(&own, key);
        for path in banned(root, key).difference(&here) {
            problems.push(format!("{name}: must repeat the root's ban of {path}"));
        }
    }
    problems
}

fn banned(table: &toml::Table, key: &str) -> BTreeSet<String> {
    table
        .get(key)
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("path").unwrap_or(entry).as_str().map(str::to_owned))
        .collect()
}

/// The changelog has the form of keepachangelog.com: `[Unreleased]` first, then versions with dates, known sections.
pub(super) fn changelog(text: &str) -> Vec<String> {
    const SECTIONS: [&str; 6] = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let mut problems = Vec::new();
    if !text.starts_with("# Changelog\n") {
        problems.push("CHANGELOG.md:1: must start with `# Changelog`".to_owned());
    }
    let versions: Vec<(usize, &str)> =
        text.lines().enumerate().filter_map(|(n, l)| Some((n + 1, l.strip_prefix("## ")?))).collect();
    if versions.first().is_none_or(|(_, title)| *title != "[Unreleased]") {
        problems.push("CHANGELOG.md: the first version must be `## [Unreleased]`".to_owned());
    }
    for (line, title) in versions.iter().skip(1) {
        let form = title.strip_prefix('[').and_then(|t| t.split_once("] - ")).is_some_and(|(version, date)| {
            version.split('.').count() == 3
                && version.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                && date.len() == 10
                && date.split('-').map(str::len).eq([4, 2, 2])
                && date.bytes().all(|b| b.is_ascii_digit() || b == b'-')
        });
        if !form {
            problems.push(format!("CHANGELOG.md:{line}: must be `## [1.2.3] - 2026-01-31`"));
        }
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(section) = line.strip_prefix("### ").filter(|s| !SECTIONS.contains(s)) {
            problems.push(format!("CHANGELOG.md:{}: no such section: {section}", number + 1));
        }
    }
    problems
}

/// The book's contents name every page, and no page that is not there.
pub(super) fn summary(text: &str, files: &BTreeSet<String>) -> Vec<String> {
    let mut named = BTreeSet::new();
    for rest in text.split("](").skip(1) {
        let target = rest.split(')').next().unwrap_or_default();
        if target.is_empty() || target.contains("://") {
            continue;
        }
        named.insert(resolve("docs/src", target));
    }
    let mut problems: Vec<String> = named
        .iter()
        .filter(|page| !files.contains(*page))
        .map(|page| format!("docs/src/SUMMARY.md: {page} is not there"))
        .collect();
    for page in files {
        let in_book = page.starts_with("docs/src/") && page.ends_with(".md") && page != "docs/src/SUMMARY.md";
        if in_book && !named.contains(page) {
            problems.push(format!("{page}: not in docs/src/SUMMARY.md"));
        }
    }
    problems
}

/// A link's target, from the tree's root.
fn resolve(base: &str, target: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').collect();
    for part in target.trim_start_matches("./").split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_file_says_what_it_is_for() {
        assert!(source("a.rs", "//! Purpose.\nfn a() {}\n").is_empty());
        assert_eq!(source("a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(source("a.rs", &format!("//! Long.\n{}", "\n".repeat(600))).len(), 1);
    }

    #[test]
    fn processes_are_started_and_the_clock_is_read_in_few_places() {
        let text = concat!("//! x\n#[expect(clippy::", "disallowed_methods, reason = \"y\")]\n");
        assert_eq!(source("crates/native-driver/src/lib.rs", text).len(), 1);
        assert!(source("crates/native-platform/src/runner.rs", text).is_empty());
        assert!(source("crates/native-images/tests/servers.rs", text).is_empty());
        assert!(source("crates/native-images/src/pack.rs", text).is_empty());
        let both = format!("{text}{}", concat!("Command::", "new(\"sh\")"));
        assert_eq!(source("crates/native-images/src/pack.rs", &both).len(), 1);
    }

    #[test]
    fn a_crate_takes_the_lints_and_repeats_the_bans() {
        assert!(lints("c/Cargo.toml", "[lints]\nworkspace = true\n").is_empty());
        assert_eq!(lints("c/Cargo.toml", "[package]\nname = \"c\"\n").len(), 1);
        let root = "disallowed-methods = [{ path = \"a::b\", reason = \"c\" }, \"d::e\"]".parse().unwrap();
        assert!(clippy("c", "disallowed-methods = [\"a::b\", \"d::e\", \"f::g\"]", &root).is_empty());
        assert_eq!(clippy("c", "disallowed-methods = [\"a::b\"]", &root), ["c: must repeat the root's ban of d::e"]);
    }

    #[test]
    fn the_changelog_has_its_form() {
        let good = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- x\n\n## [0.1.0] - 2026-11-23\n\n### Fixed\n";
        assert_eq!(changelog(good), [""; 0]);
        assert_eq!(changelog(&good.replace("2026-11-23", "soon")).len(), 1);
        assert_eq!(changelog(&good.replace("Fixed", "Mended")).len(), 1);
        assert_eq!(changelog(&good.replace("[Unreleased]", "[0.2.0]")).len(), 1);
    }

    #[test]
    fn the_book_names_all_its_pages() {
        let files: BTreeSet<String> =
            ["docs/src/a.md", "docs/src/ref/b.md", "docs/adr/0001.md"].map(str::to_owned).into();
        assert!(summary("- [A](a.md)\n- [B](ref/b.md)\n- [C](../adr/0001.md)", &files).is_empty());
        assert_eq!(summary("- [A](a.md)\n- [N](none.md)", &files).len(), 2);
    }
}
