//! The leftover table, row by row: each thing is really put on the host, as if its prevention had failed. The audit must
//! find it under the row's name, and the purge must take it away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use native_config::{AccountKind, Isolation};
use native_platform::{
    AccountStep, Backing, ErrorKind, LayersStep, Leak, Platform, Receipt, Scope, Session, Step, VolumeName,
    WorkloadStep,
};
use native_platform_linux::leftovers::ROWS;
use native_platform_linux::store::Store;

use crate::common::{Bench, Undo, account, disk, furnish, shell, shell_as, volume, workload};

const STATE: &str = "/var/lib/fish-native";

/// What a plant knows of its environment.
struct Ground<'a> {
    bench: &'a Bench,
    id: &'a str,
    uid: u32,
}

/// A row's plant: makes the thing, and returns what the test itself must undo, as a script for a shell.
type Plant = fn(&Ground<'_>) -> String;

fn run(ground: &Ground<'_>, script: &str) -> String {
    shell_as(ground.uid, "", script);
    String::new()
}

fn root(ground: &Ground<'_>, script: &str) -> String {
    shell(&script.replace("$ID", ground.id).replace("$UID", &ground.uid.to_string()));
    String::new()
}

/// Every row of the table has its plant here; a test compares the two.
const PLANTS: &[(&str, Plant)] = &[
    ("process", |g| run(g, "setsid sleep 600 </dev/null >/dev/null 2>&1 &")),
    ("subuid-process", |g| {
        root(g, "usermod --add-subuids 931000-931999 $ID");
        shell_as(931_007, "", "setsid sleep 600 </dev/null >/dev/null 2>&1 &");
        String::new()
    }),
    ("cgroup", |g| {
        root(g, "mkdir -p $(awk '$3 == \"cgroup2\" {print $2; exit}' /proc/mounts)/fish-native/$ID/work/nested")
    }),
    ("mount", |g| root(g, "mount -t tmpfs fish-planted /home/$ID && touch /home/$ID/x")),
    ("mount-elsewhere", |g| {
        let pid = elsewhere(g, "exec sleep 600");
        format!("kill -9 {pid}")
    }),
    ("loop", |g| {
        // As `umount -l`, `losetup -d` and `rm` leave it: the file has no name any more.
        let image = g.bench.scope.dir.join("image");
        shell(&format!("truncate -s 16M {0} && losetup -f {0} && rm {0}; losetup -a | grep -q {0}", image.display()));
        String::new()
    }),
    ("pinned-disk", |g| {
        let pid = elsewhere(g, "umount -l /mnt; exec sleep 600");
        format!("kill -9 {pid}")
    }),
    ("disk", |g| {
        let mut session = g.bench.session();
        session.execute(&volume(disk("plain"), Backing::Dir)).unwrap();
        session.finish().unwrap();
        let data = g.bench.scope.dir.join("disk-plain/data");
        shell(&format!(
            "cd {} && mkdir -m 000 closed && touch fixed && chattr +i fixed && mkdir d && cd d && for n in $(seq 1200); \
             do mkdir d && cd -P d; done && touch deep",
            data.display()
        ));
        String::new()
    }),
    ("mount-point", |g| {
        assert!(Path::new("/home").join(g.id).is_dir());
        String::new()
    }),
    ("temporary-file", |g| {
        shell("mkdir -m 1777 -p /tmp/fish-open-to-all");
        run(
            g,
            "cd /tmp && mkdir -m 000 fish-planted-closed && mkfifo fish-planted-pipe && mkdir -p fish-planted/d && \
             touch fish-planted/d/x fish-open-to-all/fish-planted && cp /bin/true /var/tmp/fish-planted-suid && \
             chmod 6755 /var/tmp/fish-planted-suid && truncate -s 500G /var/tmp/fish-planted-sparse",
        );
        "rmdir /tmp/fish-open-to-all && ! ls -d /tmp/fish-planted* /var/tmp/fish-planted*".to_owned()
    }),
    ("shared-memory-file", |g| run(g, "head -c 1000000 /dev/zero > /dev/shm/sem.fish-planted")),
    ("world-writable-file", |g| {
        shell("mkdir -m 1777 -p /var/lib/fish-planted-open; rm -f /var/lib/fish-native/places.json");
        run(g, "touch /var/lib/fish-planted-open/x /run/lock/fish-planted");
        "rmdir /var/lib/fish-planted-open; ! test -e /run/lock/fish-planted".to_owned()
    }),
    ("group-writable-file", |g| {
        let gid = shell("getent group staff | cut -d: -f3");
        shell("install -d -g staff -m 2775 /var/lib/fish-planted-group; rm -f /var/lib/fish-native/places.json");
        shell_as(g.uid, gid.trim(), "touch /var/lib/fish-planted-group/x");
        "rmdir /var/lib/fish-planted-group".to_owned()
    }),
    ("writable-path-file", |g| {
        // Not in /var/tmp, of which every environment has its own.
        let open = PathBuf::from("/srv/fish-planted-open");
        shell(&format!("mkdir -m 1777 -p {0} && mkdir -m 777 {0}/sub", open.display()));
        let script = format!("#!/bin/sh\ntouch {0}/x {0}/sub/x\n", open.display());
        let layers = vec![g.bench.layer("base", &[("init.sh", &script)])];
        let mut session = g.bench.session();
        session.execute(&volume(VolumeName::Home, Backing::Dir)).unwrap();
        session.execute(&volume(VolumeName::Temp, Backing::Dir)).unwrap();
        session.execute(&Step::Layers(LayersStep { volume: VolumeName::Home, layers })).unwrap();
        let step = WorkloadStep { writable_paths: vec![open.clone()], ..workload("./init.sh") };
        session.execute(&Step::Workload(step)).unwrap();
        session.wait(Duration::from_secs(30)).unwrap();
        session.finish().unwrap();
        assert!(open.join("sub/x").exists(), "{}", g.bench.log());
        format!("rmdir {0}/sub {0}", open.display())
    }),
    ("crontab", |g| spool(g, "/var/spool/cron/crontabs", "echo '* * * * * true' > $DIR/$ID; chown $UID $DIR/$ID")),
    ("at-job", |g| spool(g, "/var/spool/cron/atjobs", "echo true > $DIR/a0000101; chown $UID $DIR/a0000101")),
    ("mail", |g| spool(g, "/var/mail", "echo hello > $DIR/$ID")),
    ("linger", |g| spool(g, "/var/lib/systemd/linger", "touch $DIR/$ID")),
    ("runtime-directory", |g| spool(g, "/run/user", "mkdir -p $DIR/$UID/x; chown $UID $DIR/$UID")),
    ("sysv-ipc", |g| run(g, "ipcmk -M 4096 -S 1 -Q")),
    ("message-queue", |g| {
        run(g, "python3 -c 'import ctypes; ctypes.CDLL(\"librt.so.1\").mq_open(b\"/fish-planted\", 66, 0o600, None)'")
    }),
    ("key", |g| {
        // In the user, the user-session and the persistent keyring.
        run(
            g,
            "python3 -c 'import ctypes, os\n\
             call = ctypes.CDLL(None).syscall\n\
             add, ctl = (217, 219) if os.uname().machine == \"aarch64\" else (248, 250)\n\
             rings = [ctypes.c_long(-4), ctypes.c_long(-5), ctypes.c_long(call(ctl, 22, ctypes.c_long(-1), ctypes.c_long(-2)))]\n\
             for ring in rings: call(add, b\"user\", b\"planted\", b\"secret\", 6, ring)'",
        )
    }),
    ("account", |g| root(g, "getent passwd $ID")),
    ("group", |g| root(g, "getent group $ID")),
    ("group-member", |g| root(g, "usermod -aG audio $ID")),
    ("subuid", |g| root(g, "usermod --add-subuids 932000-932999 --add-subgids 932000-932999 $ID")),
    ("database-lock", |_| "rm -f /etc/passwd.lock".to_owned()),
];

/// Puts something into a directory that this host may not have.
fn spool(ground: &Ground<'_>, dir: &str, script: &str) -> String {
    let is_new = !Path::new(dir).exists();
    root(ground, &format!("mkdir -p {dir}; {}", script.replace("$DIR", dir)));
    if is_new { format!("rmdir {dir}") } else { String::new() }
}

/// A disk of the environment that somebody else has mounted, in a mount namespace of its own. Returns who that is.
fn elsewhere(ground: &Ground<'_>, then: &str) -> i32 {
    let image = ground.bench.scope.dir.join("image");
    let ready = ground.bench.scope.dir.join("ready");
    let script = format!(
        "truncate -s 16M {image} && mkfs.ext4 -q -F {image} && device=$(losetup -f --show {image}) && \
         unshare --mount --propagation private setsid sh -c \"mount $device /mnt && exec 7>/mnt/file && \
         echo \\$\\$ > {ready} && {then}\" </dev/null >/dev/null 2>&1 & \
         while ! test -s {ready}; do sleep 0.02; done; losetup -d $(losetup -j {image} | cut -d: -f1); cat {ready}",
        image = image.display(),
        ready = ready.display(),
    );
    shell(&script).trim().parse().unwrap()
}

fn kinds(leaks: &[Leak]) -> Vec<&str> {
    leaks.iter().map(|leak| leak.kind.as_str()).collect()
}

#[test]
fn every_row_of_the_table_has_its_plant() {
    let planted: Vec<_> = PLANTS.iter().map(|(kind, _)| *kind).collect();
    let rows: Vec<_> = ROWS.iter().map(|row| row.kind).collect();
    assert_eq!(planted, rows);
}

#[test]
fn what_is_planted_is_found_under_its_name_and_removed() {
    for (n, (kind, plant)) in PLANTS.iter().enumerate() {
        if *kind == "database-lock" {
            // The host's, and only ever told: see the next test.
            continue;
        }
        let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap());
        let id = format!("fish-plan{}{}", letter(n / 26), letter(n));
        let Some(mut bench) = Bench::new(&id) else { return };
        // A writable path is one only where the rest is not.
        bench.scope.isolation = if *kind == "writable-path-file" { Isolation::Private } else { Isolation::Basic };
        let groups = if *kind == "group-writable-file" { vec!["staff".parse().unwrap()] } else { Vec::new() };
        let step = Step::Account(AccountStep { groups, kind: AccountKind::Real });
        let mut session = bench.session();
        let Receipt::Account { uid, .. } = session.execute(&step).unwrap() else { panic!("no account") };
        session.finish().unwrap();
        let before = bench.session().audit().unwrap();

        let undo = Undo(plant(&Ground { bench: &bench, id: &id, uid }));
        let mut session = bench.session();
        let found = session.audit().unwrap();
        assert!(kinds(&found).contains(kind), "{kind} in {found:#?}");
        let is_the_accounts = ["account", "group", "mount-point"].contains(kind);
        assert!(is_the_accounts || !kinds(&before).contains(kind), "{kind} was there before: {before:#?}");
        if matches!(*kind, "mount-elsewhere" | "pinned-disk") {
            // Somebody else's process is not ours to kill: it is told, and the disk goes when it does.
            let error = session.purge().unwrap_err();
            assert!(error.kind == ErrorKind::Stuck && error.message.contains("was shut down"), "{error:?}");
            drop(undo);
            session.purge().unwrap();
        } else {
            session.purge().unwrap();
            drop(undo);
        }
        assert_eq!(session.audit().unwrap(), [], "after {kind}");
        session.finish().unwrap();
    }
}

