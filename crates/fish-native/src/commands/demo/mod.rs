//! `demo`: the whole life of an environment, with an example that is built in.
//!
//! It does what an operator and a label's author do: packs two images as Aquarium Bait would, serves them over HTTP
//! with basic authentication, writes a configuration and a label, runs the label, and shows what is left. The server
//! listens on loopback alone, and everything lies in a temporary directory.

mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use native_driver::PrepareOptions;
use native_images::{PackOptions, Packed};
use serde_json::json;

use super::run::whole_run;
use crate::cli::{AllocateArgs, LabelArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::load;
use crate::watch::watch;

/// A file of the example: its path, whether it is a program, its text.
type File = (&'static str, bool, &'static str);

/// The image over the home directory.
const HELLO: [File; 4] = [
    ("init.sh", true, include_str!("../../../../../examples/hello/hello/init.sh")),
    ("init.d/10-who.sh", true, include_str!("../../../../../examples/hello/hello/init.d/10-who.sh")),
    ("init.d/20-metadata.sh", true, include_str!("../../../../../examples/hello/hello/init.d/20-metadata.sh")),
    ("init.d/30-disk.sh", true, include_str!("../../../../../examples/hello/hello/init.d/30-disk.sh")),
];

/// The image over the disk.
const TOOLS: [File; 1] = [("bin/greet", true, include_str!("../../../../../examples/hello/hello-tools/bin/greet"))];

/// The label, with addresses that the demo replaces.
const LABEL: &str = include_str!("../../../../../examples/hello/label.yml");

/// Packs, serves, runs, shows.
pub(crate) async fn demo(context: &Context) -> Result<u8, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            Exit::NotReady,
            "demo",
            "the demo makes a user, a disk and namespaces: that needs root",
        )
        .hint("run it as root: `sudo fish-native demo`"));
    }
    context.stop.listen(&context.printer)?;
    let dir = tempfile::Builder::new().prefix("fish-native-demo-").tempdir().map_err(|e| io("make a directory", &e))?;
    let result = in_directory(context, dir.path()).await;
    match &result {
        // What is left behind has its record in there.
        Err(failure) if failure.exit == Exit::LeftBehind => {
            context.printer.note(format_args!("kept {}: the record of what was left is in it", dir.keep().display()));
        }
        _ => dir.close().map_err(|e| io("remove the demo's directory", &e))?,
    }
    result
}

async fn in_directory(context: &Context, dir: &Path) -> Result<u8, Failure> {
    let printer = &context.printer;
    let served = dir.join("served");
    printer.note("packing two images, as Aquarium Bait would");
    let hello = pack(dir, "hello", &HELLO, &served)?;
    let tools = pack(dir, "hello-tools", &TOOLS, &served)?;
    for packed in [&hello, &tools] {
        printer.note(format_args!("  {}  {} bytes", file_name(packed), packed.bytes));
    }
    let server = server::Server::start(&served).await.map_err(|e| io("listen on loopback", &e))?;
    printer.note(format_args!("serving them on {}, with a password", server.origin()));

    let config = dir.join("config.yml");
    let text = format!(
        "images_path: {0}/images\nworkspace_path: {0}/workspace\ndownload_user: {1}\ndownload_password: {2}\n",
        dir.display(),
        server::USER,
        server::PASSWORD,
    );
    fs::write(&config, text).map_err(|e| io("write the configuration", &e))?;
    let label = dir.join("label.yml");
    fs::write(&label, label_text(&server.origin(), &[&hello, &tools])?).map_err(|e| io("write the label", &e))?;

    printer.note("running the label");
    let (name, config) = load::config(context.host.target(), printer, Some(&config), "native")?;
    let args = AllocateArgs {
        label: LabelArgs { label, definition: None },
        metadata: Vec::new(),
        metadata_file: None,
        lifetime: None,
    };
    let request = context.request(&name, &args)?;
    let start = Instant::now();
    let driver = context.driver_of(name, &config, PrepareOptions::CHANGE).await?;
    let allocated = driver.allocate(request, watch(printer, &context.stop)).await?;
    printer.note(format_args!(
        "  {} is up after {} ms, uid {}, home {}",
        allocated.identifier,
        allocated.timings_ms.total,
        allocated.uid,
        allocated.home.display()
    ));
    let whole = whole_run(context, driver.as_ref(), &allocated, false).await?;

    let code = whole.ended.code;
    printer.line("");
    printer.line(format_args!("exit code: {code}"));
    if let Some(gone) = &whole.gone {
        let (up, down) = (&allocated.timings_ms, &gone.timings_ms);
        printer.line(format_args!(
            "timings: account {} ms, volumes {} ms, images {} ms, layers {} ms, start {} ms; stop {} ms, revert {} ms, \
             audit {} ms; {} ms in all",
            up.account,
            up.volumes,
            up.images,
            up.layers,
            up.start,
            down.stop,
            down.revert,
            down.audit,
            start.elapsed().as_millis(),
        ));
    }
    // Whatever is not clean has ended with an error and its own exit code before this.
    let clean = whole.gone.as_ref().is_some_and(|gone| gone.audit.clean);
    printer.line(format_args!("clean: {clean}"));
    printer.document(&whole.document(&allocated));
    // The example's own scripts do not fail on a host that works.
    Ok(if code == 0 { Exit::Done.code() } else { Exit::StepFailed.code() })
}

