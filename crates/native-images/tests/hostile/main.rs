//! Archives made to do harm or to be read in two ways. Each has one defined answer: it is unpacked to exactly what is
//! listed here, or refused by this name. Afterwards nothing outside the cache has changed, and of a refused archive
//! nothing is in it. Runs as whoever runs the tests; as root it runs a second time as a user without rights.
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

#[path = "../common/mod.rs"]
mod common;
mod forms;
mod trees;

use std::os::unix::fs::PermissionsExt as _;

use common::*;
use forms::{baits, bombs, ends, headers, sparse};
use native_images::{ImageRef, Layout, Limits, Policy};
use trees::{Extract, Refused, kinds, links, names};

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