#[test]
fn a_lock_of_the_user_database_that_is_nobodys_is_told() {
    let Some(bench) = Bench::new("fish-planlk") else { return };
    if Path::new("/etc/passwd.lock").exists() {
        println!("skipped: the user database is locked");
        return;
    }
    // Process 1 changes no users.
    let _undo = Undo("rm -f /etc/passwd.lock".to_owned());
    fs::write("/etc/passwd.lock", "1\0").unwrap();
    let found = bench.platform.audit(&[]).unwrap();
    let told = found.iter().find(|leak| leak.kind == "database-lock").unwrap();
    assert!(told.identifier.is_none() && told.path.contains("/etc/passwd.lock names process 1"), "{told:?}");
    bench.platform.sweep().unwrap();
    assert!(Path::new("/etc/passwd.lock").exists(), "it may be somebody else's");
    let check = bench.platform.checks().unwrap().into_iter().find(|c| c.id == "user-database").unwrap();
    assert!(!check.ok && check.fix.contains("rm /etc/passwd.lock"), "{check:?}");
}

/// Holds a uid that no environment has, as if its record had been removed by hand.
fn hold(uid: u32) {
    let store = Store::open(Path::new(STATE)).unwrap();
    let _lock = store.lock("uids").unwrap();
    let path = Path::new(STATE).join("uids.now");
    let mut ledger: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    ledger["held"].as_array_mut().unwrap().push(uid.into());
    fs::write(&path, ledger.to_string()).unwrap();
}

