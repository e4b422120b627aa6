//! `images`: the cache, and making images.

use std::fs;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use native_config::DriverConfig;
use native_images::{Checksum, Event, Events, ImageHandle, ImageRef, Images, Layout, PackOptions, PruneOptions};
use serde_json::{Value, json};
use url::Url;

use crate::cli::{ImagesCommand, SourceArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::load;

/// Does what was asked for with images.
pub(crate) async fn images(context: &Context, command: &ImagesCommand) -> Result<u8, Failure> {
    match command {
        ImagesCommand::Pull(source) => pull(context, source).await,
        ImagesCommand::List => list(context).await,
        ImagesCommand::Verify { name } => verify(context, name.as_deref()).await,
        ImagesCommand::Prune { dry_run } => prune(context, *dry_run).await,
        ImagesCommand::Pack { dir, name, out } => pack(context, dir, name, out),
        ImagesCommand::Unpack { source, dir } => unpack(context, source, dir).await,
    }
}

/// Fetches images into the cache.
async fn pull(context: &Context, source: &SourceArgs) -> Result<u8, Failure> {
    let mut pulled: Vec<Value> = Vec::new();
    for handle in fetch(context, source).await? {
        let how = if handle.from_cache() { "from the cache" } else { "fetched" };
        context.printer.line(format_args!(
            "{}-{} {} {}, {how}",
            handle.name(),
            handle.version(),
            handle.digest(),
            HumanBytes(handle.bytes())
        ));
        pulled.push(json!({
            "name": handle.name(),
            "version": handle.version(),
            "digest": handle.digest(),
            "path": handle.path(),
            "bytes": handle.bytes(),
            "from_cache": handle.from_cache(),
            "seconds": handle.elapsed().as_secs_f64(),
        }));
    }
    // One address is one document; a label is a list, also of one.
    match pulled.as_slice() {
        [one] if is_address(&source.source) => context.printer.document(one),
        _ => context.printer.document(&json!({ "images": pulled })),
    }
    Ok(Exit::Done.code())
}

/// What is in the cache.
async fn list(context: &Context) -> Result<u8, Failure> {
    let (images, _) = cache(context)?;
    let list = images.list().await.map_err(|e| cache_failure("list the cache", &e))?;
    if list.is_empty() {
        context.printer.note(format_args!("no images in {}", images.dir().display()));
    } else if !context.printer.is_json() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["name", "version", "size", "unpacked", "in use", "digest"]);
        for i in &list {
            table.add_row([
                i.name.clone(),
                i.version.clone(),
                HumanBytes(i.bytes).to_string(),
                HumanBytes(i.unpacked).to_string(),
                if i.in_use { "yes" } else { "no" }.to_owned(),
                i.digest.chars().take("sha256:".len() + 12).collect(),
            ]);
        }
        context.printer.line(table.trim_fmt());
    }
    context.printer.document(&json!({ "path": images.dir(), "images": list }));
    Ok(Exit::Done.code())
}

/// Compares cached trees with what was unpacked.
async fn verify(context: &Context, name: Option<&str>) -> Result<u8, Failure> {
    let (images, _) = cache(context)?;
    let reports = images.verify(name).await.map_err(|e| cache_failure("verify the cache", &e))?;
    let ok = reports.iter().all(|r| r.problems.is_empty());
    for report in &reports {
        let id = format!("{}-{}", report.name, report.version);
        context.printer.line(match report.problems.len() {
            0 => format!("{id}: {} files, ok", report.files),
            n => format!("{id}: {} files, {n} problems", report.files),
        });
        for problem in &report.problems {
            context.printer.line(format_args!("  {}", json!(problem)));
        }
    }
    context.printer.document(&json!({ "ok": ok, "images": reports }));
    Ok(if ok { Exit::Done.code() } else { Exit::ImageRefused.code() })
}

/// Removes what nothing uses.
async fn prune(context: &Context, dry_run: bool) -> Result<u8, Failure> {
    let (images, config) = cache(context)?;
    // With a limit in the configuration, only what is over it goes.
    let options = PruneOptions { max_size: config.images_max_size, dry_run, ..PruneOptions::default() };
    let report = images.prune(&options).await.map_err(|e| cache_failure("prune the cache", &e))?;
    let verb = if dry_run { "would remove" } else { "removed" };
    for id in &report.removed {
        context.printer.line(format_args!("{verb} {id}"));
    }
    context.printer.line(format_args!("{} freed, {} remain", HumanBytes(report.freed), HumanBytes(report.remaining)));
    context.printer.document(&report);
    Ok(Exit::Done.code())
}

