//! `cargo xtask tidy`: the house rules that no compiler checks.
//!
//! Every rule returns what breaks it, one line each; all rules run, so that one call shows everything.

mod graph;
mod shape;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::report::say;
use crate::run::cargo;

/// Checks every rule.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = crate::root();
    let metadata = cargo(["metadata", "--format-version", "1", "--all-features"]).output()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo's metadata")?;
    let deny: toml::Table = read(&root.join("deny.toml"))?.parse().context("read deny.toml")?;
    let changelog = read(&root.join("CHANGELOG.md"))?;
    let root_clippy: toml::Table = read(&root.join("clippy.toml"))?.parse().context("read clippy.toml")?;

    let mut problems = Vec::new();
    problems.extend(graph::arrows(&metadata));
    problems.extend(graph::licences(&metadata, &deny));
    problems.extend(graph::sources(&metadata));
    problems.extend(graph::bans(&metadata, &deny));
    // Alone: together with others, cargo would build it with the features that they ask for.
    let tree = ["tree", "--package", "native-helper", "--edges", "normal,no-proc-macro", "--prefix", "none"];
    problems.extend(graph::root_side(&cargo(tree).output()?));
    problems.extend(shape::changelog(&changelog));

    let files = files(&root)?;
    for file in &files {
        let name = relative(&root, file);
        match file.file_name().and_then(|n| n.to_str()) {
            Some("Cargo.toml") if name != "Cargo.toml" => problems.extend(shape::lints(&name, &read(file)?)),
            Some("clippy.toml") if name != "clippy.toml" => {
                problems.extend(shape::clippy(&name, &read(file)?, &root_clippy));
            }
            _ => {}
        }
        if name.ends_with(".rs") {
            problems.extend(shape::source(&name, &read(file)?));
        }
    }
    let pages: BTreeSet<String> = files.iter().map(|f| relative(&root, f)).collect();
    problems.extend(shape::summary(&read(&root.join("docs/src/SUMMARY.md"))?, &pages));

    for problem in &problems {
        say(problem);
    }
    if !problems.is_empty() {
        bail!("{} house rules are broken", problems.len());
    }
    say(&format!("tidy: {} files, {} crates: ok", files.len(), graph::count(&metadata)));
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned()
}

/// All files of the tree but those that cargo and git make.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                if name != "target" && name != ".git" {
                    open.push(entry.path());
                }
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}
