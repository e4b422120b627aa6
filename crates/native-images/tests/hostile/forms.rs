//! Ends, headers, sparse maps, bombs, and images within images.
#![allow(clippy::allow_attributes, unreachable_pub, missing_docs, reason = "part of one suite")]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::common::*;
use crate::trees::*;

pub fn ends() -> Vec<Case> {
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
        raw("junk-after-blocks", [xz_blocks(&tar(&two), 700), b"junk".to_vec()].concat(), Refused("archive-damaged")),
        raw("blocks-cut", xz_blocks(&tar(&two), 700)[..300].to_vec(), Refused("archive-damaged")),
        raw("blocks-of-a-cut-archive", xz_blocks(&two.concat(), 700), Refused("archive-truncated")),
        raw("only-xz-magic", b"\xfd7zXZ\0".to_vec(), Refused("archive-damaged")),
    ]
}

pub fn headers() -> Vec<Case> {
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

pub fn sparse() -> Vec<Case> {
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

pub fn bombs() -> Vec<Case> {
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
        raw("bomb-in-blocks", xz_blocks(&tar(&[file("zeros", &zeros)]), 1 << 20), Refused("archive-limit")),
        raw("bomb-zstd", zstd::encode_all(&tar(&[file("zeros", &zeros)])[..], 1).unwrap(), Refused("archive-limit")),
        case("too-many-entries", &many, Refused("archive-limit")),
        raw("xz-wants-a-gigabyte", encoder(1 << 30), Refused("archive-memory")),
    ]
}

/// Images in Bait's layout: what is wrong with the outer archive or between it and the inner one.
pub fn baits() -> Vec<Case> {
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
