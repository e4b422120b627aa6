//! Names, links and kinds of entries.
#![allow(clippy::allow_attributes, unreachable_pub, missing_docs, reason = "part of one suite")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::common::*;

/// What has to come of an archive.
pub enum Answer {
    Refused(&'static str),
    /// Unpacked, and this looks at the tree.
    Extract(fn(&Path)),
}
pub use Answer::{Extract, Refused};

pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub answer: Answer,
}

pub fn case(name: &'static str, entries: &[Vec<u8>], answer: Answer) -> Case {
    Case { name, bytes: tar(entries), answer }
}

pub fn raw(name: &'static str, bytes: Vec<u8>, answer: Answer) -> Case {
    Case { name, bytes, answer }
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// A header changed by hand, with its sum made right again.
pub fn changed(mut block: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    block[at..at + bytes.len()].copy_from_slice(bytes);
    resum(&mut block);
    block
}

pub fn with_mode(block: Vec<u8>, mode: &str) -> Vec<u8> {
    changed(block, 100, format!("{mode:0>7}\0").as_bytes())
}

pub fn long(flag: u8, value: &[u8]) -> Vec<u8> {
    let value = [value, b"\0"].concat();
    [header(b"././@LongLink", flag, value.len() as u64, b""), padded(&value)].concat()
}

/// GNU's old sparse form: pieces of one byte each.
pub fn old_sparse(name: &str, pieces: &[(u64, u64)], real: u64, data: &[u8]) -> Vec<u8> {
    let mut block = header(name.as_bytes(), b'S', data.len() as u64, b"");
    for (index, (offset, length)) in pieces.iter().enumerate() {
        let at = 386 + index * 24;
        block[at..at + 24].copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
    block[483..495].copy_from_slice(format!("{real:011o}\0").as_bytes());
    resum(&mut block);
    [block, padded(data)].concat()
}

pub fn names(outside: &Path) -> Vec<Case> {
    let out = outside.display().to_string();
    vec![
        case("dotdot", &[file("../evil", b"x")], Refused("entry-dotdot")),
        case("dotdot-inside", &[file("a/../../evil", b"x")], Refused("entry-dotdot")),
        case("dotdot-that-stays", &[dir("a"), file("a/../b", b"x")], Refused("entry-dotdot")),
        case("dotdot-at-the-end", &[dir("a/..")], Refused("entry-dotdot")),
        case(
            "two-dots-in-a-name",
            &[file("a..b", b"x"), file("..c", b"y")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("a..b")), "x");
                assert_eq!(text(&tree.join("..c")), "y");
            }),
        ),
        case("absolute", &[file(&format!("{out}/evil"), b"x")], Refused("entry-absolute")),
        case("absolute-twice", &[file("//etc/evil", b"x")], Refused("entry-absolute")),
        case("absolute-in-pax", &[pax(&[("path", b"/evil")]), file("ok", b"x")], Refused("entry-absolute")),
        case("dotdot-in-pax", &[pax(&[("path", b"../evil")]), file("ok", b"x")], Refused("entry-dotdot")),
        case("dotdot-in-long-name", &[long(b'L', b"../evil"), file("ok", b"x")], Refused("entry-dotdot")),
        case("nul-in-pax", &[pax(&[("path", b"a\0b")]), file("ok", b"x")], Refused("entry-nul")),
        case("nul-in-long-name", &[long(b'L', b"a\0b"), file("ok", b"x")], Refused("archive-header")),
        case("empty-name", &[file("", b"x")], Refused("entry-empty-name")),
        case("dot-as-a-file", &[file(".", b"x")], Refused("entry-root")),
        case("dot-as-a-link", &[symlink("./", "/etc")], Refused("entry-root")),
        case("component-too-long", &[pax(&[("path", &[b'n'; 256])]), file("x", b"x")], Refused("entry-name-too-long")),
        case(
            "component-just-right",
            &[pax(&[("path", &[b'n'; 255])]), file("x", b"x")],
            Extract(|tree| {
                assert!(tree.join("n".repeat(255)).is_file());
            }),
        ),
        case(
            "path-too-long",
            &[pax(&[("path", "d/".repeat(2048).as_bytes())]), dir("x")],
            Refused("entry-name-too-long"),
        ),
        case("too-deep", &[pax(&[("path", "d/".repeat(1500).as_bytes())]), dir("x")], Refused("entry-too-deep")),
        case(
            "deep",
            &[pax(&[("path", "d/".repeat(256).as_bytes())]), dir("x")],
            Extract(|tree| {
                assert!(tree.join("d/".repeat(256)).is_dir());
            }),
        ),
        case(
            "odd-bytes",
            &[file("a\nb", b"1"), file("-rf", b"2"), file("\u{1b}[31m", b"3"), file("a\\b", b"4")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("a\nb")), "1");
                assert_eq!(text(&tree.join("-rf")), "2");
            }),
        ),
        case(
            "not-utf8",
            &[[header(b"\xff\xfe", b'0', 1, b""), padded(b"x")].concat()],
            Extract(|tree| {
                assert_eq!(std::fs::read_dir(tree).unwrap().count(), 1);
            }),
        ),
    ]
}