/// What no record speaks of: the record is gone, the thing came later.
#[test]
fn what_belongs_to_no_record_is_found_and_swept() {
    let Some(bench) = Bench::new("fish-planor") else { return };
    let mut session = bench.session();
    let Receipt::Account { uid, .. } = session.execute(&account()).unwrap() else { panic!("no account") };
    session.purge().unwrap();
    assert_eq!(session.audit().unwrap(), []);
    session.finish().unwrap();
    // Its uid was ours, and nobody's now.
    shell_as(uid, "", "touch /tmp/fish-orphan; setsid sleep 600 </dev/null >/dev/null 2>&1 &");
    let tree = shell("awk '$3 == \"cgroup2\" {print $2; exit}' /proc/mounts");
    shell(&format!("mkdir -p {}/fish-native/fish-planst/work", tree.trim()));
    let half = PathBuf::from(STATE).join("environments/fish-planha.tmp-4194305");
    fs::write(&half, "{").unwrap();
    let held = 79_998;
    hold(held);

    let alive: Vec<_> = bench.platform.known().unwrap().into_iter().map(|s| s.id).collect();
    let found = bench.platform.audit(&alive).unwrap();
    let is = |kind: &str, path: &str| found.iter().any(|l| l.kind == kind && l.path.contains(path));
    assert!(is("temporary-file", "/tmp/fish-orphan") && is("process", "(sleep)"), "{found:#?}");
    assert!(is("cgroup", "fish-planst") && is("half-record", "fish-planha"), "{found:#?}");
    assert!(is("held-uid", &held.to_string()), "{found:#?}");

    // What others have on this host at the same time is not this test's; while they work, no uid is let go of.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        bench.platform.sweep().unwrap();
        let mut left = bench.platform.audit(&alive).unwrap();
        left.retain(|l| found.contains(l) && (l.identifier.is_none() || l.path.contains("fish-plan")));
        if left.is_empty() {
            break;
        }
        assert!(left.iter().all(|l| l.kind == "held-uid") && Instant::now() < deadline, "after the sweep: {left:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!Path::new("/tmp/fish-orphan").exists() && !half.exists());
}

/// A bind mount below a directory that is removed: its source is somebody's, and stays.
#[test]
fn nothing_is_removed_across_a_mount() {
    let Some(bench) = Bench::new("fish-planmn") else { return };
    let precious = bench.dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "dear").unwrap();
    let plain = volume(disk("plain"), Backing::Dir);
    let mut session = bench.session();
    session.execute(&account()).unwrap();
    session.execute(&plain).unwrap();
    session.finish().unwrap();
    let point = bench.scope.dir.join("disk-plain/data/in/there");
    fs::create_dir_all(&point).unwrap();
    shell(&format!("mount --bind {} {}", precious.display(), point.display()));
    // A removal that stops there has moved the directory around it.
    let undo = Undo("umount $(awk '$2 ~ /fish-planmn/ {print $2}' /proc/mounts)".to_owned());
    let mut session = bench.session();
    let error = session.revert(&plain).unwrap_err();
    assert!(error.kind == ErrorKind::Stuck && error.message.contains("is a mount point"), "{error:?}");
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "dear");
    drop(undo);
    session.revert(&plain).unwrap();
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "dear");
    session.purge().unwrap();
    assert_eq!(session.audit().unwrap(), []);
    session.finish().unwrap();
}

