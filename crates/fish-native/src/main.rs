//! The program: the command line for the host that it was compiled for.

use std::process::ExitCode;

fn main() -> ExitCode {
    fish_native::main(native_helper::Host::current(), std::env::args_os().skip(1).collect())
}
