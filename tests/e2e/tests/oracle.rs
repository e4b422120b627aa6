//! The overlay oracle: the whole cycle with a hostile workload inside a throw-away system whose upper directory is
//! the complete list of what changed.
//!
//! The system's root is an overlay over this host's, in a mount namespace of its own. Afterwards everything in the
//! upper directory must be as it is below, but for the exempt list: no search for known leftovers, so that also those
//! are found that nobody thought of.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use e2e::{Bench, Tree, command};

/// Makes the system, runs the program in it, and copies the upper directory out. `$1` scratch, `$2` bench, `$3` label.
const SYSTEM: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o size=2g,mode=755 fish-oracle "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" fish-oracle "$1/root"
for place in /dev /proc /sys; do mount --rbind "$place" "$1/root$place"; done
mount --bind "$2" "$1/root$2"
set +e
eval "chroot '$1/root' $FISH run '$3'"
code=$?
set -e
touch "$1/root/etc/fish-oracle-control"
cp -a "$1/upper" "$2/upper"
exit "$code"
"#;

/// Plants whatever an unprivileged user can plant, in every place that it can reach.
const PLANT: &str = r#"#!/bin/bash
cd ~
me=$(id -un)
for place in /tmp /var/tmp /dev/shm /run/lock /var/lock /dev/mqueue /var/spool/cron/crontabs /var/spool/cron/atjobs \
    /var/mail /usr/local /usr/local/bin /opt /srv /var/lib /var/cache /run /home /etc "$WS" ~; do
    touch "$place/planted-$me" 2>/dev/null
    mkdir -p "$place/planted-dir-$me/deep/er" 2>/dev/null
    mkfifo "$place/planted-fifo-$me" 2>/dev/null
    ln -s /etc/passwd "$place/planted-link-$me" 2>/dev/null
done
mkdir -m 000 "/tmp/planted-closed-$me" "/var/tmp/planted-closed-$me" 2>/dev/null
truncate -s 500G /var/tmp/planted-sparse-$me 2>/dev/null
cp /bin/sh "/var/tmp/planted-suid-$me" 2>/dev/null && chmod 6755 "/var/tmp/planted-suid-$me"
ipcmk -M 1048576 >/dev/null 2>&1; ipcmk -S 3 >/dev/null 2>&1; ipcmk -Q >/dev/null 2>&1
echo '* * * * * /bin/true' | crontab - >/dev/null 2>&1
echo /bin/true | at now + 1 hour >/dev/null 2>&1
deep=~/d; for n in $(seq 300); do mkdir -p "$deep" && deep="$deep/d"; done
unshare -Urm true 2>/dev/null
setsid sleep 600 </dev/null >/dev/null 2>&1 &
(trap '' INT TERM HUP; sleep 601 </dev/null >/dev/null 2>&1 &) &
exec -a 'kworker/0:1' sleep 602 </dev/null >/dev/null 2>&1 &
python3 - "$me" 2>/dev/null <<'PYTHON'
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
for ring in (-4, -5):
    libc.syscall(248, b"user", b"planted-" + sys.argv[1].encode(), b"secret", 6, ring)
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\0planted-" + sys.argv[1]); abstract.listen()
if os.fork() == 0:
    os.setsid()
    while True:
        if os.fork(): os._exit(0)
PYTHON
echo planted
exit 0
"#;

/// What a cycle may change for good. `docs/src/host-changes.md` says why.
fn is_exempt(path: &str) -> bool {
    const BACKUPS: [&str; 6] = ["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"];
    path.strip_prefix("etc/").is_some_and(|name| BACKUPS.contains(&name) || name == ".pwd.lock")
        || path == "run/fish-native"
        || path.starts_with("var/lib/fish-native/templates/")
        || [
            "var/lib/fish-native/uids.json",
            "var/lib/fish-native/places.json",
            "var/lib/fish-native/uids.lock",
            "var/lib/fish-native/accounts.lock",
        ]
        .contains(&path)
}

/// Every entry of the upper directory that is not as it is on the host.
fn differences(upper: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("list the upper directory").flatten() {
        let path = entry.path();
        let name = path.strip_prefix(upper).expect("it is below").to_str().expect("a text").to_owned();
        let host = PathBuf::from("/").join(&name);
        let meta = fs::symlink_metadata(&path).expect("look at an entry");
        let there = fs::symlink_metadata(&host).ok();
        if is_exempt(&name) {
            continue;
        }
        if meta.file_type().is_char_device() && meta.rdev() == 0 {
            found.push(format!("{name} was removed"));
            continue;
        }
        let Some(there) = there else {
            if !(meta.is_dir()
                && ["var/lib/fish-native", "var/lib/fish-native/environments", "var/lib/fish-native/templates"]
                    .contains(&name.as_str()))
            {
                found.push(format!("{name} is new"));
                continue;
            }
            differences(upper, &path, found);
            continue;
        };
        if (meta.mode(), meta.uid(), meta.gid()) != (there.mode(), there.uid(), there.gid()) {
            found.push(format!("{name} has another mode or owner"));
        }
        if meta.is_dir() {
            differences(upper, &path, found);
        } else if meta.is_file() && fs::read(&path).ok() != fs::read(&host).ok() {
            found.push(format!("{name} has another content"));
        }
    }
}

fn nothing_is_left(isolation: &str) {
    let Some(bench) = Bench::new() else { return };
    bench.configure(&format!("isolation: {isolation}\n"));
    let image = bench.image("work", &Tree::new().program("init.sh", PLANT));
    let label = bench.label_of(&[bench.source(&image, None)], r#"{WS: "{{ .Disks.ws }}"}"#);
    let scratch = bench.dir.path().join("oracle");
    fs::create_dir(&scratch).expect("make a directory");
    let script = bench.write("system.sh", SYSTEM);
    let out = command("unshare")
        .args(["--mount", "bash", &script])
        .args([&scratch, bench.dir.path(), Path::new(&label)])
        .env("FISH", bench.line())
        .output()
        .expect("run unshare");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("planted"), "{}: {said}", out.status);
    let upper = bench.dir.path().join("upper");
    assert!(upper.join("var/lib/fish-native/uids.json").exists(), "the cycle did not run in the system");
    let mut found = Vec::new();
    differences(&upper, &upper, &mut found);
    // The one file that was made there on purpose shows that the oracle sees what is left.
    assert_eq!(found, ["etc/fish-oracle-control is new"], "left in the throw-away system ({isolation}): {said}");
    bench.assert_as_before();
}

#[test]
fn a_hostile_workload_leaves_nothing_with_private_isolation() {
    nothing_is_left("private");
}

#[test]
fn a_hostile_workload_leaves_nothing_with_basic_isolation() {
    nothing_is_left("basic");
}
