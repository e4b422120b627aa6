//! A bad neighbour: it fills its disks, forks without end, floods its log and spins on all cores, and another one eats
//! memory. The tenant beside them ends as it would alone, and everybody can be removed. How much slower it gets is
//! `cargo xtask soak`'s to say.

use e2e::{Bench, Tree, glutton, greedy, until};

/// Needs each thing that the greedy ones take: processor, memory, disk, temporary space, processes, output.
const WORK: &str = r#"#!/bin/bash
set -e
head -c 20000000 /dev/urandom >~/data
[ "$(sha256sum <~/data)" = "$(sha256sum <~/data)" ]
cp ~/data /tmp/data
for n in $(seq 20); do (:) & done; wait
seq 2000
echo whole
"#;

fn neighbours(isolation: &str) {
    let Some(bench) = Bench::new() else { return };
    bench.configure(&format!("isolation: {isolation}\ncpu_alter: 16\nram_alter: 32\npids_max: 200\nlog_size: 1MiB\n"));
    let allocate = |name: &str, tree: &Tree| {
        let image = bench.image(name, tree);
        let path = bench.write("bad.yml", &e2e::label(&[bench.source(&image, None)], "{}"));
        bench.fish(&["allocate", &path]).code(0).stdout.trim().to_owned()
    };
    let status = |id: &str| bench.fish(&["status", id, "--json"]).code(0).json();
    let glutton = allocate("glutton", &glutton());
    until("the glutton's end", || (status(&glutton)["running"] == false).then_some(()));
    assert_eq!(status(&glutton)["exit_code"], 137, "it was killed for memory");
    let greedy = allocate("greedy", &greedy());
    until("its processes and its flood", || {
        let status = status(&greedy);
        let flood = bench.dir.path().join("workspace").join(&greedy).join("log.1");
        (status["pids"].as_u64() > Some(150) && flood.exists()).then_some(())
    });

    let label = bench.label(WORK);
    let out = bench.fish(&["run", &label]).code(0);
    assert!(out.stdout.ends_with("2000\nwhole\n"), "{out:?}");

    assert_eq!(status(&greedy)["running"], true, "the greedy one goes on");
    let log = bench.dir.path().join("workspace").join(&greedy);
    let size = |name: &str| std::fs::metadata(log.join(name)).map_or(0, |meta| meta.len());
    let logged = size("log") + size("log.1");
    assert!(logged <= 2 << 20, "a flood of output is {logged} bytes on the host");
    for id in [&greedy, &glutton] {
        bench.fish(&["deallocate", id]).code(0);
    }
    bench.assert_as_before();
}

#[test]
fn a_greedy_tenant_harms_nobody_with_private_isolation() {
    neighbours("private");
}

#[test]
fn a_greedy_tenant_harms_nobody_with_basic_isolation() {
    neighbours("basic");
}
