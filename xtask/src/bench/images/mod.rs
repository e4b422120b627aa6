//! Fetching, verifying and unpacking an image: against the decoder alone, and against what a shell would do.
//!
//! Everything is measured in one run, one after the other in rounds, so that a busy machine disturbs all alike; what
//! counts are the ratios.

mod content;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::measure::{Cost, Scratch, cost, go_first, median};
use super::server;
use crate::report::say;
use crate::run::{cargo, tool};

/// Rounds that are measured, after one that warms up.
const ROUNDS: usize = 3;
/// How many bytes the scratch disk has.
const DISK: u64 = 4 << 30;

/// One archive of the image.
struct Archive {
    name: &'static str,
    file: &'static str,
    /// How it is made from the tar archive.
    packed_by: &'static str,
    /// How the shell unpacks it.
    unpacked_by: &'static str,
    /// Threads that the decoder alone is measured with: as many as ours.
    threads: &'static [u32],
}

/// The dictionary is the one of `-9`, with which Aquarium Bait packs, and the blocks are those that xz makes of it where it
/// has several threads; the search for matches is shorter, so that packing takes seconds instead of minutes. How fast a
/// file is decoded depends on that by no more than its size.
const ARCHIVES: [Archive; 3] = [
    Archive {
        name: "xz, one block",
        file: "one.tar.xz",
        packed_by: "xz -T1 --lzma2=preset=3,dict=64MiB -c",
        unpacked_by: "xz -T2 -dc",
        threads: &[1, 2],
    },
    Archive {
        name: "xz, blocks of 192 MiB",
        file: "blocks.tar.xz",
        packed_by: "xz -T2 --block-size=192MiB --lzma2=preset=3,dict=64MiB -c",
        unpacked_by: "xz -T2 -dc",
        threads: &[1, 2],
    },
    Archive {
        name: "zstd",
        file: "image.tar.zst",
        packed_by: "zstd -9 --long=27 -T2 -q -c",
        unpacked_by: "zstd --long=27 -dc",
        threads: &[1],
    },
];

const TOOLS: [(&str, &str); 4] = [("curl", "curl"), ("xz", "xz-utils"), ("zstd", "zstd"), ("tar", "tar")];

/// One row of the table.
type Figures = BTreeMap<(usize, String), Vec<Cost>>;

/// Measures everything and prints a table.
pub(crate) fn run() -> anyhow::Result<()> {
    for (name, package) in TOOLS {
        if tool(name, &["--version"]).output().is_err() {
            bail!("{name} is missing (apt-get install {package})");
        }
    }
    cargo(["build", "--quiet", "--release", "--package", "native-images", "--example", "pull"]).run()?;
    let target = target();
    let pull = target.join("release/examples/pull");
    let here = std::env::current_exe()?;
    let dir = target.join("bench-images");
    let sums = prepare(&dir)?;
    go_first();
    let url = server::start(&dir)?;
    say(&format!("on {}; {ROUNDS} rounds after one to warm up", Scratch::kind()));
    let mut figures = Figures::new();
    for round in 0..=ROUNDS {
        for (index, archive) in ARCHIVES.iter().enumerate() {
            // A disk of its own for each: they wait for their turn on the host in between.
            let scratch = Scratch::new(&target, DISK)?;
            let file = dir.join(archive.file);
            let mut measured = Vec::new();
            for threads in archive.threads {
                let count = threads.to_string();
                let alone = tool(&text(&here)?, &["bench", "images-decode", &text(&file)?, &count]);
                measured.push((format!("decoder alone, {threads}"), cost(&alone)?));
                let cache = text(&scratch.path().join("cache"))?;
                let from = format!("{url}{}", archive.file);
                let sum = format!("sha256:{}", sums[index]);
                let ours = tool(&text(&pull)?, &[&from, &cache, "--sum", &sum, "--threads", &count]);
                measured.push((format!("ours, {threads}"), cost(&ours)?));
                fs::remove_dir_all(&cache)?;
            }
            let tree = scratch.path().join("tree");
            fs::create_dir(&tree)?;
            let sum = scratch.path().join("sum");
            let script = format!(
                "set -o pipefail; curl -sSf {url}{} | tee >(sha256sum > {}) | {} | tar -x -C {}; wait",
                archive.file,
                text(&sum)?,
                archive.unpacked_by,
                text(&tree)?
            );
            measured.push(("shell".to_owned(), cost(&tool("bash", &["-c", &script]))?));
            anyhow::ensure!(fs::read_to_string(&sum)?.starts_with(&sums[index]), "the shell got something else");
            if round > 0 {
                for (name, cost) in measured {
                    figures.entry((index, name)).or_default().push(cost);
                }
            }
        }
    }
    table(&figures);
    Ok(())
}

