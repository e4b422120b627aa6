//! The way of a good image: every format and layout, the cache, what is placed by hand.
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::{Arc, Mutex};

use common::*;
use native_images::{Algo, Checksum, EnsureError, Event, Events, FetchError, Layout, Policy, PruneOptions, Source};

fn compressed(format: &str, tar: &[u8]) -> Vec<u8> {
    match format {
        "tar" => tar.to_vec(),
        "xz" => xz(tar),
        "xz-streams" => {
            let (a, b) = tar.split_at(tar.len() / 2);
            [xz(a), vec![0; 8], xz(b), vec![0; 4]].concat()
        }
        "xz-blocks" => xz_blocks(tar, 64 * 1024),
        "xz-streams-of-blocks" => {
            let (a, b) = tar.split_at(tar.len() / 3);
            [xz_blocks(a, 10_000), vec![0; 4], xz(b), xz_blocks(&[], 1000), vec![0; 8]].concat()
        }
        "zst" => zstd::encode_all(tar, 1).unwrap(),
        "zst-frames" => {
            let (a, b) = tar.split_at(1000);
            let skip = [&b"\x50\x2a\x4d\x18\x04\0\0\0abcd"[..]].concat();
            [skip, zstd::encode_all(a, 1).unwrap(), zstd::encode_all(b, 1).unwrap()].concat()
        }
        "gz" | "gz-members" => {
            let gz = |part: &[u8]| {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(part).unwrap();
                encoder.finish().unwrap()
            };
            let (a, b) = tar.split_at(if format == "gz" { 0 } else { 700 });
            if a.is_empty() { gz(b) } else { [gz(a), gz(b)].concat() }
        }
        "bz2" | "bz2-streams" => {
            let bz2 = |part: &[u8]| {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                encoder.write_all(part).unwrap();
                encoder.finish().unwrap()
            };
            let (a, b) = tar.split_at(if format == "bz2" { 0 } else { 900 });
            if a.is_empty() { bz2(b) } else { [bz2(a), bz2(b)].concat() }
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_and_layout_gives_the_same_tree() {
    for format in [
        "tar",
        "xz",
        "xz-streams",
        "xz-blocks",
        "xz-streams-of-blocks",
        "zst",
        "zst-frames",
        "gz",
        "gz-members",
        "bz2",
        "bz2-streams",
    ] {
        for as_bait in [true, false] {
            let inner = usual();
            let body = compressed(format, &if as_bait { bait(&inner) } else { inner.clone() });
            let sum = sha256(&body);
            let length = body.len() as u64;
            let server = Server::file(body).await;
            let temp = tempdir();
            let images = open(temp.path(), policy());
            let image = image(&server.url("/img-1.whatever"), Some(sum.clone()));
            let handle = images.ensure(&image, &none()).await.unwrap_or_else(|error| panic!("{format}: {error:?}"));
            assert_eq!(handle.digest(), sum.to_string());
            assert_eq!(handle.bytes(), length);
            assert!(!handle.from_cache());
            let [layer] = handle.layers() else { panic!("{format}: one layer") };
            assert_eq!(layer.digest, sha256(&inner).to_string(), "{format}");
            assert_eq!(layer.entries, 6);
            let tree = &layer.dir;
            assert_eq!(std::fs::read(tree.join("data")).unwrap(), noise(300_000, 7));
            assert_eq!(std::fs::read_link(tree.join("link")).unwrap().to_str().unwrap(), "/usr/bin/env");
            let run = std::fs::metadata(tree.join("bin/run.sh")).unwrap();
            assert_eq!(run.mtime(), 1_600_000_000);
            assert_eq!(run.uid(), rustix::process::getuid().as_raw());
            assert_eq!(run.ino(), std::fs::metadata(tree.join("hard")).unwrap().ino());
            assert_eq!(std::fs::metadata(tree.join("bin")).unwrap().mtime(), 1_600_000_000);
            assert_eq!(std::fs::metadata(tree.join("deep")).unwrap().permissions().mode() & 0o7777, 0o755);
            assert_eq!(std::fs::read(handle.path().join("img/data")).unwrap(), noise(300_000, 7));
            assert_eq!(server.requests().len(), 1);

            let again = images.ensure(&image, &none()).await.unwrap();
            assert!(again.from_cache());
            assert_eq!(again.layers(), handle.layers());
            assert_eq!(server.requests().len(), 1, "a cached image with a sum asks nobody");
            let reports = images.verify(None).await.unwrap();
            assert!(reports.iter().all(native_images::VerifyReport::ok), "{reports:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_two_images_is_there_once() {
    let inner = usual();
    let (one, two) = (bait(&inner), [bait(&inner), vec![0; 512]].concat());
    let (sum_one, sum_two) = (sha256(&one), sha256(&two));
    let server = Server::start(move |request, _| {
        vec![Act::Send(file_answer(request, if request.path == "/one" { &one } else { &two }, "\"x\""))]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let first = images.ensure(&image(&server.url("/one"), Some(sum_one)), &none()).await.unwrap();
    let second = images.ensure(&image(&server.url("/two"), Some(sum_two)), &none()).await.unwrap();
    assert_ne!(first.digest(), second.digest());
    assert_eq!(first.layers(), second.layers());
    assert_eq!(images.list().await.unwrap().len(), 2, "same name and version, another sum: another entry");
    assert_eq!(std::fs::read_dir(temp.path().join("cache/layers")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_sums_leave_nothing() {
    let body = xz(&bait(&usual()));
    let wrong: Checksum = format!("sha256:{}", "11".repeat(32)).parse().unwrap();
    let server = Server::file(body.clone()).await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let error = images.ensure(&image(&server.url("/a"), Some(wrong)), &none()).await.unwrap_err();
    assert!(matches!(error, EnsureError::Sum { asker: "the label", .. }), "{error:?}");
    assert!(error.hint().unwrap().contains(&sha256(&body).to_string()));
    assert_empty(temp.path());

    // A damaged archive under a sum is the wrong file first of all.
    let mut damaged = body.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let server = Server::file(damaged).await;
    let error = images.ensure(&image(&server.url("/a"), Some(sha256(&body))), &none()).await.unwrap_err();
    assert!(matches!(error, EnsureError::Sum { .. }), "{error:?}");
    assert_empty(temp.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn header_checksums_are_believed_before_the_body() {
    let body = xz(&bait(&usual()));
    let right = sha256(&body);
    let hex = hex::encode(&right.digest).to_uppercase();
    let send = body.clone();
    let server = Server::start(move |request, _| {
        let length = send.len().to_string();
        let sum = if request.path == "/right" { hex.clone() } else { "22".repeat(32) };
        vec![Act::Send(answer("200 OK", &[("Content-Length", &length), ("x-CHECKSUM-sha256", &sum)], &send))]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let label = images.ensure(&image(&server.url("/wrong"), Some(right.clone())), &none()).await.unwrap_err();
    assert!(matches!(label, EnsureError::Fetch { source: FetchError::HeaderSum { .. }, .. }), "{label:?}");
    let header = images.ensure(&image(&server.url("/wrong"), None), &none()).await.unwrap_err();
    assert!(matches!(header, EnsureError::Sum { asker: "the server's header", .. }), "{header:?}");
    assert_empty(temp.path());
    images.ensure(&image(&server.url("/right"), None), &none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_algorithm_is_checked_and_weak_ones_warn() {
    use md5::Digest as _;
    let body = tar(&[file("a", b"a")]);
    let sums = [
        Checksum { algo: Algo::Md5, digest: md5::Md5::digest(&body).to_vec() },
        Checksum { algo: Algo::Sha1, digest: sha1::Sha1::digest(&body).to_vec() },
        Checksum { algo: Algo::Sha512, digest: sha2::Sha512::digest(&body).to_vec() },
    ];
    let server = Server::file(body).await;
    for sum in sums {
        let temp = tempdir();
        let images = open(temp.path(), policy());
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let there = Arc::clone(&warnings);
        let events = Events::new(move |event| {
            if let Event::Warning { message, .. } = event {
                there.lock().unwrap().push(message);
            }
        });
        images.ensure(&image(&server.url("/a"), Some(sum.clone())), &events).await.unwrap();
        assert_eq!(warnings.lock().unwrap().len(), usize::from(sum.algo.is_weak()), "{sum}");
        let mut wrong = sum.clone();
        wrong.digest[0] ^= 1;
        let error = images.ensure(&image(&server.url("/a"), Some(wrong)), &none()).await.unwrap_err();
        assert!(matches!(error, EnsureError::Sum { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_with_a_sum_is_not_served_what_came_without_one() {
    let (good, evil) = (tar(&[file("a", b"good")]), tar(&[file("a", b"evil")]));
    let sum = sha256(&good);
    let server = Server::start(move |request, number| {
        vec![Act::Send(file_answer(request, if number == 0 { &evil } else { &good }, "\"x\""))]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let url = server.url("/img-1.tar");
    let poisoned = images.ensure(&image(&url, None), &none()).await.unwrap();
    assert_eq!(std::fs::read(poisoned.layers()[0].dir.join("a")).unwrap(), b"evil");
    let checked = images.ensure(&image(&url, Some(sum)), &none()).await.unwrap();
    assert_eq!(std::fs::read(checked.layers()[0].dir.join("a")).unwrap(), b"good");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sum_the_server_is_asked_whether_it_changed() {
    let (one, two) = (tar(&[file("a", b"one")]), tar(&[file("a", b"two")]));
    let state = Arc::new(Mutex::new("\"one\""));
    let there = Arc::clone(&state);
    let server = Server::start(move |request, _| {
        let etag = *there.lock().unwrap();
        match etag {
            "down" => vec![Act::Send(answer("503 Busy", &[], b""))],
            "gone" => vec![Act::Send(answer("404 Gone", &[], b""))],
            etag => vec![Act::Send(file_answer(request, if etag == "\"one\"" { &one } else { &two }, etag))],
        }
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let image = image(&server.url("/img-1.tar"), None);
    let content = |handle: &native_images::ImageHandle| std::fs::read(handle.layers()[0].dir.join("a")).unwrap();
    assert_eq!(content(&images.ensure(&image, &none()).await.unwrap()), b"one");
    let second = images.ensure(&image, &none()).await.unwrap();
    assert!(second.from_cache());
    assert_eq!(server.requests()[1].header("if-none-match"), Some("\"one\""));
    *state.lock().unwrap() = "\"two\"";
    let third = images.ensure(&image, &none()).await.unwrap();
    assert!(!third.from_cache());
    assert_eq!(content(&third), b"two");
    *state.lock().unwrap() = "down";
    assert_eq!(content(&images.ensure(&image, &none()).await.unwrap()), b"two");
    *state.lock().unwrap() = "gone";
    assert!(images.ensure(&image, &none()).await.is_err(), "a server that says no is believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_file_names_are_refused() {
    let temp = tempdir();
    let images = open(temp.path(), policy());
    for bad in ["..", "a/b", "", "-rf", ".hidden", "a\0b", "a\nb", "ä", &"x".repeat(300)] {
        let image = native_images::ImageRef { name: bad.into(), ..image("http://127.0.0.1:9/x", None) };
        let error = images.ensure(&image, &none()).await.unwrap_err();
        assert!(matches!(error, EnsureError::Name { field: "name", .. }), "{bad:?}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn placed_images_are_used_as_they_are() {
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let cache = temp.path().join("cache");
    let real = temp.path().join("store/img-1/img-1");
    std::fs::create_dir_all(&real).unwrap();
    std::os::unix::fs::symlink(temp.path().join("store/img-1"), cache.join("img-1")).unwrap();
    let nowhere = image("http://127.0.0.1:9/img-1.tar.xz", Some(sha256(b"something")));
    let error = images.ensure(&nowhere, &none()).await.unwrap_err();
    assert!(matches!(error, EnsureError::Placed { .. }), "{error:?}");
    std::fs::write(real.join("img.tar"), tar(&[file("a", b"placed")])).unwrap();
    let before = snapshot(&temp.path().join("store"));
    let handle = images.ensure(&nowhere, &none()).await.unwrap();
    assert_eq!(std::fs::read(handle.layers()[0].dir.join("a")).unwrap(), b"placed");
    assert!(handle.from_cache());
    let list = images.list().await.unwrap();
    assert_eq!((list.len(), list[0].source), (1, Source::Placed));
    std::fs::write(real.join("img.tar"), tar(&[file("a", b"placed again")])).unwrap();
    let handle = images.ensure(&nowhere, &none()).await.unwrap();
    assert_eq!(std::fs::read(handle.layers()[0].dir.join("a")).unwrap(), b"placed again");
    drop(handle);
    images.prune(&PruneOptions::default()).await.unwrap();
    assert_eq!(snapshot(&temp.path().join("store")).len(), before.len(), "prune leaves what the operator placed");
    assert_eq!(images.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_spares_what_is_held_or_pinned_and_takes_the_oldest_first() {
    let server = Server::start(|request, _| {
        let body = tar(&[file("a", &noise(100_000, request.path.len() as u64))]);
        vec![Act::Send(file_answer(request, &body, "\"x\""))]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let mut handles = Vec::new();
    for number in 1..=4 {
        let url = server.url(&format!("/{}", "x".repeat(number)));
        let image = native_images::ImageRef { version: number.to_string(), ..image(&url, None) };
        let handle = images.ensure(&image, &none()).await.unwrap();
        let when = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + number as u64);
        let record = std::fs::File::options().append(true).open(handle.path().join(".image.json")).unwrap();
        record.set_modified(when).unwrap();
        handles.push(handle);
    }
    // 1 is held, 2 is pinned, 3 and 4 are free; 3 is older.
    images.pin("fish-abcdef", handles[1].layers()).unwrap();
    let held = handles.remove(0);
    drop(handles);
    let report = images.prune(&PruneOptions { max_size: Some(350_000), ..PruneOptions::default() }).await.unwrap();
    assert_eq!(report.removed, ["img-3"]);
    assert_eq!(report.in_use, ["img-1", "img-2"]);
    let report = images.prune(&PruneOptions::default()).await.unwrap();
    assert_eq!(report.removed, ["img-4"]);
    assert_eq!(std::fs::read(held.layers()[0].dir.join("a")).unwrap(), noise(100_000, 2));
    assert!(images.hold(&[held.layers()[0].digest.clone()]).unwrap().is_some());
    assert_eq!(images.pins().unwrap(), ["fish-abcdef"]);
    images.unpin("fish-abcdef").unwrap();
    images.unpin("fish-abcdef").unwrap();
    drop(held);
    let report = images.prune(&PruneOptions::default()).await.unwrap();
    assert_eq!(report.removed, ["img-1", "img-2"]);
    assert_eq!(report.remaining, 0);
    assert_empty(temp.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_keeps_within_its_size() {
    let server = Server::start(|request, _| {
        let body = tar(&[file("a", &noise(100_000, request.path.len() as u64))]);
        vec![Act::Send(file_answer(request, &body, "\"x\""))]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), Policy { max_size: Some(150_000), ..policy() });
    for number in 1..=3 {
        let image = image(&server.url(&format!("/{}", "x".repeat(number))), None);
        drop(images.ensure(&image, &none()).await.unwrap());
    }
    assert_eq!(images.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_every_kind_of_change() {
    let body = bait(&usual());
    let server = Server::file(body).await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let handle = images.ensure(&image(&server.url("/a"), None), &none()).await.unwrap();
    let tree = handle.layers()[0].dir.clone();
    let data = tree.join("data");
    let mut content = std::fs::read(&data).unwrap();
    content[1234] ^= 1;
    let time = std::fs::metadata(&data).unwrap().modified().unwrap();
    std::fs::write(&data, &content).unwrap();
    std::fs::File::options().append(true).open(&data).unwrap().set_modified(time).unwrap();
    std::fs::write(tree.join("new"), b"").unwrap();
    std::fs::remove_file(tree.join("deep/er/file")).unwrap();
    std::fs::remove_file(tree.join("link")).unwrap();
    std::os::unix::fs::symlink("/elsewhere", tree.join("link")).unwrap();
    std::fs::set_permissions(tree.join("bin"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let report = images.verify(Some("img-1")).await.unwrap().remove(0);
    let text = serde_json::to_string(&report.problems).unwrap();
    for wanted in [
        r#"{"problem":"changed","path":"data","what":"content"}"#,
        r#"{"problem":"added","path":"new"}"#,
        r#"{"problem":"missing","path":"deep/er/file"}"#,
        r#"{"problem":"changed","path":"link","what":"target"}"#,
        r#"{"problem":"changed","path":"bin","what":"mode"}"#,
    ] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert_eq!(report.problems.len(), 5, "{text}");
    assert!(images.verify(Some("other")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_can_be_demanded() {
    let body = bait(&usual());
    let server = Server::file(body).await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let url = server.url("/a");
    let with = |layout, name: &str| native_images::ImageRef { layout, name: name.into(), ..image(&url, None) };
    let plain = images.ensure(&with(Layout::Plain, "img"), &none()).await.unwrap();
    assert!(plain.layers()[0].dir.join("img-1/img.tar").is_file());
    let bait = images.ensure(&with(Layout::Bait, "img"), &none()).await.unwrap();
    assert!(bait.layers()[0].dir.join("bin/run.sh").is_file());
    let error = images.ensure(&with(Layout::Bait, "other"), &none()).await.unwrap_err();
    assert_eq!(error.kind(), "archive-no-layer");
    let auto = images.ensure(&with(Layout::Auto, "other"), &none()).await.unwrap();
    assert_eq!(auto.layers()[0].name, "img");
}
