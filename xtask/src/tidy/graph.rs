//! Rules about the dependency graph, from `cargo metadata`: the arrows between our crates, licences, sources, bans.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Which of our crates may use which, apart from tests. What is not here is not allowed.
const ARROWS: [(&str, &[&str]); 14] = [
    ("native-config", &[]),
    ("native-capacity", &[]),
    ("native-images", &["native-config"]),
    ("native-platform", &["native-config"]),
    ("native-platform-linux", &["native-platform", "native-config"]),
    ("native-platform-macos", &["native-platform", "native-config"]),
    ("native-platform-fake", &["native-platform", "native-config"]),
    ("native-helper", &["native-platform-linux", "native-platform-macos", "native-platform", "native-config"]),
    ("native-driver", &["native-images", "native-capacity", "native-platform", "native-config"]),
    (
        "fish-native",
        &["native-driver", "native-helper", "native-images", "native-capacity", "native-platform", "native-config"],
    ),
    ("e2e", &[]),
    ("fake-macos", &["fish-native", "native-helper", "native-platform-macos"]),
    ("soak", &["e2e", "native-driver", "native-helper", "native-config"]),
    ("xtask", &["native-driver", "native-helper", "native-images", "native-capacity", "native-config"]),
];

/// Crates that only tests use.
const TESTS_ONLY: [&str; 1] = ["native-platform-fake"];

/// Every crate that runs as root in `fish-native-helper`, ours included. A new one is looked at before it gets here.
const ROOT_SIDE: [&str; 22] = [
    "bitflags",
    "cfg-if",
    "equivalent",
    "hashbrown",
    "hex",
    "indexmap",
    "itoa",
    "libc",
    "libyaml-rs",
    "memchr",
    "native-config",
    "native-helper",
    "native-platform",
    "native-platform-linux",
    "nix",
    "ryu",
    "serde",
    "serde_core",
    "serde_json",
    "thiserror",
    "yaml_serde",
    "zmij",
];

/// The helper is built from the crates that may run as root, and from nothing else. `tree` is what `cargo tree` says of
/// it, one name and version per line.
pub(super) fn root_side(tree: &str) -> Vec<String> {
    let names: BTreeSet<&str> =
        tree.lines().filter_map(|line| line.split(' ').next()).filter(|n| !n.is_empty()).collect();
    let why = |name| format!("native-helper: {name} would run as root; see ROOT_SIDE in xtask/src/tidy/graph.rs");
    let mut problems: Vec<String> = names.iter().filter(|n| !ROOT_SIDE.contains(n)).map(why).collect();
    let gone = ROOT_SIDE.iter().filter(|n| !names.contains(*n));
    problems.extend(gone.map(|name| format!("native-helper: {name} is not used any more; take it out of ROOT_SIDE")));
    problems
}

/// Every arrow between our crates is one of the design's.
pub(super) fn arrows(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut problems = Vec::new();
    for package in ours(metadata) {
        let name = text(package, "name");
        let Some(allowed) = allowed.get(name) else {
            problems.push(format!("{name}: not in the design's crates (xtask/src/tidy/graph.rs)"));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let used = text(dependency, "name");
            let for_tests = text(dependency, "kind") == "dev";
            if !ARROWS.iter().any(|(ours, _)| *ours == used) || (for_tests && used != "fish-native") {
                continue;
            }
            if TESTS_ONLY.contains(&used) || !allowed.contains(&used) {
                problems.push(format!("{name}: may not depend on {used}"));
            }
        }
    }
    problems
}

/// Every dependency has a licence that `deny.toml` allows.
pub(super) fn licences(metadata: &Value, deny: &toml::Table) -> Vec<String> {
    let allowed = strings(deny, "licenses", "allow");
    let mut problems = Vec::new();
    for package in foreign(metadata) {
        let licence = text(package, "license");
        // A crate with a licence file only says so with an empty field: a person must look at it.
        if !permits(licence, &allowed) {
            problems.push(format!(
                "{} {}: licence {licence:?} is not allowed in deny.toml",
                text(package, "name"),
                text(package, "version")
            ));
        }
    }
    problems
}

/// Whether an SPDX expression can be satisfied with these licences: alternatives of conjunctions, in brackets or not.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    let mut words: Vec<&str> = Vec::new();
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    words.extend(spaced.split_whitespace());
    let mut at = 0;
    let answer = alternatives(&words, &mut at, allowed);
    answer && at == words.len()
}