/// `bench images-decode FILE THREADS`: the decoder alone, as the limit of what unpacking could be.
pub(crate) fn decode(words: &[&str]) -> anyhow::Result<()> {
    let [file, threads] = words else { bail!("bench images-decode FILE THREADS") };
    let threads: u32 = threads.parse()?;
    let input = BufReader::with_capacity(256 * 1024, File::open(file)?);
    let mut decoder: Box<dyn Read> = if file.ends_with(".zst") {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        decoder.window_log_max(31)?;
        Box::new(decoder)
    } else if threads == 1 {
        let stream = liblzma::stream::Stream::new_stream_decoder(u64::MAX, 0)?;
        Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
    } else {
        let mut builder = liblzma::stream::MtStreamBuilder::new();
        let stream = builder.threads(threads).memlimit_threading(u64::MAX).memlimit_stop(u64::MAX).decoder()?;
        Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
    };
    let mut buffer = vec![0; 256 * 1024];
    while decoder.read(&mut buffer)? > 0 {}
    Ok(())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), |dir| crate::root().join(dir))
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("the target directory's name is not text")?.to_owned())
}

/// Makes the archives, unless an earlier run left them, and returns their sums.
fn prepare(dir: &Path) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(dir)?;
    let plain = dir.join("image.tar");
    if !plain.exists() {
        say("making the image");
        let half = dir.join("image.tar.half");
        content::write(BufWriter::new(File::create(&half)?))?;
        fs::rename(half, &plain)?;
    }
    let bytes = |path: &Path| fs::metadata(path).map(|meta| meta.len());
    say(&format!("{} files, {} MB", content::FILES, bytes(&plain)? / 1_000_000));
    let mut sums = Vec::new();
    for archive in &ARCHIVES {
        let packed = dir.join(archive.file);
        if !packed.exists() {
            say(&format!("packing: {}; this takes a while, once", archive.packed_by));
            let half = dir.join(format!("{}.half", archive.file));
            let script = format!("{} {} > {}", archive.packed_by, text(&plain)?, text(&half)?);
            tool("sh", &["-c", &script]).output()?;
            fs::rename(half, &packed)?;
        }
        say(&format!("{}: {} MB ({})", archive.name, bytes(&packed)? / 1_000_000, archive.packed_by));
        let sum = tool("sha256sum", &[&text(&packed)?]).output()?;
        sums.push(sum.split(' ').next().unwrap_or_default().to_owned());
    }
    Ok(sums)
}

fn table(figures: &Figures) {
    say("\n| archive | what, threads | wall s | cpu s | peak MiB | of the decoder | of the shell |");
    say("|---|---|---|---|---|---|---|");
    let middle =
        |costs: &[Cost], of: fn(&Cost) -> f64| median(&costs.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0);
    for ((index, name), costs) in figures {
        // Ratios are taken round by round: what disturbs a round disturbs both.
        let ratio = |other: String| {
            let others = figures.get(&(*index, other))?;
            let ratios = costs.iter().zip(others).map(|(a, b)| a.wall.as_secs_f64() / b.wall.as_secs_f64());
            median(&ratios.collect::<Vec<_>>()).map(|ratio| format!("{ratio:.2}"))
        };
        let (mut decoder, mut shell) = (None, None);
        if let Some(threads) = name.strip_prefix("ours, ") {
            decoder = ratio(format!("decoder alone, {threads}"));
            shell = ratio("shell".to_owned());
        }
        say(&format!(
            "| {} | {name} | {:.2} | {:.2} | {:.0} | {} | {} |",
            ARCHIVES[*index].name,
            middle(costs, |cost| cost.wall.as_secs_f64()),
            middle(costs, |cost| cost.cpu.as_secs_f64()),
            middle(costs, |cost| cost.peak as f64) / f64::from(1 << 20),
            decoder.unwrap_or_default(),
            shell.unwrap_or_default(),
        ));
    }
}
