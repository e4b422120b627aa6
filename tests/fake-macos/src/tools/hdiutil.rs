//! `hdiutil`, the little of `diskutil` that replaces it, and `mount`.
//!
//! A volume's content is a directory beside the emulated file system; mounting moves it to the mount point and
//! detaching moves it back. An image's file holds the number of its content, so that a copied file is a copied
//! image.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{Image, State};
use crate::{Host, Reply, fault};

const DEPRECATED: &str = "hdiutil: WARNING: this verb is deprecated. Please use 'diskutil image' instead.\n";

/// Runs hdiutil.
pub(super) fn run(host: &Host, args: &[&str]) -> Reply {
    let mut reply = match args {
        ["create", rest @ ..] => create(host, rest),
        ["attach", rest @ ..] => attach(host, rest),
        ["info", "-plist"] => info(&host.state()),
        ["detach", device] => detach(host, device, false),
        ["detach", device, "-force"] => detach(host, device, true),
        _ => Reply::unsupported("hdiutil", args),
    };
    if host.config.macos.0 >= 27 {
        reply.err.insert_str(0, DEPRECATED);
    }
    reply
}

/// Options with a value, flags, and the path at the end; `None` for an unknown one.
struct Options<'a> {
    values: Vec<(&'a str, &'a str)>,
    path: &'a str,
}

