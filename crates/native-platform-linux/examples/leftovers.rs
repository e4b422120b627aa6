//! Prints the reference page of what can be left on a host.

use std::io::Write;

fn main() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    std::io::stdout().write_all(native_platform_linux::leftovers::render().as_bytes())?;
    std::io::stdout().flush()
}