fn pack(dir: &Path, name: &str, files: &[File], out: &Path) -> Result<Packed, Failure> {
    let tree = dir.join(format!("{name}.tree"));
    for (path, program, text) in files {
        let path = tree.join(path);
        let parent = path.parent().unwrap_or(&tree);
        fs::create_dir_all(parent).map_err(|e| io("make a directory", &e))?;
        fs::write(&path, text).map_err(|e| io("write the example", &e))?;
        let mode = if *program { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(|e| io("write the example", &e))?;
    }
    fs::create_dir_all(out).map_err(|e| io("make a directory", &e))?;
    native_images::pack(&tree, name, out, &PackOptions::default())
        .map_err(|e| Failure::new(Exit::NotReady, "demo", format!("pack {name}")).because_of(&e))
}

fn file_name(packed: &Packed) -> String {
    packed.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The example's label, with the real address and checksum of each image.
fn label_text(origin: &str, images: &[&Packed]) -> Result<String, Failure> {
    let broken = || Failure::new(Exit::Bug, "demo", "the built-in label is not what the demo expects");
    let mut label: serde_json::Value = serde_yaml::from_str(LABEL).map_err(|e| broken().because_of(&e))?;
    let listed = label["definitions"][0]["images"].as_array_mut().ok_or_else(broken)?;
    for image in listed {
        let packed = images.iter().find(|p| image["name"] == p.name).ok_or_else(broken)?;
        image["url"] = json!(format!("{origin}/{}", file_name(packed)));
        image["sum"] = json!(packed.sum.to_string());
    }
    serde_json::to_string_pretty(&label).map_err(|e| broken().because_of(&e))
}

fn io(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::NotReady, "demo", what).because_of(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_label_gets_real_addresses_and_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let hello = pack(dir.path(), "hello", &HELLO, dir.path()).unwrap();
        let tools = pack(dir.path(), "hello-tools", &TOOLS, dir.path()).unwrap();
        let text = label_text("http://127.0.0.1:1", &[&hello, &tools]).unwrap();
        let source = native_config::Source::new("label.yml", &text);
        let checked = native_config::parse_label(&source, native_config::Target::Linux);
        let (label, warnings) = checked.into_result().unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let images = &label.definitions[0].images;
        assert_eq!(images.len(), 2);
        assert!(images.iter().all(|i| i.sum.is_some()));
        assert_eq!(images[1].version.to_string(), tools.version);
    }
}