/// What is to be done about a process, whatever keeps it from being seen or from dying.
fn a_process_is_found_and_killed(mut session: Box<dyn Session>) {
    assert!(kinds(&session.audit().unwrap()).contains(&"process"));
    session.purge().unwrap();
    assert_eq!(session.audit().unwrap(), []);
    session.finish().unwrap();
}

/// A process in a frozen cgroup does not die of SIGKILL until it is thawed.
#[test]
fn a_frozen_process_is_thawed_and_killed() {
    let Some(bench) = Bench::new("fish-planfr") else { return };
    let freezer = shell("awk '$3 == \"cgroup\" && $4 ~ /freezer/ {print $2; exit}' /proc/mounts");
    if freezer.trim().is_empty() {
        println!("skipped: no freezer of v1 on this host");
        return;
    }
    let mut session = bench.session();
    let Receipt::Account { uid, .. } = session.execute(&account()).unwrap() else { panic!("no account") };
    session.finish().unwrap();
    let group = format!("{}/fish-planfr", freezer.trim());
    let _undo = Undo(format!("rmdir {group}"));
    let pid = shell_as(uid, "", "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!");
    shell(&format!(
        "mkdir {group} && echo {} > {group}/cgroup.procs && echo FROZEN > {group}/freezer.state",
        pid.trim()
    ));
    a_process_is_found_and_killed(bench.session());
}

