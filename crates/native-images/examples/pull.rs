//! Pulls one image: `pull URL DIR [--sum ALGO:HEX] [--name NAME] [--version VERSION] [--threads N] [--origin ORIGIN] [--user USER:PASSWORD]
//! [--ca FILE]`. Prints one JSON document: what came, how long it took, how much memory it needed. Benchmarks and
//! tests use it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::process::ExitCode;
use std::time::Instant;

use native_images::{Credentials, Event, Events, ImageRef, Images, Layout, Policy};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("pull: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprint!(": {error}");
                source = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (mut places, mut policy) = (Vec::new(), Policy::default());
    let (mut sum, mut name, mut version, mut wait) = (None, "image".to_owned(), "1".to_owned(), false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--sum" => sum = Some(value()?.parse()?),
            "--name" => name = value()?,
            "--version" => version = value()?,
            "--threads" => policy.threads = value()?.parse()?,
            "--decoder-memory" => policy.limits.decoder_memory = value()?.parse()?,
            "--origin" => policy.origins.push(value()?.parse()?),
            "--ca" => policy.extra_ca.push(std::fs::read(value()?)?),
            "--user" => {
                let value = value()?;
                let (user, password) = value.split_once(':').ok_or("--user USER:PASSWORD")?;
                policy.credentials = Some(Credentials { user: user.to_owned(), password: password.to_owned().into() });
            }
            "--wait-for-end" => wait = true,
            _ => places.push(word),
        }
    }
    let [url, dir] = &places[..] else { return Err("pull URL DIR [--sum ALGO:HEX] [--threads N] ...".into()) };
    let image = ImageRef { url: url.parse()?, sum, name, version, layout: Layout::Auto };
    let events = if std::env::var_os("PULL_EVENTS").is_some() {
        Events::new(|event: Event| eprintln!("{event:?}"))
    } else {
        Events::none()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let started = Instant::now();
    let handle = runtime.block_on(async {
        let images = Images::open(dir.as_ref(), policy)?;
        Ok::<_, Box<dyn std::error::Error>>(images.ensure(&image, &events).await?)
    })?;
    let report = serde_json::json!({
        "name": handle.name(),
        "version": handle.version(),
        "digest": handle.digest(),
        "path": handle.path(),
        "bytes": handle.bytes(),
        "from_cache": handle.from_cache(),
        "seconds": started.elapsed().as_secs_f64(),
        "peak_rss_bytes": peak_rss(),
        "layers": handle.layers(),
    });
    println!("{report}");
    if wait {
        // Holds the image until its caller closes the pipe.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    }
    Ok(())
}

/// The most memory this process had at once, where the system says so.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