impl<'a> Options<'a> {
    fn parse(args: &[&'a str], valued: &[&str], flags: &[&str]) -> Option<Self> {
        let (path, options) = args.split_last()?;
        let (mut values, mut rest) = (Vec::new(), options.iter());
        while let Some(option) = rest.next() {
            if flags.contains(option) {
                values.push((*option, ""));
            } else if valued.contains(option) {
                values.push((option, rest.next()?));
            } else {
                return None;
            }
        }
        Some(Self { values, path })
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

fn create(host: &Host, args: &[&str]) -> Reply {
    let valued = ["-type", "-fs", "-size", "-volname", "-uid", "-gid", "-mode", "-layout"];
    let unsupported = || Reply::unsupported("hdiutil create", args);
    let Some(options) = Options::parse(args, &valued, &["-nospotlight", "-quiet"]) else { return unsupported() };
    let (Some(fs_name), Some(size), Some(volume)) = (options.get("-fs"), options.get("-size"), options.get("-volname"))
    else {
        return unsupported();
    };
    let suffix = if options.get("-type") == Some("SPARSE") { ".sparseimage" } else { ".dmg" };
    let path =
        if options.path.ends_with(suffix) { options.path.to_owned() } else { format!("{}{suffix}", options.path) };
    let digits = size.trim_end_matches(['b', 'k', 'm', 'g', 't']);
    if !host.inside(&path) || digits.parse::<u64>().is_err() || size.len() - digits.len() > 1 {
        return unsupported();
    }
    if Path::new(&path).exists() {
        return Reply::failed(1, "hdiutil: create failed - File exists\n");
    }
    // Two creations at once hang for ever, on a bad day; here every day is bad, and long enough to be met.
    let creating = fs::File::create(host.root().join("creating"));
    if creating.as_ref().is_ok_and(|file| file.try_lock().is_err()) {
        fault::hang();
    }
    std::thread::sleep(std::time::Duration::from_millis(5));
    let id = host.change(|state| {
        state.next_image += 1;
        state.next_image
    });
    let content = content(host, id);
    let number = |name| options.get(name).and_then(|v| v.parse::<u32>().ok()).unwrap_or(host.euid());
    let made = host
        .as_caller(|| fs::write(&path, format!("FAKE-IMAGE {id} {fs_name}\n")))
        .and_then(|()| fs::create_dir(&content))
        .and_then(|()| chown(&content, Some(number("-uid")), Some(number("-gid"))));
    if made.is_err() {
        return Reply::failed(1, "hdiutil: create failed - Operation not permitted\n");
    }
    let (fs, volume, path) = (fs_name.to_owned(), volume.to_owned(), PathBuf::from(path));
    let said = format!("created: {}\n", path.display());
    host.change(|state| {
        state.images.push(Image {
            id,
            path,
            fs,
            volume,
            disk: None,
            mounted: None,
            made: false,
            owners: false,
            nobrowse: false,
        });
    });
    Reply::said(said)
}

fn content(host: &Host, id: u64) -> PathBuf {
    host.root().join("volumes").join(id.to_string())
}

/// The image that a file is; one that was copied gets a content of its own.
fn identify(host: &Host, path: &str) -> Option<Image> {
    let text = fs::read_to_string(path).ok()?;
    let id: u64 = text.strip_prefix("FAKE-IMAGE ")?.split_whitespace().next()?.parse().ok()?;
    let known = host.state().images.into_iter().find(|i| i.id == id)?;
    if known.path == Path::new(path) {
        return Some(known);
    }
    if !known.path.exists() {
        // It was renamed.
        let path = PathBuf::from(path);
        host.change(|s| s.images.iter_mut().filter(|i| i.id == id).for_each(|i| i.path.clone_from(&path)));
        return Some(Image { path, ..known });
    }
    let new = host.change(|state| {
        state.next_image += 1;
        let copy = Image { id: state.next_image, path: path.into(), disk: None, mounted: None, ..known };
        state.images.push(copy.clone());
        copy
    });
    #[expect(clippy::disallowed_methods, reason = "this is a tool, not the driver")]
    let copied = Command::new("/bin/cp").arg("-a").arg(content(host, id)).arg(content(host, new.id)).status();
    fs::write(path, format!("FAKE-IMAGE {} {}\n", new.id, new.fs)).ok()?;
    copied.ok().filter(std::process::ExitStatus::success).map(|_| new)
}

fn attach(host: &Host, args: &[&str]) -> Reply {
    // The image is the last argument or the first one.
    let mut ordered = args.to_vec();
    if ordered.first().is_some_and(|a| !a.starts_with('-')) {
        ordered.rotate_left(1);
    }
    let (valued, flags) = (["-mountpoint", "-owners"], ["-plist", "-nobrowse", "-noverify", "-quiet"]);
    let Some(options) = Options::parse(&ordered, &valued, &flags) else {
        return Reply::unsupported("hdiutil attach", args);
    };
    let Some(point) = options.get("-mountpoint").filter(|p| host.inside(p)) else {
        return Reply::unsupported("hdiutil attach", args);
    };
    let failed = |why: &str| Reply::failed(1, format!("hdiutil: attach failed - {why}\n"));
    if !Path::new(options.path).exists() {
        return failed("No such file or directory");
    }
    let Some(image) = identify(host, options.path) else { return failed("image not recognized") };
    if image.disk.is_some() {
        return failed("Resource busy");
    }
    if image.fs.starts_with("HFS") && host.config.macos >= (26, 4) {
        return failed("no mountable file systems");
    }
    let point = PathBuf::from(point);
    let there = fs::symlink_metadata(&point);
    let in_volumes = point.parent() == Some(host.fs().join("Volumes").as_path());
    let may = host.euid() == 0 || in_volumes || there.as_ref().is_ok_and(|m| m.uid() == host.euid());
    if !may || (there.is_err() && !in_volumes && host.euid() != 0) {
        return failed("Operation not permitted");
    }
    let taken = there.is_ok() && fs::read_dir(&point).is_ok_and(|mut d| d.next().is_some());
    // Like `/Volumes/X 1` when the name is taken.
    let point = if taken { PathBuf::from(format!("{} 1", point.display())) } else { point };
    let made = fs::symlink_metadata(&point).is_err();
    if fs::rename(content(host, image.id), &point).is_err() {
        return failed("Operation not permitted");
    }
    let (owners, nobrowse) = (options.get("-owners") == Some("on"), options.get("-nobrowse").is_some());
    let image = host.change(|state| {
        let used = |n: u32| state.images.iter().filter_map(|i| i.disk).any(|d| d == n || d + 1 == n);
        let disk = (4..).find(|n| !used(*n) && !used(n + 1)).unwrap_or(4);
        let image = state.images.iter_mut().find(|i| i.id == image.id)?;
        (image.disk, image.mounted, image.made) = (Some(disk), Some(point), made);
        (image.owners, image.nobrowse) = (owners, nobrowse);
        Some(image.clone())
    });
    let Some(image) = image else { return failed("Resource busy") };
    if options.get("-plist").is_some() {
        let body = format!("<dict><key>system-entities</key>{}</dict>", entities_plist(&image));
        return Reply::said(plist(&body));
    }
    let lines = entities(&image).into_iter().map(|(dev, hint, mount)| format!("{dev} \t{hint} \t{mount}\n"));
    Reply::said(lines.collect::<String>())
}

/// Device, content hint, mount point. One entity for HFS+, four over two disks for APFS.
fn entities(image: &Image) -> Vec<(String, &'static str, String)> {
    let (Some(n), Some(at)) = (image.disk, image.mounted.as_ref()) else { return Vec::new() };
    let at = at.display().to_string();
    if image.fs.starts_with("HFS") {
        return vec![(format!("/dev/disk{n}"), "Apple_HFS", at)];
    }
    vec![
        (format!("/dev/disk{n}"), "GUID_partition_scheme", String::new()),
        (format!("/dev/disk{n}s1"), "Apple_APFS", String::new()),
        (format!("/dev/disk{}", n + 1), "EF57347C-0000-11AA-AA11-00306543ECAC", String::new()),
        (format!("/dev/disk{}s1", n + 1), "41504653-0000-11AA-AA11-00306543ECAC", at),
    ]
}

fn entities_plist(image: &Image) -> String {
    let entity = |(dev, hint, mount): (String, &str, String)| {
        let mount = if mount.is_empty() {
            String::new()
        } else {
            format!("<key>mount-point</key><string>{}</string>", mount.replace('&', "&amp;").replace('<', "&lt;"))
        };
        format!(
            "<dict><key>content-hint</key><string>{hint}</string><key>dev-entry</key><string>{dev}</string>{mount}\
             <key>potentially-mountable</key><{}/></dict>\n",
            !mount.is_empty()
        )
    };
    format!("<array>\n{}</array>", entities(image).into_iter().map(entity).collect::<String>())
}

fn plist(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
         \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n{body}\n</plist>\n"
    )
}

fn info(state: &State) -> Reply {
    let image = |i: &Image| {
        format!(
            "<dict><key>image-path</key><string>{}</string><key>image-encrypted</key><false/>\
             <key>system-entities</key>{}</dict>\n",
            i.path.display(),
            entities_plist(i)
        )
    };
    let images: String = state.images.iter().filter(|i| i.disk.is_some()).map(image).collect();
    Reply::said(plist(&format!(
        "<dict><key>framework</key><string>671</string><key>images</key><array>{images}</array></dict>"
    )))
}

/// The attached image that a whole disk, a slice or a mount point belongs to.
fn find(state: &State, target: &str) -> Option<Image> {
    let bare = target.strip_prefix("/dev/").unwrap_or(target);
    let whole = bare.strip_prefix("disk").map(|n| n.split('s').next().unwrap_or(n));
    let number = whole.and_then(|n| n.parse::<u32>().ok());
    let hit = |i: &&Image| {
        i.mounted.as_deref() == Some(Path::new(target))
            || number
                .is_some_and(|n| i.disk == Some(n) || (!i.fs.starts_with("HFS") && i.disk == Some(n.wrapping_sub(1))))
    };
    state.images.iter().filter(|i| i.disk.is_some()).find(hit).cloned()
}

fn detach(host: &Host, target: &str, force: bool) -> Reply {
    let Some(image) = find(&host.state(), target) else {
        return Reply::failed(1, "hdiutil: detach failed - No such file or directory\n");
    };
    let disk = image.disk.unwrap_or(0);
    let newest = host.config.macos.0 >= 27;
    if newest || (!force && image.mounted.as_deref().is_some_and(in_use)) {
        return Reply::failed(16, format!("hdiutil: couldn't unmount \"disk{disk}\" - Resource busy\n"));
    }
    match release(host, &image) {
        Ok(()) => Reply::said(format!("\"disk{disk}\" ejected.\n")),
        Err(e) => Reply::failed(1, format!("hdiutil: detach failed - {e}\n")),
    }
}

/// Whether a process has its working directory there.
fn in_use(mounted: &Path) -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| fs::read_link(e.path().join("cwd")).ok()).any(|cwd| cwd.starts_with(mounted))
}

