//! Many at once on one workspace.

use std::time::Duration;

use e2e::{Answer, Bench, Tree};

#[test]
fn twenty_runs_share_one_download() {
    let Some(bench) = Bench::new() else { return };
    // Twenty of one CPU and one GB each, on whatever host this is.
    bench.configure("cpu_alter: 64\nram_alter: 64\n");
    let image = bench.image("work", &Tree::new().program("init.sh", "#!/bin/sh\necho \"I am $(id -un)\"\nexit 7\n"));
    bench.server.set(&image.file, Answer::Slow(image.path.clone(), Duration::from_secs(2)));
    let label = bench.label_of(&[bench.source(&image, None)], "{}");

    let runs: Vec<_> = (0..20).map(|_| bench.start(&["run", &label])).collect();
    let mut users: Vec<String> = runs.into_iter().map(|run| run.finish().code(7).stdout).collect();
    users.sort();
    users.dedup();
    assert_eq!(users.len(), 20, "twenty different users: {users:?}");
    assert!(users.iter().all(|line| line.starts_with("I am fish-")), "{users:?}");
    assert_eq!(bench.server.requests(&image.file), 1, "one download");
    bench.assert_as_before();
}
