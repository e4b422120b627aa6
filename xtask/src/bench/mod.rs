//! `cargo xtask bench`: figures, taken on this machine in one run.
//!
//! Chores are compiled without optimisation; a bench starts itself again with it. Benches that make environments run
//! as root in a mount namespace of their own, on a journaled ext4 in a file: neither the user database nor the disks of
//! the machine take part, and nothing is left when the bench is killed.
//!
//! | module | measures |
//! | --- | --- |
//! | `allocate` `deallocate` | one environment, beside the Go driver's steps |
//! | `rate` | many at once, and the memory of each process |
//! | `capacity` | answers per second |
//! | `images` | fetching, verifying and unpacking, beside the decoder and a shell |
//! | `measure` `server` `scratch` `node` `steps` `table` | what they share |

mod allocate;
mod capacity;
mod deallocate;
mod images;
mod measure;
mod node;
mod rate;
mod scratch;
mod server;
mod steps;
mod table;

use anyhow::{Context, bail};

use crate::run::{cargo, tool};

/// What the second start of a bench is called with: its name and this.
const HERE: &str = "-here";

/// Runs one bench.
pub(crate) fn run(what: &str, words: &[&str]) -> anyhow::Result<()> {
    match what {
        "allocate" | "deallocate" | "rate" => again_on_scratch(what),
        "capacity" | "check" | "images" => again(what),
        "allocate-here" => allocate::run(),
        "deallocate-here" => deallocate::run(),
        "rate-here" => rate::run(),
        "capacity-here" => capacity::run(),
        "check-here" => capacity::check(),
        "images-here" => images::run(),
        "images-decode" => images::decode(words),
        _ => bail!("no such bench: {what}; there are allocate, deallocate, rate, capacity, check and images"),
    }
}

/// The same bench, compiled as it is shipped.
fn again(what: &str) -> anyhow::Result<()> {
    build()?;
    tool(&optimised("xtask")?, &["bench", &format!("{what}{HERE}")]).run()
}

/// The same in a mount namespace of its own.
fn again_on_scratch(what: &str) -> anyhow::Result<()> {
    build()?;
    let own = optimised("xtask")?;
    tool("unshare", &["--mount", "--propagation", "private", &own, "bench", &format!("{what}{HERE}")]).run()
}

fn build() -> anyhow::Result<()> {
    let packages = ["--package", "xtask", "--package", "fish-native", "--package", "native-helper"];
    let [a, b, c, d, e, f] = packages;
    cargo(["build", "--quiet", "--release", "--locked", a, b, c, d, e, f]).run()
}

/// A program of this workspace as it is shipped.
fn optimised(name: &str) -> anyhow::Result<String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), std::path::PathBuf::from);
    let path = crate::root().join(target).join("release").join(name);
    path.canonicalize()?.to_str().map(str::to_owned).context("the target directory is not text")
}