pub fn links(outside: &Path) -> Vec<Case> {
    let out = outside.display().to_string();
    vec![
        case("file-through-link", &[symlink("app", &out), file("app/evil", b"x")], Refused("entry-through-symlink")),
        case("dir-through-link", &[symlink("app", &out), dir("app/evil/")], Refused("entry-through-symlink")),
        case("link-through-link", &[symlink("app", &out), symlink("app/evil", "x")], Refused("entry-through-symlink")),
        case("relative-link-up", &[symlink("up", ".."), file("up/evil", b"x")], Refused("entry-through-symlink")),
        case(
            "link-inside-is-not-followed",
            &[dir("real"), symlink("l", "real"), file("l/x", b"x")],
            Refused("entry-through-symlink"),
        ),
        case(
            "chain-of-links",
            &[symlink("a", "b"), symlink("b", &out), file("a/evil", b"x")],
            Refused("entry-through-symlink"),
        ),
        case(
            "file-over-link",
            &[symlink("victim", &format!("{out}/file")), file("victim", b"mine")],
            Extract(|tree| {
                assert!(!tree.join("victim").is_symlink());
                assert_eq!(text(&tree.join("victim")), "mine");
            }),
        ),
        case(
            "dir-over-link",
            &[symlink("app", &out), dir("app"), file("app/x", b"mine")],
            Extract(|tree| {
                assert!(!tree.join("app").is_symlink());
                assert_eq!(text(&tree.join("app/x")), "mine");
            }),
        ),
        case(
            "link-over-dir",
            &[dir("app"), file("app/x", b"x"), symlink("app", &out), file("app/file", b"x")],
            Refused("entry-through-symlink"),
        ),
        case(
            "link-over-dir-alone",
            &[dir("app"), file("app/x", b"x"), symlink("app", "elsewhere")],
            Extract(|tree| {
                assert!(tree.join("app").is_symlink());
            }),
        ),
        case(
            "links-anywhere-are-only-text",
            &[symlink("a", "/etc/passwd"), symlink("b", "../../.."), symlink("c", "c")],
            Extract(|tree| {
                assert_eq!(std::fs::read_link(tree.join("a")).unwrap(), Path::new("/etc/passwd"));
                assert_eq!(std::fs::read_link(tree.join("c")).unwrap(), Path::new("c"));
            }),
        ),
        case("empty-link", &[symlink("a", "")], Refused("entry-symlink-target")),
        case("nul-in-link", &[pax(&[("linkpath", b"a\0b")]), symlink("l", "x")], Refused("entry-nul")),
        case(
            "link-with-content",
            &[[header(b"l", b'2', 4, b"x"), padded(b"data")].concat()],
            Refused("entry-content-of-link"),
        ),
        case("hardlink-absolute", &[hardlink("h", &format!("{out}/file"))], Refused("entry-absolute")),
        case("hardlink-dotdot", &[hardlink("h", "../../../outside/file")], Refused("entry-dotdot")),
        case("hardlink-through-link", &[symlink("app", &out), hardlink("h", "app/file")], Refused("entry-link-target")),
        case(
            "hardlink-to-link",
            &[symlink("l", &format!("{out}/file")), hardlink("h", "l")],
            Extract(|tree| {
                assert!(tree.join("h").is_symlink(), "the link itself, not what it leads to");
            }),
        ),
        case(
            "hardlink-to-link-then-write",
            &[symlink("l", &format!("{out}/file")), hardlink("h", "l"), file("h", b"mine")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("h")), "mine");
                assert!(tree.join("l").is_symlink());
            }),
        ),
        case("hardlink-to-nothing", &[hardlink("h", "later"), file("later", b"x")], Refused("entry-link-target")),
        case("hardlink-to-dir", &[dir("d"), hardlink("h", "d")], Refused("entry-link-target")),
        case("hardlink-to-root", &[hardlink("h", ".")], Refused("entry-link-target")),
        case("hardlink-to-itself", &[file("h", b"x"), hardlink("h", "./h")], Refused("entry-link-target")),
        case(
            "hardlink-with-content",
            &[file("a", b"x"), [header(b"h", b'1', 4, b"a"), padded(b"data")].concat()],
            Refused("entry-content-of-link"),
        ),
        case(
            "hardlink-then-replaced",
            &[file("a", b"one"), hardlink("h", "a"), file("a", b"two")],
            Extract(|tree| {
                assert_eq!((text(&tree.join("a")), text(&tree.join("h"))), ("two".into(), "one".into()));
            }),
        ),
    ]
}

