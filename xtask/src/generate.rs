//! `cargo xtask gen`: pages of the reference that are made from the program itself.
//!
//! The program prints each of them, or the schema that one is made from, so what is written down is what the program
//! says.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, bail};

use crate::report::say;
use crate::run::cargo;
use crate::schema_page::{self, Section};

/// Whether the files are written or compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Write what differs.
    Write,
    /// Fail if anything differs.
    Check,
}

/// A file below `docs/src/reference`, and what the program is asked for it.
const PAGES: [(&str, [&str; 3]); 5] = [
    ("cli.md", ["man", "--markdown", "cli"]),
    ("exit-codes.md", ["man", "--markdown", "exit-codes"]),
    ("privileged-commands.md", ["man", "--markdown", "privileged-commands"]),
    ("label.schema.json", ["check", "--schema", "label"]),
    ("config.schema.json", ["check", "--schema", "config"]),
];

/// Pages made from a schema among [`PAGES`]: the file, the schema, the text before the tables, the tables.
const FROM_SCHEMAS: [(&str, &str, &str, &[Section]); 2] = [
    (
        "config.md",
        "config.schema.json",
        "# Configuration\n\nThe keys of the driver, in a file of its own or as an instance of a Fish node's configuration \
         ([where it is looked for](../guide/operating.md)). Made from [the schema](config.schema.json) by `cargo xtask \
         gen`.\n",
        &[("", "driver")],
    ),
    (
        "label.md",
        "label.schema.json",
        "# Label\n\nThe fields of a label, for [reference](../guide/labels.md). Made from [the schema](label.schema.json) by \
         `cargo xtask gen`.\n",
        &[
            ("label", "label"),
            ("definition", "definition"),
            ("options", "options"),
            ("image", "image"),
            ("resources", "resources"),
            ("disk", "disk"),
        ],
    ),
];

/// Makes all of them.
pub(crate) fn all(mode: Mode) -> anyhow::Result<()> {
    let dir = crate::root().join("docs").join("src").join("reference");
    let mut pages = BTreeMap::new();
    for (name, [a, b, c]) in PAGES {
        pages.insert(name, cargo(["run", "--quiet", "--package", "fish-native", "--", a, b, c]).output()?);
    }
    for (name, schema, text, sections) in FROM_SCHEMAS {
        let schema = pages.get(schema).with_context(|| format!("there is no {schema}"))?;
        pages.insert(name, schema_page::page(text, schema, sections)?);
    }
    let mut differ = Vec::new();
    for (name, made) in &pages {
        let path = dir.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == *made) {
            continue;
        }
        differ.push(*name);
        if mode == Mode::Write {
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
            fs::write(&path, made).with_context(|| format!("write {}", path.display()))?;
            say(&format!("wrote docs/src/reference/{name}"));
        }
    }
    if mode == Mode::Check && !differ.is_empty() {
        bail!("out of date: {}; run `cargo xtask gen` and commit what it wrote", differ.join(", "));
    }
    say(&format!("gen: {} pages: ok", pages.len()));
    Ok(())
}