/// Makes an image.
fn pack(context: &Context, dir: &Path, name: &str, out: &Path) -> Result<u8, Failure> {
    let packed = native_images::pack(dir, name, out, &PackOptions::default()).map_err(|e| {
        Failure { hint: e.hint(), ..Failure::new(Exit::Usage, "images", format!("pack {}", dir.display())) }
            .because_of(&e)
    })?;
    context.printer.line(packed.path.display());
    context.printer.note(format_args!("  {}, {} entries, {}", packed.sum, packed.entries, HumanBytes(packed.bytes)));
    context.printer.document(&json!({
        "name": packed.name,
        "version": packed.version,
        "path": packed.path,
        "sum": packed.sum.to_string(),
        "bytes": packed.bytes,
        "entries": packed.entries,
    }));
    Ok(Exit::Done.code())
}

/// Unpacks over a directory, as whoever calls.
async fn unpack(context: &Context, source: &SourceArgs, dir: &Path) -> Result<u8, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::ImageRefused, "images", format!("unpack over {}", dir.display())).because_of(error)
    };
    let handles = fetch(context, source).await?;
    fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    let (mut entries, mut bytes) = (0, 0);
    for handle in &handles {
        let placed =
            native_images::unpack_over(handle.layers(), dir).map_err(|e| Failure { hint: e.hint(), ..failed(&e) })?;
        entries += placed.entries;
        bytes += placed.bytes;
    }
    context.printer.line(format_args!("{entries} entries, {} over {}", HumanBytes(bytes), dir.display()));
    context.printer.document(&json!({ "path": dir, "images": handles.len(), "entries": entries, "bytes": bytes }));
    Ok(Exit::Done.code())
}

/// The cache of the configuration.
fn cache(context: &Context) -> Result<(Images, DriverConfig), Failure> {
    let (_, config) = context.config()?;
    let dir = config.images_path.clone().unwrap_or_else(|| PathBuf::from("fish_native_images"));
    let images = Images::open(&dir, native_driver::images::policy(&config)?).map_err(|e| {
        Failure { hint: e.hint(), ..Failure::new(Exit::NotReady, "images", "open the image cache") }.because_of(&e)
    })?;
    Ok((images, config))
}

fn cache_failure(what: &str, error: &native_images::CacheError) -> Failure {
    Failure { hint: error.hint(), ..Failure::new(Exit::ImageRefused, "images", what) }.because_of(error)
}

fn is_address(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Has all images of an address or a label in the cache.
async fn fetch(context: &Context, source: &SourceArgs) -> Result<Vec<ImageHandle>, Failure> {
    let wanted = wanted(context, source)?;
    let (images, _) = cache(context)?;
    context.stop.listen(&context.printer)?;
    let token = context.stop.token();
    let mut handles = Vec::new();
    for image in wanted {
        let id = image.id();
        let (bar, printer) = (context.printer.bar(&id), context.printer.clone());
        let events = Events::new(move |event| match event {
            Event::Progress { bytes, total, .. } => bar.update(bytes, total),
            Event::Warning { image, message } => printer.warning(format_args!("image {image}: {message}")),
            Event::Retry { image, reason, .. } | Event::Resumed { image, reason, .. } => {
                printer.warning(format_args!("{image}: trying again: {reason}"));
            }
            Event::Phase { .. } | Event::Cached { .. } | Event::Done { .. } => {}
        });
        let fetched = tokio::select! {
            fetched = images.ensure(&image, &events) => fetched,
            () = token.cancelled() => return Err(context.stop.failure("images")),
        };
        handles.push(fetched.map_err(|e| {
            Failure { hint: e.hint(), ..Failure::new(Exit::ImageRefused, "images", format!("fetch {id}")) }
                .because_of(&e)
        })?);
    }
    Ok(handles)
}

/// The images that are asked for: one by its address, or all of a label's definition.
fn wanted(context: &Context, args: &SourceArgs) -> Result<Vec<ImageRef>, Failure> {
    if is_address(&args.source) {
        let url: Url = args.source.parse().map_err(|e| Failure::usage("the image's address").because_of(&e))?;
        let sum = args.sum.as_deref().map(str::parse::<Checksum>).transpose();
        let sum = sum.map_err(|e| Failure::usage("--sum").because_of(&e))?;
        let nameless = |e| Failure::usage("the address gives the image no name").because_of(&e);
        let name = native_config::image_name(&url).map_err(nameless)?.to_string();
        let version = native_config::image_version(&url).map_err(nameless)?.to_string();
        return Ok(vec![ImageRef { url, sum, name, version, layout: Layout::Auto }]);
    }
    if args.sum.is_some() {
        return Err(Failure::usage("--sum goes with an address; a label has its own sums"));
    }
    let (name, _) = context.config()?;
    let label = load::label(context.host.target(), &context.printer, Path::new(&args.source))?;
    let definition = load::definition(&label, &name, None)?;
    Ok(definition.images.iter().map(native_driver::images::wanted).collect())
}
