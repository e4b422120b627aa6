//! Project chores: `cargo xtask help` lists them.
//!
//! What CI runs is `cargo xtask test`, and nothing else: whoever has the source has the whole check. It installs
//! nothing; a tool that is missing is named together with the command that installs it.

mod bench;
mod fuzz;
mod generate;
mod need;
mod report;
mod run;
mod schema_page;
mod soak;
mod test;
mod tidy;
mod vm;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

const HELP: &str = "\
cargo xtask CHORE

  test              what CI runs: format, lints, tests (also as root), doctests, docs, licences, tidy, generated files
  ci                the same
  tidy              the house rules that no compiler checks
  gen [--check]     write the generated pages of docs/src/reference, or fail if they differ
  fuzz [SECONDS]    the parsers against arbitrary input, SECONDS (60) for each
  bench WHAT        figures of this machine, as tables: allocate, deallocate, rate (as root); capacity, check, images
  soak [N]          N (2000) environments in a row with random faults, N/10 at once, a bad neighbour; as root
  vm [12] [13] [TEST...]
                    the black-box suite, or these files of it, in a booted Debian 12 and 13 with systemd, under qemu
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test" | "ci"] => test::all(),
        ["tidy"] => tidy::check(),
        ["gen"] => generate::all(generate::Mode::Write),
        ["gen", "--check"] => generate::all(generate::Mode::Check),
        ["fuzz"] => fuzz::all(60),
        ["fuzz", seconds] => seconds.parse().map_err(anyhow::Error::from).and_then(fuzz::all),
        ["bench", what, words @ ..] => bench::run(what, words),
        ["soak"] => soak::all(2000),
        ["soak", count] => count.parse().map_err(anyhow::Error::from).and_then(soak::all),
        ["vm", words @ ..] => vm::all(words),
        ["help" | "--help" | "-h"] | [] => {
            report::say(HELP.trim_end());
            Ok(())
        }
        _ => unknown(&words),
    };
    // A closed stderr is no reason to hide the failure's exit code.
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn unknown(words: &[&str]) -> anyhow::Result<()> {
    bail!("no such chore: {}\n\n{HELP}", words.join(" "))
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    // `cargo run` sets this to xtask's own directory, which is below the root.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    here.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}