fn release(host: &Host, image: &Image) -> std::io::Result<()> {
    if let Some(point) = &image.mounted {
        fs::rename(point, content(host, image.id))?;
        if !image.made {
            fs::create_dir(point)?;
        }
    }
    host.change(|state| {
        for i in state.images.iter_mut().filter(|i| i.id == image.id) {
            (i.disk, i.mounted) = (None, None);
        }
    });
    Ok(())
}

/// `diskutil eject DISK`.
pub(super) fn diskutil(host: &Host, args: &[&str]) -> Reply {
    let ["eject", target] = args else { return Reply::unsupported("diskutil", args) };
    let Some(image) = find(&host.state(), target) else {
        return Reply::failed(1, format!("Unable to find disk for {target}\n"));
    };
    if image.mounted.as_deref().is_some_and(in_use) {
        return Reply::failed(
            1,
            format!("Volume failed to eject: {target}: at least one volume could not be unmounted\n"),
        );
    }
    match release(host, &image) {
        Ok(()) => Reply::said(format!("Disk {target} ejected\n")),
        Err(e) => Reply::failed(1, format!("Volume failed to eject: {e}\n")),
    }
}

/// `mount`, without arguments.
pub(super) fn mount(host: &Host, args: &[&str]) -> Reply {
    if !args.is_empty() {
        return Reply::unsupported("mount", args);
    }
    let mut out = String::from(
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\ndevfs on /dev (devfs, local, nobrowse)\n\
         map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)\n",
    );
    for image in host.state().images {
        if let Some((dev, _, at)) = entities(&image).last() {
            let kind = if image.fs.starts_with("HFS") { "hfs" } else { "apfs" };
            let owners = if image.owners { "" } else { ", noowners" };
            let browse = if image.nobrowse { ", nobrowse" } else { "" };
            out.push_str(&format!(
                "{dev} on {at} ({kind}, local, nodev, nosuid, journaled{owners}{browse}, mounted by fish)\n"
            ));
        }
    }
    Reply::said(out)
}
