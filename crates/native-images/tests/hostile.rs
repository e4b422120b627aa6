//! Archives made to do harm or to be read in two ways. Each has one defined answer: it is unpacked to exactly what is
//! listed here, or refused by this name. Afterwards nothing outside the cache has changed, and of a refused archive
//! nothing is in it. Runs as whoever runs the tests; as root it runs a second time as a user without rights.
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use common::*;
use native_images::{ImageRef, Layout, Limits, Policy};

/// What has to come of an archive.
enum Answer {
    Refused(&'static str),
    /// Unpacked, and this looks at the tree.
    Extract(fn(&Path)),
}
use Answer::{Extract, Refused};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    answer: Answer,
}

fn case(name: &'static str, entries: &[Vec<u8>], answer: Answer) -> Case {
    Case { name, bytes: tar(entries), answer }
}

fn raw(name: &'static str, bytes: Vec<u8>, answer: Answer) -> Case {
    Case { name, bytes, answer }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// A header changed by hand, with its sum made right again.
fn changed(mut block: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    block[at..at + bytes.len()].copy_from_slice(bytes);
    resum(&mut block);
    block
}

fn with_mode(block: Vec<u8>, mode: &str) -> Vec<u8> {
    changed(block, 100, format!("{mode:0>7}\0").as_bytes())
}

fn long(flag: u8, value: &[u8]) -> Vec<u8> {
    let value = [value, b"\0"].concat();
    [header(b"././@LongLink", flag, value.len() as u64, b""), padded(&value)].concat()
}

/// GNU's old sparse form: pieces of one byte each.
fn old_sparse(name: &str, pieces: &[(u64, u64)], real: u64, data: &[u8]) -> Vec<u8> {
    let mut block = header(name.as_bytes(), b'S', data.len() as u64, b"");
    for (index, (offset, length)) in pieces.iter().enumerate() {
        let at = 386 + index * 24;
        block[at..at + 24].copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
    block[483..495].copy_from_slice(format!("{real:011o}\0").as_bytes());
    resum(&mut block);
    [block, padded(data)].concat()
}

fn names(outside: &Path) -> Vec<Case> {
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

fn links(outside: &Path) -> Vec<Case> {
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

fn kinds() -> Vec<Case> {
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

fn ends() -> Vec<Case> {
    let two = [file("a", b"one"), file("b", b"two")];
    let cut = |at: usize| two.concat()[..at].to_vec();
    let second = [tar(&two), tar(&[file("c", b"x")])].concat();
    vec![
        raw("no-end", two.concat(), Refused("archive-truncated")),
        raw("cut-between-entries", cut(1024), Refused("archive-truncated")),
        raw("cut-in-a-header", cut(1024 + 100), Refused("archive-truncated")),
        raw("cut-in-content", [header(b"a", b'0', 2000, b""), vec![1; 600]].concat(), Refused("archive-truncated")),
        raw("cut-in-padding", cut(1024 - 100), Refused("archive-truncated")),
        raw("half-an-end", [two.concat(), vec![0; 512]].concat(), Refused("archive-truncated")),
        raw(
            "more-zeros",
            [tar(&two), vec![0; 10240 - 3072]].concat(),
            Extract(|tree| {
                assert_eq!(text(&tree.join("b")), "two");
            }),
        ),
        raw("odd-zeros", [tar(&two), vec![0; 77]].concat(), Extract(|tree| assert!(tree.join("a").is_file()))),
        raw("second-archive", second, Refused("archive-trailing-data")),
        raw("junk-after-the-end", [tar(&two), b"junk".to_vec()].concat(), Refused("archive-trailing-data")),
        raw(
            "one-zero-block-then-more",
            [two[0].clone(), vec![0; 512], two[1].clone(), end()].concat(),
            Refused("archive-trailing-data"),
        ),
        raw("nothing", end(), Refused("archive-no-layer")),
        raw("junk-after-xz", [xz(&tar(&two)), b"junk".to_vec()].concat(), Refused("archive-damaged")),
        raw(
            "junk-after-zstd",
            [zstd::encode_all(&tar(&two)[..], 1).unwrap(), b"junk".to_vec()].concat(),
            Refused("archive-damaged"),
        ),
        raw(
            "xz-cut",
            {
                let bytes = xz(&tar(&two));
                bytes[..bytes.len() - 9].to_vec()
            },
            Refused("archive-damaged"),
        ),
        raw("xz-within-xz", xz(&xz(&[noise(5000, 1), tar(&two)].concat())), Refused("archive-header")),
        raw("only-xz-magic", b"\xfd7zXZ\0".to_vec(), Refused("archive-damaged")),
    ]
}

fn headers() -> Vec<Case> {
    let mut wrong_sum = file("a", b"x");
    wrong_sum[0] = b'b';
    let size_by_pax = |size: &[u8]| [pax(&[("size", size)]), file("a", b"hello")];
    vec![
        raw("wrong-check-sum", [file("first", b""), wrong_sum, end()].concat(), Refused("archive-header")),
        case(
            "pax-size-hides-an-entry",
            &[size_by_pax(b"1536").concat(), file("hidden", b"x")],
            Extract(|tree| {
                // The extended size counts, for whatever follows too: the header within the content is content.
                assert_eq!(std::fs::metadata(tree.join("a")).unwrap().len(), 1536);
                assert!(!tree.join("hidden").exists());
            }),
        ),
        case("pax-size-too-small", &size_by_pax(b"0"), Refused("archive-header")),
        case("pax-size-not-a-number", &size_by_pax(b"5x"), Refused("archive-header")),
        case("pax-size-negative", &size_by_pax(b"-5"), Refused("archive-header")),
        case(
            "pax-malformed",
            &[[header(b"p", b'x', 6, b""), padded(b"99 a=b")].concat(), file("a", b"x")],
            Refused("archive-header"),
        ),
        case(
            "pax-twice",
            &[pax(&[("path", b"one")]), pax(&[("path", b"two")]), file("a", b"x")],
            Refused("archive-header"),
        ),
        case(
            "pax-and-long-name",
            &[pax(&[("path", b"one")]), long(b'L', b"two"), file("a", b"x")],
            Refused("archive-header"),
        ),
        case("long-name-twice", &[long(b'L', b"one"), long(b'L', b"two"), file("a", b"x")], Refused("archive-header")),
        case("pax-for-nothing", &[file("a", b"x"), pax(&[("path", b"one")])], Refused("archive-header")),
        case("pax-too-large", &[header(b"p", b'x', 1 << 30, b"")], Refused("archive-header")),
        case("long-name-too-large", &[header(b"p", b'L', 1 << 30, b"")], Refused("archive-header")),
        case(
            "global-path",
            &[
                {
                    let mut p = pax(&[("path", b"evil")]);
                    p[156] = b'g';
                    resum(&mut p);
                    p
                },
                file("a", b"x"),
            ],
            Refused("archive-header"),
        ),
        case(
            "global-comment",
            &[
                {
                    let mut p = pax(&[("comment", b"0123")]);
                    p[156] = b'g';
                    resum(&mut p);
                    p
                },
                file("a", b"x"),
            ],
            Extract(|tree| {
                assert_eq!(text(&tree.join("a")), "x");
            }),
        ),
        case(
            "long-name",
            &[long(b'L', &[b'n'; 200]), file("short", b"x")],
            Extract(|tree| {
                assert!(tree.join("n".repeat(200)).is_file());
            }),
        ),
        case(
            "long-link",
            &[long(b'K', &[b't'; 300]), symlink("l", "short")],
            Extract(|tree| {
                assert_eq!(std::fs::read_link(tree.join("l")).unwrap().as_os_str().len(), 300);
            }),
        ),
        case(
            "size-negative-binary",
            &[changed(header(b"a", b'0', 0, b""), 124, &[0xff; 12])],
            Refused("archive-header"),
        ),
        case(
            "size-beyond-64-bits",
            &[changed(header(b"a", b'0', 0, b""), 124, &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
            Refused("archive-header"),
        ),
        case(
            "size-not-octal",
            &[changed(header(b"a", b'0', 0, b""), 124, b"00000000009\0")],
            Refused("archive-header"),
        ),
        case(
            "size-in-the-future",
            &[changed(header(b"a", b'0', 0, b""), 124, &[0x80, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0])],
            Refused("archive-truncated"),
        ),
        case(
            "times-no-clock-has",
            &[
                changed(
                    header(b"a", b'0', 0, b""),
                    136,
                    &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                ),
                changed(header(b"b", b'0', 0, b""), 136, &[0xff; 12]),
            ],
            Extract(|tree| {
                assert_eq!(std::fs::metadata(tree.join("b")).unwrap().mtime(), 0);
                assert!(std::fs::metadata(tree.join("a")).unwrap().mtime() > 0);
            }),
        ),
    ]
}

fn sparse() -> Vec<Case> {
    let pieces = [(0u64, 1u64), (1_000_000, 1)];
    let holds = |tree: &Path| {
        let meta = std::fs::metadata(tree.join("s")).unwrap();
        assert_eq!(meta.len(), 2_000_000);
        assert!(meta.blocks() * 512 < 1_000_000, "holes stay holes");
        let content = std::fs::read(tree.join("s")).unwrap();
        assert_eq!((content[0], content[1_000_000], content[1_999_999]), (b'A', b'B', 0));
    };
    let v1_map = padded(b"2\n0\n1\n1000000\n1\n");
    let v1 = |map: &[u8], real: &[u8]| {
        let data = [map, &padded(b"AB")[..]].concat();
        let size = map.len() as u64 + 2;
        let records = [
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", real),
        ];
        vec![pax(&records), header(b"GNUSparseFile.1/s", b'0', size, b""), data]
    };
    let v01 = |map: &[u8]| {
        let records = [
            ("GNU.sparse.size", &b"2000000"[..]),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.map", map),
        ];
        [pax(&records), file("GNUSparseFile.1/s", b"AB")]
    };
    let v00 = [
        pax(&[
            ("GNU.sparse.size", b"2000000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"1"),
            ("GNU.sparse.offset", b"1000000"),
            ("GNU.sparse.numbytes", b"1"),
        ]),
        file("s", b"AB"),
    ];
    vec![
        case("sparse-gnu", &[old_sparse("s", &pieces, 2_000_000, b"AB")], Extract(holds)),
        case("sparse-pax-1.0", &v1(&v1_map, b"2000000"), Extract(holds)),
        case("sparse-pax-0.1", &v01(b"0,1,1000000,1"), Extract(holds)),
        case("sparse-pax-0.0", &v00, Extract(holds)),
        case(
            "sparse-overlapping",
            &[old_sparse("s", &[(0, 1), (0, 1)], 2_000_000, b"AB")],
            Refused("entry-sparse-map"),
        ),
        case("sparse-beyond-its-end", &[old_sparse("s", &pieces, 10, b"AB")], Refused("entry-sparse-map")),
        case("sparse-with-too-much", &[old_sparse("s", &pieces, 2_000_000, b"ABC")], Refused("entry-sparse-map")),
        case("sparse-map-cut", &v1(&padded(b"9\n0\n1\n"), b"2000000"), Refused("entry-sparse-map")),
        case("sparse-map-of-words", &v01(b"0,one,2,3"), Refused("archive-header")),
        case("sparse-map-of-odd-length", &v01(b"0,1,2"), Refused("archive-header")),
        case("sparse-map-of-billions", &v1(&padded(b"4000000000\n0\n1\n"), b"2000000"), Refused("entry-sparse-map")),
        case(
            "sparse-terabyte",
            &[old_sparse("s", &[(0, 1)], (1 << 33) - 1, b"A"), old_sparse("t", &[(0, 1)], (1 << 33) - 1, b"A")],
            Refused("archive-limit"),
        ),
        case("sparse-exabyte", &v1(&v1_map, b"9000000000000000000"), Refused("archive-limit")),
    ]
}

fn bombs() -> Vec<Case> {
    let zeros = vec![0u8; 6 << 20];
    let many: Vec<Vec<u8>> = (0..1100).map(|number| file(&format!("f{number}"), b"")).collect();
    let encoder = |dictionary| {
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(dictionary);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let stream = liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        std::io::Write::write_all(&mut encoder, &tar(&[file("a", b"x")])).unwrap();
        encoder.finish().unwrap()
    };
    vec![
        raw("bomb-xz", xz(&tar(&[file("zeros", &zeros)])), Refused("archive-limit")),
        raw("bomb-zstd", zstd::encode_all(&tar(&[file("zeros", &zeros)])[..], 1).unwrap(), Refused("archive-limit")),
        case("too-many-entries", &many, Refused("archive-limit")),
        raw("xz-wants-a-gigabyte", encoder(1 << 30), Refused("archive-memory")),
    ]
}

/// Images in Bait's layout: what is wrong with the outer archive or between it and the inner one.
fn baits() -> Vec<Case> {
    let inner = tar(&[file("a", b"x")]);
    let sums = |text: &str| file("img-1/img.sha256", text.as_bytes());
    let digest = hex::encode(sha256(&inner).digest);
    vec![
        case(
            "bait",
            &[dir("img-1"), file("img-1/img.tar", &inner), sums(&format!("{digest}  img.tar\n"))],
            Extract(|tree| {
                assert_eq!(text(&tree.join("a")), "x");
            }),
        ),
        case(
            "bait-sums-first",
            &[sums(&format!("{}  ./img.tar\n", digest.to_uppercase())), file("img-1/img.tar", &inner)],
            Extract(|tree| {
                assert!(tree.join("a").is_file());
            }),
        ),
        case(
            "bait-wrong-sum",
            &[file("img-1/img.tar", &inner), sums(&format!("{}  img.tar\n", "0".repeat(64)))],
            Refused("archive-inner-sum"),
        ),
        case(
            "bait-wrong-sum-first",
            &[sums(&format!("{}  img.tar\n", "0".repeat(64))), file("img-1/img.tar", &inner)],
            Refused("archive-inner-sum"),
        ),
        case(
            "bait-sum-of-nothing",
            &[file("img-1/img.tar", &inner), sums(&format!("{digest}  other.tar\n"))],
            Refused("archive-inner-sum-file"),
        ),
        case(
            "bait-sum-malformed",
            &[file("img-1/img.tar", &inner), sums("hello\n")],
            Refused("archive-inner-sum-file"),
        ),
        case(
            "bait-two-layers",
            &[file("img-1/img.tar", &inner), file("img-2/img.tar", &inner)],
            Refused("entry-second-layer"),
        ),
        case("bait-inner-cut", &[file("img-1/img.tar", &inner[..600])], Refused("archive-truncated")),
        case(
            "bait-inner-trailing",
            &[file("img-1/img.tar", &[inner.clone(), b"x".to_vec()].concat())],
            Refused("archive-trailing-data"),
        ),
        case("bait-inner-evil", &[file("img-1/img.tar", &tar(&[file("../evil", b"x")]))], Refused("entry-dotdot")),
        case("bait-with-a-link", &[file("img-1/img.tar", &inner), symlink("img-1/x", "/etc")], Refused("entry-type")),
        case(
            "bait-is-a-link",
            &[symlink("img-1", "/etc"), file("img-1/img.tar", &inner)],
            Refused("entry-through-symlink"),
        ),
        case(
            "prefix-clash",
            &[file("img-ci-1/img-ci.yml", b""), file("img-ci-1/img-ci.tar", &inner)],
            Extract(|tree| {
                assert!(tree.join("a").is_file());
            }),
        ),
        case(
            "companions-of-a-plain-layer",
            &[dir("d"), file("d/list.yml", b"y"), file("d/list.sha256", b"z"), file("other", b"x")],
            Extract(|tree| {
                assert_eq!(text(&tree.join("d/list.yml")), "y");
                assert_eq!(text(&tree.join("other")), "x");
            }),
        ),
    ]
}

async fn run_all() -> usize {
    let temp = tempdir();
    let outside = temp.path().join("outside");
    std::fs::create_dir_all(outside.join("dir")).unwrap();
    std::fs::write(outside.join("file"), b"untouched").unwrap();
    let mut cases = names(&outside);
    for more in [links(&outside), kinds(), ends(), headers(), sparse(), bombs(), baits()] {
        cases.extend(more);
    }
    let before = snapshot(&outside);
    let limits = Limits { entries: 1000, expanded: 64 << 30, ratio: 100, ratio_floor: 4 << 20, ..quick() };
    let mut wrong = Vec::new();
    for case in &cases {
        let body = case.bytes.clone();
        let server = Server::start(move |_, _| vec![Act::Send(ok(&body))]).await;
        // A cache of its own, one level down, so that one `..` too many is seen too.
        let home = temp.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let images = open(&home, Policy { limits: limits.clone(), ..policy() });
        let image = ImageRef { layout: Layout::Auto, ..image(&server.url("/a"), Some(sha256(&case.bytes))) };
        let result = images.ensure(&image, &none()).await;
        match (&case.answer, result) {
            (Refused(kind), Err(error)) => {
                if error.kind() != *kind {
                    wrong.push(format!("{}: should be {kind}: {error:?}", case.name));
                }
                assert_empty(&home);
            }
            (Extract(check), Ok(handle)) => {
                check(&handle.layers()[0].dir);
                let reports = images.verify(None).await.unwrap();
                assert!(reports.iter().all(native_images::VerifyReport::ok), "{}: {reports:?}", case.name);
                // Over a directory, twice, it is the same.
                let over = home.join("over");
                native_images::unpack_over(handle.layers(), &over).unwrap();
                native_images::unpack_over(handle.layers(), &over).unwrap();
                check(&over);
                drop(handle);
                images.prune(&native_images::PruneOptions::default()).await.unwrap();
                assert_empty(&home);
            }
            (Refused(kind), Ok(_)) => wrong.push(format!("{}: unpacked, should be {kind}", case.name)),
            (Extract(_), Err(error)) => wrong.push(format!("{}: refused: {error:?}", case.name)),
        }
        assert_eq!(snapshot(&outside), before, "{}: changed something outside", case.name);
        let names: Vec<_> = std::fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{}: {names:?}", case.name);
        std::fs::remove_dir_all(&home).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    cases.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_archive_has_its_answer() {
    let count = run_all().await;
    println!("{count} archives");
    assert!(count >= 40);
}

#[test]
fn and_the_same_one_without_rights() {
    use std::os::unix::process::CommandExt as _;

    if !rustix::process::getuid().is_root() {
        println!("skipped: not root, so the other test ran without rights already");
        return;
    }
    let temp = tempdir();
    std::os::unix::fs::chown(temp.path(), Some(65534), Some(65534)).unwrap();
    // Built programs may lie where only root can go.
    let program = temp.path().join("hostile");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test itself, run again as another user")]
    let output = std::process::Command::new(&program)
        .args(["--exact", "every_hostile_archive_has_its_answer", "--nocapture"])
        .env("TMPDIR", temp.path())
        .env_remove("NEXTEST")
        .current_dir(temp.path())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}
