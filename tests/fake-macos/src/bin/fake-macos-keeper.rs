//! The keeper as the real binary carries it in a hidden entry, by itself, so that tests need no command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    native_platform_macos::keeper::main(std::env::args().nth(1).as_deref().unwrap_or_default())
}