/// A process whose first thread has ended looks like a zombie, and its other threads run.
#[test]
fn a_process_without_its_first_thread_is_found_and_killed() {
    let Some(bench) = Bench::new("fish-planth") else { return };
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: python3 is missing (apt-get install python3-minimal)");
        return;
    }
    let mut session = bench.session();
    let Receipt::Account { uid, .. } = session.execute(&account()).unwrap() else { panic!("no account") };
    session.finish().unwrap();
    // exit(2), which ends one thread, has a number of its own on each architecture.
    let number = if cfg!(target_arch = "x86_64") { 60 } else { 93 };
    let program = format!(
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); \
         ctypes.CDLL(None).syscall({number}, 0)"
    );
    let pid =
        shell_as(uid, "", &format!("setsid /usr/bin/python3 -c '{program}' </dev/null >/dev/null 2>&1 & echo $!"));
    shell(&format!("until grep -q '^State:.Z' /proc/{}/status; do sleep 0.02; done", pid.trim()));
    a_process_is_found_and_killed(bench.session());
}

/// The processes of a crowd are passed over when another account's are searched for; that one's are not.
#[test]
fn a_process_is_found_beside_a_crowd() {
    let Some(crowd) = Bench::new("fish-plancr") else { return };
    let script = "#!/bin/sh\nfor n in $(seq 60); do sleep 600 & done\necho crowded\nwait\n";
    let mut session = crowd.session();
    furnish(&mut *session, vec![crowd.layer("base", &[("init.sh", script)])]);
    session.execute(&Step::Workload(workload("./init.sh"))).unwrap();
    session.finish().unwrap();
    shell(&format!("until grep -q crowded {}/log; do sleep 0.02; done", crowd.scope.dir.display()));
    // No second one: the suite's turn on the host is this test's already.
    let scope = Scope { id: "fish-planbc".parse().unwrap(), dir: crowd.scope.dir.join("other"), ..crowd.scope.clone() };
    fs::create_dir(&scope.dir).unwrap();
    let mut session = crowd.platform.open(&scope).unwrap();
    let Receipt::Account { uid, .. } = session.execute(&account()).unwrap() else { panic!("no account") };
    shell_as(uid, "", "setsid sleep 600 </dev/null >/dev/null 2>&1 &");
    a_process_is_found_and_killed(session);
    assert!(crowd.session().observe().unwrap().running, "the crowd was spared");
}

/// Furnished and running, an environment is found as what it is, not as anything that was planted.
#[test]
fn what_lives_is_not_left() {
    let Some(bench) = Bench::new("fish-planlv") else { return };
    let layer = bench.layer("base", &[("init.sh", "#!/bin/sh\nsleep 600\n")]);
    let mut session = bench.session();
    furnish(&mut *session, vec![layer]);
    session.execute(&Step::Workload(workload("./init.sh"))).unwrap();
    session.finish().unwrap();
    let alive: Vec<_> = bench.platform.known().unwrap().into_iter().map(|s| s.id).collect();
    let mut found = bench.platform.audit(&alive).unwrap();
    found.retain(|l| l.identifier.as_ref() == Some(&bench.scope.id));
    assert_eq!(found, []);
    bench.platform.sweep().unwrap();
    assert!(bench.session().observe().unwrap().running, "a sweep spares what has a record");
}