pub fn kinds() -> Vec<Case> {
    vec![
        case("character-device", &[header(b"null", b'3', 0, b"")], Refused("entry-device")),
        case("block-device", &[header(b"sda", b'4', 0, b"")], Refused("entry-device")),
        case("pipe", &[header(b"pipe", b'6', 0, b"")], Refused("entry-fifo")),
        case("unknown-type", &[header(b"x", b'Z', 0, b"")], Refused("entry-type")),
        case("dump-directory", &[header(b"x", b'D', 0, b"")], Refused("entry-type")),
        case("multi-volume", &[header(b"x", b'M', 0, b"")], Refused("entry-type")),
        case("volume-label", &[header(b"x", b'V', 0, b"")], Refused("entry-type")),
        case(
            "contiguous",
            &[[header(b"x", b'7', 1, b""), padded(b"y")].concat()],
            Extract(|tree| {
                assert_eq!(text(&tree.join("x")), "y");
            }),
        ),
        case(
            "setuid",
            &[with_mode(file("su", b"x"), "6755"), with_mode(dir("d"), "7777")],
            Extract(|tree| {
                assert_eq!(std::fs::metadata(tree.join("su")).unwrap().permissions().mode() & 0o7777, 0o755);
                assert_eq!(std::fs::metadata(tree.join("d")).unwrap().permissions().mode() & 0o7777, 0o1777);
                assert_eq!(std::fs::metadata(tree.join("su")).unwrap().uid(), rustix::process::getuid().as_raw());
                assert_eq!(std::fs::metadata(tree.join("su")).unwrap().gid(), rustix::process::getgid().as_raw());
            }),
        ),
        case(
            "unusable-modes",
            &[with_mode(dir("d"), "0"), file("d/x", b"x"), with_mode(file("f", b"y"), "0")],
            Extract(|tree| {
                assert_eq!(std::fs::metadata(tree.join("d")).unwrap().permissions().mode() & 0o7777, 0o700);
                assert_eq!(text(&tree.join("d/x")), "x");
                assert_eq!(text(&tree.join("f")), "y");
            }),
        ),
        case(
            "read-only-dir",
            &[with_mode(dir("d"), "555"), file("d/a", b"a"), dir("d/e"), file("d/e/b", b"b")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("d/e/b")), "b");
                assert_eq!(std::fs::metadata(tree.join("d")).unwrap().mtime(), 1_600_000_000);
            }),
        ),
        case(
            "old-style-dir",
            &[header(b"d/", b'0', 0, b""), file("d/x", b"x")],
            Extract(|tree| {
                assert!(tree.join("d").is_dir());
            }),
        ),
        case(
            "old-style-dir-with-content",
            &[[header(b"d/", b'0', 4, b""), padded(b"data")].concat()],
            Refused("entry-content-of-link"),
        ),
        case(
            "dir-with-content",
            &[[header(b"d", b'5', 4, b""), padded(b"data")].concat()],
            Refused("entry-content-of-link"),
        ),
        case("file-below-file", &[file("a", b"x"), file("a/b", b"y")], Refused("entry-not-a-directory")),
        case(
            "dir-over-file",
            &[file("a", b"x"), dir("a"), file("a/b", b"y")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("a/b")), "y");
            }),
        ),
        case(
            "file-over-dir",
            &[dir("a"), file("a/b", b"y"), file("a", b"x")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("a")), "x");
            }),
        ),
        case(
            "the-same-twice",
            &[file("a", b"one"), file("./a", b"two")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("a")), "two");
            }),
        ),
        case(
            "xattrs",
            &[
                pax(&[
                    ("SCHILY.xattr.user.x", b"v"),
                    ("SCHILY.xattr.security.capability", b"\x01"),
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ]),
                file("a", b"x"),
            ],
            Extract(|tree| {
                let mut names = [0u8; 1024];
                let length = rustix::fs::listxattr(tree.join("a"), &mut names[..]).unwrap_or(0);
                for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
                    assert!(name.starts_with(b"user.") || name.starts_with(b"security.selinux"), "{name:?}");
                }
            }),
        ),
        case(
            "whiteouts-are-plain-files",
            &[file(".wh.a", b""), file(".wh..wh..opq", b"")],
            Extract(|tree| {
                assert!(tree.join(".wh.a").is_file());
            }),
        ),
    ]
}
