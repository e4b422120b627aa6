//! The multi-call binary: the name it is called by picks the tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    fake_macos::run(std::env::args().collect())
}
