//! Images that we pack, and layers put over a directory.
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use common::*;
use native_images::{Layer, PackError, PackOptions, pack, unpack_over};

fn tree(dir: &Path) {
    std::fs::create_dir_all(dir.join("init.d")).unwrap();
    std::fs::write(dir.join("init.sh"), b"#!/bin/sh\n").unwrap();
    std::fs::set_permissions(dir.join("init.sh"), std::fs::Permissions::from_mode(0o750)).unwrap();
    std::fs::write(dir.join("init.d").join("n".repeat(150)), b"long").unwrap();
    std::fs::hard_link(dir.join("init.sh"), dir.join("second")).unwrap();
    std::os::unix::fs::symlink("t".repeat(200), dir.join("link")).unwrap();
    for path in ["init.sh", "init.d", "."] {
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
        std::fs::File::open(dir.join(path)).unwrap().set_modified(time).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_can_be_pulled() {
    let temp = tempdir();
    tree(&temp.path().join("in"));
    let options = PackOptions { timestamp: Some(1_676_056_685), ..PackOptions::default() };
    let packed = pack(&temp.path().join("in"), "lin-ci", &temp.path().join("out"), &options).unwrap();
    let name = packed.path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("lin-ci-20230210.191805_"), "{name}");
    assert_eq!(name, format!("lin-ci-{}.tar.xz", packed.version));
    assert_eq!(packed.entries, 5);
    let again = pack(&temp.path().join("in"), "lin-ci", &temp.path().join("out2"), &options).unwrap();
    assert_eq!(std::fs::read(&packed.path).unwrap(), std::fs::read(&again.path).unwrap());
    let names: Vec<_> = std::fs::read_dir(temp.path().join("out")).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file is left");

    let body = std::fs::read(&packed.path).unwrap();
    assert_eq!(sha256(&body), packed.sum);
    let server = Server::file(body).await;
    let images = open(temp.path(), policy());
    let image = native_images::ImageRef {
        name: "lin-ci".into(),
        version: packed.version.clone(),
        layout: native_images::Layout::Bait,
        ..image(&server.url("/a"), Some(packed.sum.clone()))
    };
    let handle = images.ensure(&image, &none()).await.unwrap();
    let layer = &handle.layers()[0];
    assert_eq!(layer.name, "lin-ci");
    assert!(layer.digest["sha256:".len()..].starts_with(packed.version.rsplit('_').next().unwrap()));
    let run = std::fs::metadata(layer.dir.join("init.sh")).unwrap();
    assert_eq!((run.permissions().mode() & 0o7777, run.mtime(), run.nlink()), (0o750, 1_500_000_000, 2));
    assert_eq!(std::fs::read_link(layer.dir.join("link")).unwrap().as_os_str().len(), 200);
    let parallel = PackOptions { threads: 2, block_size: 4096, ..options };
    pack(&temp.path().join("in"), "lin-ci", &temp.path().join("out3"), &parallel).unwrap();
}

#[test]
fn what_can_not_be_packed_is_named() {
    let temp = tempdir();
    assert!(matches!(pack(temp.path(), "../x", temp.path(), &PackOptions::default()), Err(PackError::Name { .. })));
    let missing = pack(&temp.path().join("none"), "x", &temp.path().join("out"), &PackOptions::default());
    assert!(matches!(missing, Err(PackError::Read { .. })), "{missing:?}");
    let socket = temp.path().join("in");
    std::fs::create_dir(&socket).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(socket.join("socket")).unwrap();
    let refused = pack(&socket, "x", &temp.path().join("out"), &PackOptions::default());
    assert!(matches!(refused, Err(PackError::Kind { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(temp.path().join("out")).unwrap().count(), 0);
}

#[test]
fn later_layers_override_earlier_ones_as_an_overlay_would() {
    let temp = tempdir();
    let layer = |name: &str, make: fn(&Path)| {
        let dir = temp.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        make(&dir);
        Layer { name: name.into(), digest: String::new(), dir, bytes: 0, entries: 0 }
    };
    let one = layer("one", |dir| {
        std::fs::create_dir_all(dir.join("dir-then-file/x")).unwrap();
        std::fs::write(dir.join("file-then-dir"), b"1").unwrap();
        std::fs::create_dir(dir.join("dir-then-link")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("link-then-dir")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("link-then-file")).unwrap();
        std::fs::create_dir(dir.join("both")).unwrap();
        std::fs::write(dir.join("both/one"), b"1").unwrap();
        std::fs::write(dir.join("both/same"), b"1").unwrap();
        std::fs::create_dir(dir.join("read-only")).unwrap();
        std::fs::write(dir.join("read-only/a"), b"1").unwrap();
        std::fs::set_permissions(dir.join("read-only"), std::fs::Permissions::from_mode(0o555)).unwrap();
    });
    let two = layer("two", |dir| {
        std::fs::write(dir.join("dir-then-file"), b"2").unwrap();
        std::fs::create_dir(dir.join("file-then-dir")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.join("dir-then-link")).unwrap();
        std::fs::create_dir(dir.join("link-then-dir")).unwrap();
        std::fs::write(dir.join("link-then-dir/new"), b"2").unwrap();
        std::fs::write(dir.join("link-then-file"), b"2").unwrap();
        std::fs::create_dir(dir.join("both")).unwrap();
        std::fs::write(dir.join("both/two"), b"2").unwrap();
        std::fs::write(dir.join("both/same"), b"2").unwrap();
        std::fs::create_dir(dir.join("read-only")).unwrap();
        std::fs::write(dir.join("read-only/b"), b"2").unwrap();
        let sparse = std::fs::File::create(dir.join("sparse")).unwrap();
        sparse.set_len(10_000_000).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 9_999_990).unwrap();
    });
    let target = temp.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("own"), b"kept").unwrap();
    let before = (std::fs::metadata("/etc").unwrap().mtime(), std::fs::metadata("/etc/passwd").unwrap().mtime());
    unpack_over(&[one, two], &target).unwrap();
    let text = |path: &str| std::fs::read_to_string(target.join(path)).unwrap();
    assert_eq!(text("own"), "kept");
    assert_eq!(text("dir-then-file"), "2");
    assert!(target.join("file-then-dir").is_dir());
    assert!(target.join("dir-then-link").is_symlink());
    assert!(!target.join("link-then-dir").is_symlink());
    assert_eq!(text("link-then-dir/new"), "2");
    assert!(!target.join("link-then-file").is_symlink());
    assert_eq!((text("both/one"), text("both/two"), text("both/same")), ("1".into(), "2".into(), "2".into()));
    assert_eq!((text("read-only/a"), text("read-only/b")), ("1".into(), "2".into()));
    let sparse = std::fs::metadata(target.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 10_000_000);
    assert!(sparse.blocks() * 512 < 1_000_000);
    assert_eq!(before, (std::fs::metadata("/etc").unwrap().mtime(), std::fs::metadata("/etc/passwd").unwrap().mtime()));
}