fn alternatives(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut any = conjunction(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        any |= conjunction(words, at, allowed);
    }
    any
}

fn conjunction(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut all = licence(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        all &= licence(words, at, allowed);
    }
    all
}

fn licence(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(first) = words.get(*at) else { return false };
    *at += 1;
    if *first == "(" {
        let inner = alternatives(words, at, allowed);
        *at += 1;
        return inner;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed.contains(&format!("{first} WITH {exception}"));
    }
    allowed.contains(*first)
}

/// Every dependency comes from a registry; none from a git address.
pub(super) fn sources(metadata: &Value) -> Vec<String> {
    foreign(metadata)
        .filter(|p| !text(p, "source").starts_with("registry+"))
        .map(|p| format!("{}: comes from {}, not from a registry", text(p, "name"), text(p, "source")))
        .collect()
}

/// No crate that `deny.toml` bans is in the graph.
pub(super) fn bans(metadata: &Value, deny: &toml::Table) -> Vec<String> {
    let banned: Vec<(&str, &str)> = deny
        .get("bans")
        .and_then(|b| b.get("deny"))
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry.get("crate")?.as_str()?, entry.get("reason")?.as_str()?)))
        .collect();
    foreign(metadata)
        .filter_map(|p| banned.iter().find(|(name, _)| *name == text(p, "name")))
        .map(|(name, reason)| format!("{name}: banned in deny.toml: {reason}"))
        .collect()
}

/// How many crates are ours.
pub(super) fn count(metadata: &Value) -> usize {
    ours(metadata).count()
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    list(metadata, "packages")
}

/// Packages without a source are paths: the workspace's own.
fn ours(metadata: &Value) -> impl Iterator<Item = &Value> {
    packages(metadata).filter(|p| p["source"].is_null())
}

fn foreign(metadata: &Value) -> impl Iterator<Item = &Value> {
    packages(metadata).filter(|p| !p["source"].is_null())
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn strings(table: &toml::Table, section: &str, key: &str) -> BTreeSet<String> {
    table
        .get(section)
        .and_then(|s| s.get(key))
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn licence_expressions_are_understood() {
        let allowed: BTreeSet<String> =
            ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(str::to_owned).into();
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(permits(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH other", "(MIT OR Apache-2.0) AND GPL-2.0"] {
            assert!(!permits(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn an_arrow_upwards_is_named() {
        let metadata = json!({"packages": [
            {"name": "native-config", "source": null, "dependencies": [{"name": "native-driver", "kind": null}]},
            {"name": "native-driver", "source": null, "dependencies": [
                {"name": "native-config", "kind": null},
                {"name": "native-platform-fake", "kind": "dev"},
                {"name": "serde", "kind": null},
            ]},
            {"name": "native-images", "source": null, "dependencies": [{"name": "native-platform-fake", "kind": null}]},
            {"name": "stranger", "source": null, "dependencies": []},
        ]});
        assert_eq!(
            arrows(&metadata),
            [
                "native-config: may not depend on native-driver",
                "native-images: may not depend on native-platform-fake",
                "stranger: not in the design's crates (xtask/src/tidy/graph.rs)",
            ]
        );
    }

    #[test]
    fn what_would_run_as_root_is_named() {
        let tree: String = ROOT_SIDE.iter().map(|name| format!("{name} v1.0.0\n")).collect();
        assert!(root_side(&tree).is_empty());
        let problems = root_side(&format!("{}url v2.5.8\n", tree.replace("zmij v1.0.0\n", "")));
        assert!(problems.len() == 2 && problems[0].contains("url would run as root"), "{problems:?}");
    }

    #[test]
    fn sources_and_bans_are_named() {
        let deny: toml::Table = "[bans]\ndeny = [{ crate = \"xz2\", reason = \"use liblzma\" }]".parse().unwrap();
        let metadata = json!({"packages": [
            {"name": "xz2", "source": "registry+x"},
            {"name": "forked", "source": "git+https://example.org/forked"},
        ]});
        assert_eq!(bans(&metadata, &deny), ["xz2: banned in deny.toml: use liblzma"]);
        assert_eq!(sources(&metadata), ["forked: comes from git+https://example.org/forked, not from a registry"]);
    }
}
