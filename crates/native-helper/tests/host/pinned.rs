//! Two environments that work together: one keeps the other's disk from going.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use native_platform::{ErrorKind, LayersStep, Step, VolumeName, WorkloadStep};

use crate::common::{Bench, Undo, account, disk, shell, sized, volume, workload};

/// Hands the other one a descriptor of a file of its disk, or of its mount namespace, through a socket.
const GIVE: &str = r#"#!/usr/bin/python3
import array, os, socket, sys, time
address, what = sys.argv[1] if len(sys.argv) > 1 else os.environ["ADDRESS"], os.environ["WHAT"]
address = "\0" + address[1:] if address.startswith("@") else address
disk = f"/run/fish-native/{os.environ['USER']}/ws"
with open(f"{disk}/big", "wb") as f: f.write(b"x" * (8 << 20))
fd = os.open(f"{disk}/big" if what == "file" else "/proc/self/ns/mnt", os.O_RDONLY)
for attempt in range(600):
    try:
        s = socket.socket(socket.AF_UNIX); s.connect(address); break
    except PermissionError as e:
        print("refused", flush=True); sys.exit(3)
    except OSError: time.sleep(0.05)
socket.send_fds(s, [b"x"], [fd])
print("given", flush=True)
time.sleep(600)
"#;

/// Takes the descriptor and keeps it.
const TAKE: &str = r#"#!/usr/bin/python3
import os, socket, time
address = os.environ["ADDRESS"]
address = "\0" + address[1:] if address.startswith("@") else address
s = socket.socket(socket.AF_UNIX); s.bind(address); s.listen()
if not address.startswith("\0"): os.chmod(address, 0o777)
c, _ = s.accept()
_, fds, _, _ = socket.recv_fds(c, 1, 1)
print("taken", flush=True)
while True:
    time.sleep(0.05)
    try: os.pread(fds[0], 1, 0)
    except OSError as e:
        if e.errno == 5: print("EIO", flush=True); break
time.sleep(600)
"#;

/// An environment with a disk and one of the two programs.
fn start(bench: &Bench, program: &str, address: &str, what: &str, open: Option<&Path>) -> Vec<Step> {
    let mut step = workload("./init.py");
    step.variables.0 = vec![("ADDRESS".to_owned(), address.to_owned()), ("WHAT".to_owned(), what.to_owned())];
    let step = WorkloadStep { writable_paths: open.map(Path::to_owned).into_iter().collect(), ..step };
    let name = format!("layer-{}", bench.scope.id);
    let layers = vec![bench.layer(&name, &[("init.py", program)])];
    let steps = vec![
        account(),
        volume(VolumeName::Home, sized(32)),
        volume(VolumeName::Temp, sized(32)),
        volume(disk("ws"), sized(64)),
        Step::Layers(LayersStep { volume: VolumeName::Home, layers }),
        Step::Workload(step),
    ];
    let mut session = bench.session();
    for step in &steps {
        session.execute(step).unwrap();
    }
    session.finish().unwrap();
    steps
}

/// Waits until a workload has printed this.
fn prints(bench: &Bench, word: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !bench.log().contains(word) {
        assert!(std::time::Instant::now() < deadline, "{word:?} in {:?}", bench.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks in use by the workspace's nameless files, as the device's own file tells.
fn pinned_by(what: &str, holds: &str) {
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: no /usr/bin/python3 (apt-get install python3)");
        return;
    }
    let Some(giver) = Bench::new("fish-pinaaa") else { return };
    let taker = giver.beside("fish-pinbbb");
    // An operator's writable path is a way between the two that Landlock does not close.
    let open = PathBuf::from("/srv/fish-pinned-open");
    shell(&format!("rm -rf {0}; mkdir -m 1777 -p {0}", open.display()));
    let _undo = Undo(format!("rm -rf {}", open.display()));
    let address = open.join("socket").display().to_string();
    start(&taker, TAKE, &address, what, Some(&open));
    let steps = start(&giver, GIVE, &address, what, Some(&open));
    prints(&taker, "taken");

    let mut session = giver.session();
    let mut stuck = Vec::new();
    for step in steps.iter().rev() {
        stuck.extend(session.revert(step).err());
    }
    assert!(!stuck.is_empty() && stuck.iter().all(|e| e.kind == ErrorKind::Stuck), "{stuck:#?}");
    let told = stuck.iter().find(|e| e.message.contains("disk ws")).unwrap();
    for word in [holds, "(init.py) of uid", "space given back"] {
        assert!(
            told.message.contains(word) || word.contains("init.py") && told.message.contains("of uid"),
            "{word}: {told:?}"
        );
    }
    assert!(told.hint.as_ref().is_some_and(|h| h.contains("audit --fix")), "{told:?}");
    if what == "file" {
        prints(&taker, "EIO");
    }
    let found = session.audit().unwrap();
    let kind = if what == "file" { "pinned-disk" } else { "mount-elsewhere" };
    assert!(found.iter().any(|l| l.kind == kind) && found.iter().any(|l| l.kind == "loop"), "{found:#?}");
    // The space is back although the device is not.
    let size =
        shell("for n in /sys/block/loop*; do grep -q . $n/loop/backing_file 2>/dev/null && cat $n/size; done || true");
    assert!(!size.is_empty(), "the device is there");
    session.finish().unwrap();

    // With the other one gone, so is the disk.
    let mut session = taker.session();
    session.purge().unwrap();
    assert_eq!(session.audit().unwrap(), []);
    session.finish().unwrap();
    let mut session = giver.session();
    session.purge().unwrap();
    assert_eq!(session.audit().unwrap(), []);
    session.finish().unwrap();
}

#[test]
fn a_disk_whose_file_was_handed_on_is_ended_and_told() {
    pinned_by("file", "fd ");
}

#[test]
fn a_disk_whose_namespace_was_handed_on_is_ended_and_told() {
    pinned_by("namespace", "namespace fd ");
}

#[test]
fn abstract_sockets_reach_no_other_environment() {
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: no /usr/bin/python3 (apt-get install python3)");
        return;
    }
    let Some(giver) = Bench::new("fish-pinccc") else { return };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.trim().parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(12)) {
        println!("skipped: Linux {} has no Landlock scopes", release.trim());
        return;
    }
    let taker = giver.beside("fish-pinddd");
    start(&taker, TAKE, "@fish-pinned", "file", None);
    // It listens by the time that the other one is refused: a socket that is not there is another error.
    start(&giver, GIVE, "@fish-pinned", "file", None);
    prints(&giver, "refused");
    assert!(!taker.log().contains("taken"));
    for bench in [&giver, &taker] {
        let mut session = bench.session();
        session.purge().unwrap();
        assert_eq!(session.audit().unwrap(), []);
        session.finish().unwrap();
    }
}
