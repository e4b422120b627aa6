//! `cargo xtask gen`: pages of the reference that are made from the program itself.
//!
//! The program prints each of them, so what is written down is what the program says.

use std::fs;

use anyhow::{Context, bail};

use crate::report::say;
use crate::run::cargo;

/// Whether the files are written or compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Write what differs.
    Write,
    /// Fail if anything differs.
    Check,
}

/// A file below `docs/src/reference`, and what the program is asked for it.
const PAGES: [(&str, [&str; 3]); 4] = [
    ("cli.md", ["man", "--markdown", "cli"]),
    ("exit-codes.md", ["man", "--markdown", "exit-codes"]),
    ("label.schema.json", ["check", "--schema", "label"]),
    ("config.schema.json", ["check", "--schema", "config"]),
];

/// Makes all of them.
pub(crate) fn all(mode: Mode) -> anyhow::Result<()> {
    let dir = crate::root().join("docs").join("src").join("reference");
    let mut differ = Vec::new();
    for (name, [a, b, c]) in PAGES {
        let made = cargo(["run", "--quiet", "--package", "fish-native", "--", a, b, c]).output()?;
        let path = dir.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == made) {
            continue;
        }
        differ.push(name);
        if mode == Mode::Write {
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
            fs::write(&path, made).with_context(|| format!("write {}", path.display()))?;
            say(&format!("wrote docs/src/reference/{name}"));
        }
    }
    if mode == Mode::Check && !differ.is_empty() {
        bail!("out of date: {}; run `cargo xtask gen` and commit what it wrote", differ.join(", "));
    }
    say(&format!("gen: {} pages: ok", PAGES.len()));
    Ok(())
}
