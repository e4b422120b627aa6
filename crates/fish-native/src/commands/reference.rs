//! `completions` and `man`: made from the definition of the arguments.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use native_config::Target;
use native_platform::render::render_reference;
use serde_json::json;

use crate::cli::{Cli, Page};
use crate::context::Context;
use crate::exit::{self, Exit};
use crate::failure::Failure;

/// Prints the completions for a shell.
pub(crate) fn completions(context: &Context, shell: clap_complete::Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fish-native", &mut script);
    let script = String::from_utf8_lossy(&script);
    context.printer.line(script.trim_end());
    context.printer.document(&json!({ "shell": shell.to_string(), "script": script }));
    Exit::Done.code()
}

/// Writes the manual pages, or prints one.
pub(crate) fn man(context: &Context, dir: Option<&Path>, markdown: Option<Page>) -> Result<u8, Failure> {
    if let Some(page) = markdown {
        let text = match page {
            Page::Cli => reference(),
            Page::ExitCodes => exit::markdown(),
            Page::PrivilegedCommands => commands()?,
        };
        context.printer.line(text.trim_end());
        context.printer.document(&json!({ "page": text }));
        return Ok(Exit::Done.code());
    }
    let failed = |what: String, error: std::io::Error| {
        let failure = Failure::new(Exit::NotReady, "man", what);
        Failure { causes: vec![error.to_string()], ..failure }
    };
    let mut written = Vec::new();
    if let Some(dir) = dir {
        fs::create_dir_all(dir).map_err(|e| failed(format!("make {}", dir.display()), e))?;
        clap_mangen::generate_to(Cli::command(), dir).map_err(|e| failed(format!("write to {}", dir.display()), e))?;
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        written.extend(entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "1")));
        written.sort();
        for path in &written {
            context.printer.line(path.display());
        }
    } else {
        let mut page = Vec::new();
        // Writing to memory does not fail.
        drop(clap_mangen::Man::new(Cli::command()).render(&mut page));
        context.printer.line(String::from_utf8_lossy(&page).trim_end());
    }
    context.printer.document(&json!({ "pages": written }));
    Ok(Exit::Done.code())
}

/// The page on the commands that are run on a host, of both systems.
fn commands() -> Result<String, Failure> {
    let tables = [native_helper::table(Target::Macos), native_helper::table(Target::Linux)];
    render_reference(&tables).map_err(|e| Failure::new(Exit::Bug, "man", "render the page").because_of(&e))
}

/// The reference page: every command with its help, as it is printed on a screen of 100 columns.
fn reference() -> String {
    let mut page = "# Command line\n\nMade from the program itself by `cargo xtask gen`.\n".to_owned();
    let mut root = Cli::command().term_width(100);
    root.build();
    describe(&root, "fish-native", &mut page);
    page
}

fn describe(command: &Command, name: &str, page: &mut String) {
    let help = command.clone().term_width(100).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    // A string takes every write.
    let _ = write!(page, "\n## `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim());
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        describe(sub, &format!("{name} {}", sub.get_name()), page);
    }
}
