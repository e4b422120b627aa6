//! Processes that are killed at any point, and many that want the same: one request, right results, no leftovers.
#![expect(clippy::disallowed_methods, reason = "starts examples/pull.rs to kill it")]
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use native_images::Checksum;

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    let program = target.join("examples/pull");
    assert!(program.is_file(), "{} is not built; run the whole package's tests", program.display());
    program
}

fn pull(dir: &Path, url: &str, sum: Option<&Checksum>) -> Command {
    let mut command = Command::new(program());
    command.arg(url).arg(dir.join("cache")).args(["--name", "img", "--version", "1", "--threads", "2"]);
    if let Some(sum) = sum {
        command.arg("--sum").arg(sum.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Ten files of noise, so that every tenth of the archive is one more file.
fn archive() -> Vec<u8> {
    let files: Vec<_> = (0..10u64).map(|number| file(&format!("f{number}"), &noise(150_000, number))).collect();
    tar(&files)
}

/// Files in whatever is being unpacked.
fn unpacked(dir: &Path) -> usize {
    let Ok(staging) = std::fs::read_dir(dir.join("cache/staging")) else { return 0 };
    let trees = staging.flatten().filter_map(|entry| std::fs::read_dir(entry.path().join("layer-0/tree")).ok());
    trees.map(Iterator::count).sum()
}

async fn assert_right(dir: &Path) {
    let images = open(dir, policy());
    let list = images.list().await.unwrap();
    assert_eq!(list.len(), 1);
    for number in 0..10u64 {
        let path = list[0].layers[0].dir.join(format!("f{number}"));
        assert_eq!(std::fs::read(path).unwrap(), noise(150_000, number));
    }
    assert!(images.verify(None).await.unwrap()[0].ok());
    let left: Vec<_> = std::fs::read_dir(dir.join("cache/staging")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(std::fs::read_dir(dir.join("cache/layers")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(dir.join("cache/blobs")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_tenth_and_started_again() {
    let blocks = xz_blocks(&archive(), 100_000);
    for (body, with_sum) in [(archive(), true), (archive(), false), (blocks.clone(), true), (blocks, false)] {
        let tenths: &[usize] = if with_sum { &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10] } else { &[0, 5, 10] };
        for &tenth in tenths {
            let (send, part) = (body.clone(), body.len() * tenth / 10);
            let dying = Arc::new(AtomicBool::new(true));
            let there = Arc::clone(&dying);
            let server = Server::start(move |request, _| {
                let mut bytes = file_answer(request, &send, "\"x\"");
                if there.load(Ordering::SeqCst) {
                    bytes.truncate(bytes.len() - send.len() + part);
                    return vec![Act::Send(bytes), Act::Stall];
                }
                vec![Act::Send(bytes)]
            })
            .await;
            let temp = tempdir();
            let sum = sha256(&body);
            let sum = with_sum.then_some(&sum);
            let mut child = pull(temp.path(), &server.url("/a"), sum).spawn().unwrap();
            eventually("unpacked so far", || {
                let done = tenth == 10 && child.try_wait().unwrap().is_some();
                (unpacked(temp.path()) + 4 >= tenth && !server.requests().is_empty()) || done
            })
            .await;
            kill(child);
            dying.store(false, Ordering::SeqCst);
            let output = pull(temp.path(), &server.url("/a"), sum).output().unwrap();
            assert!(output.status.success(), "{tenth}: {}", String::from_utf8_lossy(&output.stderr));
            assert_right(temp.path()).await;
            let requests = server.requests();
            if with_sum && (6..10).contains(&tenth) {
                let from = requests.last().unwrap().range().unwrap_or(0);
                assert!(from > 0 && from <= part, "{tenth}: went on from {from} of {part}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_tenth_of_an_unpack_and_started_again() {
    // All bytes are there at once, so that what is interrupted is the unpacking.
    for body in [archive(), xz_blocks(&archive(), 100_000)] {
        let sum = sha256(&body);
        let server = Server::file(body).await;
        for files in 0..=10 {
            let temp = tempdir();
            let mut child = pull(temp.path(), &server.url("/a"), Some(&sum)).spawn().unwrap();
            while unpacked(temp.path()) < files && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            kill(child);
            let output = pull(temp.path(), &server.url("/a"), Some(&sum)).output().unwrap();
            assert!(output.status.success(), "{files}: {}", String::from_utf8_lossy(&output.stderr));
            assert_right(temp.path()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_phase_and_started_again() {
    use std::io::BufRead as _;

    let body = archive();
    let sum = sha256(&body);
    let server = Server::file(body).await;
    for marker in ["Connect", "Download", "Unpack", "Verify", "Publish", "Done"] {
        let temp = tempdir();
        let mut child = pull(temp.path(), &server.url("/a"), Some(&sum)).env("PULL_EVENTS", "1").spawn().unwrap();
        let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let seen = tokio::task::spawn_blocking(move || lines.map_while(Result::ok).any(|line| line.contains(marker)));
        assert!(seen.await.unwrap(), "{marker}");
        kill(child);
        let output = pull(temp.path(), &server.url("/a"), Some(&sum)).output().unwrap();
        assert!(output.status.success(), "{marker}: {}", String::from_utf8_lossy(&output.stderr));
        assert_right(temp.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_tampered_with_is_found_and_fetched_anew() {
    let body = archive();
    let sum = sha256(&body);
    let (send, half) = (body.clone(), body.len() / 2);
    let dying = Arc::new(AtomicBool::new(true));
    let there = Arc::clone(&dying);
    let server = Server::start(move |request, _| {
        let mut bytes = file_answer(request, &send, "\"x\"");
        if there.load(Ordering::SeqCst) {
            bytes.truncate(bytes.len() - half);
            return vec![Act::Send(bytes), Act::Stall];
        }
        vec![Act::Send(bytes)]
    })
    .await;
    let temp = tempdir();
    let child = pull(temp.path(), &server.url("/a"), Some(&sum)).spawn().unwrap();
    eventually("half of it", || unpacked(temp.path()) >= 1).await;
    kill(child);
    dying.store(false, Ordering::SeqCst);
    let staging = temp.path().join("cache/staging");
    let entries = std::fs::read_dir(&staging).unwrap().flatten().map(|entry| entry.path());
    let part = entries.into_iter().find(|path| path.extension().is_some_and(|end| end == "part")).unwrap();
    let mut content = std::fs::read(&part).unwrap();
    content[100_000] ^= 1;
    std::fs::write(&part, &content).unwrap();
    let output = pull(temp.path(), &server.url("/a"), Some(&sum)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_right(temp.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_processes_make_one_request() {
    for with_sum in [true, false] {
        let body = archive();
        let sum = sha256(&body);
        let server = Server::file(body).await;
        let temp = tempdir();
        let (dir, url) = (temp.path().to_owned(), server.url("/a"));
        let outputs = tokio::task::spawn_blocking(move || {
            let children: Vec<_> =
                (0..50).map(|_| pull(&dir, &url, with_sum.then_some(&sum)).spawn().unwrap()).collect();
            children.into_iter().map(|child| child.wait_with_output().unwrap()).collect::<Vec<_>>()
        })
        .await
        .unwrap();
        let mut fetched = 0;
        for output in &outputs {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            fetched += usize::from(report["from_cache"] == false);
        }
        assert_eq!(fetched, 1);
        // Without a sum, a process that comes when the image is there already asks whether it changed.
        let requests = server.requests();
        assert_eq!(requests.iter().filter(|request| request.header("if-none-match").is_none()).count(), 1);
        if with_sum {
            assert_eq!(requests.len(), 1);
        }
        assert_right(temp.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_downloader_dies_the_next_goes_on() {
    let body = archive();
    let sum = sha256(&body);
    let (send, half) = (body.clone(), body.len() / 2);
    let server = Server::start(move |request, number| {
        let mut bytes = file_answer(request, &send, "\"x\"");
        if number == 0 {
            bytes.truncate(bytes.len() - half);
            return vec![Act::Send(bytes), Act::Stall];
        }
        vec![Act::Send(bytes)]
    })
    .await;
    let temp = tempdir();
    let first = pull(temp.path(), &server.url("/a"), Some(&sum)).spawn().unwrap();
    eventually("half of it", || unpacked(temp.path()) >= 1).await;
    let images = open(temp.path(), policy());
    let image = image(&server.url("/a"), Some(sum));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let events = native_images::Events::new(move |event| drop(tell.send(event)));
    let waiting = tokio::spawn(async move { images.ensure(&image, &events).await });
    let waits = native_images::Phase::Waiting;
    while let Some(event) = told.recv().await {
        if matches!(event, native_images::Event::Phase { phase, .. } if phase == waits) {
            break;
        }
    }
    assert_eq!(server.requests().len(), 1, "the second one waits");
    kill(first);
    drop(waiting.await.unwrap().unwrap());
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].range().unwrap() > 0, "it goes on from what is there");
    // The tree that the dead one unpacked goes with the next start.
    assert_right(temp.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_tasks_make_one_request() {
    let body = archive();
    let sum = sha256(&body);
    let server = Server::file(body).await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let image = image(&server.url("/a"), Some(sum));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (images, image) = (images.clone(), image.clone());
        tasks.spawn(async move { images.ensure(&image, &none()).await.unwrap() });
    }
    let handles = tasks.join_all().await;
    assert_eq!(handles.iter().filter(|handle| !handle.from_cache()).count(), 1);
    assert_eq!(server.requests().len(), 1);
}
