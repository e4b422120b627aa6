//! The whole cycle of steps.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use native_config::{AccountKind, Isolation};
use native_platform::{
    AccountStep, Enter, EnterIo, ErrorKind, LayersStep, Platform, Presence, Step, Stream, VolumeName, VolumeStep,
    WorkloadStep,
};

use crate::common::{Bench, account, disk, furnish, sized, volume, workload};

#[test]
fn an_environment_comes_up_runs_and_leaves_nothing() {
    let Some(bench) = Bench::new("fish-cyclea") else { return };
    let base = bench.layer("base", &[("init.sh", "#!/bin/sh\necho wrong"), ("both/base", ""), ("both/x", "base")]);
    let script = "#!/bin/sh\n\
        echo \"user $(id -un) $(id -u) in $PWD\"; echo \"$GREETING\"; cat both/x; ls both | tr '\\n' ' '; echo\n\
        stat -c '%U %a' init.sh both /run/fish-native/$USER/ws /run/fish-native/$USER/plain\n\
        echo x > both/x && rm both/base && touch $HOME/new && mkdir deep && echo wrote\n\
        touch /etc/x /usr/x /var/x 2>&1 | grep -c 'Read-only'\n\
        touch /tmp/x /var/tmp/x /dev/shm/x && echo tmp; ls /proc | grep -c '^[0-9]'\n\
        dd if=/dev/zero of=/run/fish-native/$USER/ws/fill bs=1M 2>&1 | grep -o 'No space left'\n\
        (sleep 600 &) ; exit 7\n";
    let top = bench.layer("top", &[("init.sh", script), ("both/x", "top\n")]);
    let inside = fs::metadata(base.dir.join("both/x")).unwrap();

    let mut session = bench.session();
    let mut steps = furnish(&mut *session, vec![base.clone(), top]);
    steps.push(Step::Workload(workload("./init.sh")));
    session.execute(steps.last().unwrap()).unwrap();
    session.finish().unwrap();

    let mut session = bench.session();
    let seen = session.wait(Duration::from_secs(30)).unwrap();
    let log = bench.log();
    assert_eq!(seen.exit.as_ref().map(|e| e.code), Some(7), "{seen:?} {log}");
    assert!(seen.up && !seen.running && seen.pids == 1 && seen.disk_bytes > 0, "{seen:?}");
    let user = bench.scope.id.as_ref();
    let expected = format!(
        "in /home/{user}\nit's \"quoted\"\nü\ntop\nbase x \n{user} 755\n{user} 755\n{user} 700\n{user} 700\nwrote\n3\ntmp\n"
    );
    assert!(log.starts_with(&format!("user {user} 7")) && log.contains(&expected), "{log}");
    assert!(log.ends_with("No space left\n"), "{log}");
    // The cache has not changed, neither in content nor in owner.
    assert_eq!(fs::read_to_string(base.dir.join("both/x")).unwrap(), "base");
    assert_eq!(fs::metadata(base.dir.join("both/x")).unwrap().ino(), inside.ino());
    assert!(base.dir.join("both/base").exists() && !base.dir.join("new").exists());
    // On the host there is the mount point and nothing in it.
    assert_eq!(fs::read_dir(format!("/home/{user}")).unwrap().count(), 0);

    assert_eq!(session.probe(&account()).unwrap(), Presence::Ours);
    for step in steps.iter().rev() {
        session.revert(step).unwrap();
        session.revert(step).unwrap();
        assert_eq!(session.probe(step).unwrap(), Presence::Absent, "{}", step.describe());
    }
    assert_eq!(session.audit().unwrap(), []);
    assert!(!Path::new(&format!("/home/{user}")).exists());
}

#[test]
fn commands_enter_with_their_streams_and_exit_code() {
    let Some(bench) = Bench::new("fish-cycleb") else { return };
    let layer = bench.layer("base", &[("init.sh", "#!/bin/sh\nsleep 600\n")]);
    let mut session = bench.session();
    furnish(&mut *session, vec![layer]);
    session.execute(&Step::Workload(workload("./init.sh"))).unwrap();
    session.finish().unwrap();

    let enter = |command: &[&str], input: &'static [u8]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = |stream, data: &[u8]| if stream == Stream::Out { &mut out } else { &mut err }.extend(data);
        let command = Enter {
            command: command.iter().map(|c| (*c).to_owned()).collect(),
            terminal: None,
            variables: vec![("EXTRA".to_owned(), "1".to_owned())],
        };
        let io = EnterIo { input: Box::new(input), output: &mut output };
        let code = bench.session().enter(&command, io);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (code, out, err) = enter(&["sh", "-c", "cat; id -un; echo $EXTRA; echo oops >&2; exit 3"], b"input\n");
    assert_eq!((code, err.as_str()), (Ok(3), "oops\n"));
    assert_eq!(out, format!("input\n{}\n1\n", bench.scope.id));
    assert_eq!(enter(&["sh", "-c", "kill -9 $$"], b"").0, Ok(137));
    assert_eq!(enter(&["sh", "-c", "head -c 300000 /dev/zero"], b"").1.len(), 300_000);
    assert_eq!(enter(&["no-such-program"], b"").0.unwrap_err().kind, ErrorKind::Invalid);
    let (code, out, _) =
        enter(&["sh", "-c", "ps -o args= -e 2>/dev/null | grep -c sleep || true; cat /proc/self/cgroup"], b"");
    assert_eq!(code, Ok(0));
    assert!(out.contains("/fish-cycleb/work"), "{out}");
}

#[test]
fn an_unfinished_session_reverts_itself() {
    let Some(bench) = Bench::new("fish-cyclec") else { return };
    let layer = bench.layer("base", &[("init.sh", "#!/bin/sh\nsleep 600\n")]);
    let mut session = bench.session();
    furnish(&mut *session, vec![layer]);
    session.execute(&Step::Workload(workload("./init.sh"))).unwrap();
    drop(session);
    assert_eq!(bench.session().audit().unwrap(), []);
}

#[test]
fn an_entry_that_cannot_run_is_named_and_leaves_no_process() {
    let Some(bench) = Bench::new("fish-cycled") else { return };
    let files =
        [("no-interpreter", "#!/no/such/sh\n"), ("no-shebang", "echo plain; exit 4\n"), ("elf", "\x7fELF\0\0\0\0")];
    let layer = bench.layer("base", &files);
    fs::write(layer.dir.join("not-executable"), "").unwrap();
    fs::create_dir(layer.dir.join("directory")).unwrap();
    let mut session = bench.session();
    furnish(&mut *session, vec![layer]);
    for (entry, message) in [
        ("./nothing", "does not exist"),
        ("no-interpreter", "interpreter"),
        ("elf", "not a program for this machine"),
        ("not-executable", "not executable"),
        ("directory", "is a directory"),
    ] {
        let error = session.execute(&Step::Workload(workload(entry))).unwrap_err();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains(message), "{entry}: {error:?}");
    }
    session.execute(&Step::Workload(workload("no-shebang"))).unwrap();
    assert_eq!(session.wait(Duration::from_secs(30)).unwrap().exit.map(|e| e.code), Some(4));
    assert_eq!(bench.log(), "plain\n");
}

#[test]
fn a_workload_that_ignores_signals_and_forks_is_stopped_at_the_end_of_its_lifetime() {
    let Some(bench) = Bench::new("fish-cyclee") else { return };
    let script =
        "#!/bin/sh\ntrap '' INT TERM HUP\n(trap '' INT; while :; do sleep 1; done) &\nwhile :; do sleep 1; done\n";
    let layer = bench.layer("base", &[("init.sh", script)]);
    let mut session = bench.session();
    furnish(&mut *session, vec![layer]);
    let step = WorkloadStep { lifetime_ms: Some(300), stop_grace_ms: 50, ..workload("./init.sh") };
    session.execute(&Step::Workload(step)).unwrap();
    let seen = session.wait(Duration::from_secs(30)).unwrap();
    let exit = seen.exit.unwrap();
    assert!(exit.lifetime_over && exit.signal == Some(9) && seen.pids == 0, "{exit:?}");
    session.finish().unwrap();
}

#[test]
fn foreign_things_are_refused() {
    let Some(bench) = Bench::new("fish-cyclef") else { return };
    let mut session = bench.session();
    for (group, kind) in
        [("root", ErrorKind::Invalid), ("docker", ErrorKind::Invalid), ("fish-no-such", ErrorKind::Invalid)]
    {
        let step = Step::Account(AccountStep { groups: vec![group.parse().unwrap()], kind: AccountKind::Real });
        assert_eq!(session.execute(&step).unwrap_err().kind, kind, "{group}");
    }
    assert_eq!(session.probe(&account()).unwrap(), Presence::Absent);
    let error = session.execute(&Step::Workload(workload("x"))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "a workload without an account: {error:?}");
    drop(session);
    let mut other = bench.scope.clone();
    let mut session = bench.session();
    session.execute(&account()).unwrap();
    session.finish().unwrap();
    other.dir = PathBuf::from("/var/tmp/elsewhere");
    assert_eq!(bench.platform.open(&other).and_then(|mut s| s.ready()).err().map(|e| e.kind), Some(ErrorKind::Foreign));
    drop(io::stdin());
}

#[test]
fn a_kept_disk_goes_to_one_environment_after_another() {
    let Some(bench) = Bench::new("fish-cycleg") else { return };
    let kept = Step::Volume(VolumeStep {
        volume: disk("ws"),
        backing: sized(32),
        label: Some("cache".to_owned()),
        reuse: true,
        clone_from: None,
    });
    for (n, id) in ["fish-cycleh", "fish-cyclei"].into_iter().enumerate() {
        let own = bench.beside(id);
        let script =
            "#!/bin/sh\ncd /run/fish-native/$USER/ws && stat -c %U * ; mkdir -p d && echo x > d/$USER && ls d\n";
        let layer = bench.layer("base", &[("init.sh", script)]);
        let mut session = own.session();
        let steps = [
            account(),
            volume(VolumeName::Home, sized(32)),
            volume(VolumeName::Temp, sized(32)),
            kept.clone(),
            Step::Layers(LayersStep { volume: VolumeName::Home, layers: vec![layer] }),
            Step::Workload(workload("./init.sh")),
        ];
        for step in &steps {
            session.execute(step).unwrap();
        }
        session.wait(Duration::from_secs(30)).unwrap();
        let expected = ["fish-cycleh\n", "fish-cyclei\nfish-cycleh\nfish-cyclei\n"][n];
        assert!(own.log().ends_with(expected), "{}", own.log());
        // Meanwhile nobody else gets it.
        let mut other = bench.session();
        other.execute(&account()).unwrap();
        let error = other.execute(&kept).unwrap_err();
        assert!(error.message.contains("in use by another environment"), "{error:?}");
        drop(other);
        assert_eq!(bench.session().audit().unwrap(), []);
        for step in steps.iter().rev() {
            session.revert(step).unwrap();
        }
        assert_eq!(session.audit().unwrap(), []);
    }
    assert!(bench.dir.path().join("kept/ws@cache.img").exists());
}

#[test]
fn without_namespaces_leftovers_are_searched_and_removed() {
    let Some(mut bench) = Bench::new("fish-cyclej") else { return };
    bench.scope.isolation = Isolation::Basic;
    let plant = "#!/bin/sh\nid -un; mkdir -p /tmp/fish-planted/d && touch /tmp/fish-planted/d/x /var/tmp/fish-planted-$USER\n\
        mkdir -m 000 /tmp/fish-planted-closed; mkfifo /dev/shm/fish-planted-pipe; ipcmk -M 4096 -S 1 -Q >/dev/null\n\
        echo $TMPDIR; cd $TMPDIR && touch x; cat ~/both; trap '' INT; setsid sleep 600 & sleep 0.1\n";
    let layers = vec![bench.layer("base", &[("init.sh", plant)]), bench.layer("top", &[("both", "top\n")])];
    let mut session = bench.session();
    let mut steps = furnish(&mut *session, layers);
    steps.push(Step::Workload(workload("./init.sh")));
    session.execute(steps.last().unwrap()).unwrap();
    session.finish().unwrap();
    let mut session = bench.session();
    session.wait(Duration::from_secs(30)).unwrap();
    let id = bench.scope.id.as_ref();
    assert_eq!(bench.log(), format!("{id}\n/run/fish-native/{id}/.temp/tmp\ntop\n"));
    let planted = Path::new("/tmp/fish-planted/d/x");
    assert!(planted.exists(), "the plant is real");
    for step in steps.iter().rev() {
        session.revert(step).unwrap();
    }
    assert_eq!(session.audit().unwrap(), []);
    assert!(!planted.exists() && !Path::new("/dev/shm/fish-planted-pipe").exists());
}

#[test]
fn a_disk_starts_from_a_copy_of_what_its_user_may_read() {
    let Some(bench) = Bench::new("fish-cyclek") else { return };
    let origin = bench.layer("origin", &[("sub/tool", "#!/bin/sh\necho copied\n")]).dir;
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let clone = |path: &Path| {
        Step::Volume(VolumeStep {
            volume: disk("ws"),
            backing: sized(32),
            label: None,
            reuse: false,
            clone_from: Some(path.to_owned()),
        })
    };
    let script = "#!/bin/sh\n/run/fish-native/$USER/ws/sub/tool; stat -c %U /run/fish-native/$USER/ws/sub/tool\n";
    let mut session = bench.session();
    session.execute(&account()).unwrap();
    session.execute(&volume(VolumeName::Home, sized(32))).unwrap();
    session.execute(&volume(VolumeName::Temp, sized(32))).unwrap();
    for (refused, why) in
        [("/root", "Permission denied"), ("/etc/passwd", "not a directory"), ("/no/such", "not a dir")]
    {
        let error = session.execute(&clone(Path::new(refused))).unwrap_err();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains(why), "{error:?}");
    }
    session.execute(&clone(&origin)).unwrap();
    let layers = vec![bench.layer("base", &[("init.sh", script)])];
    session.execute(&Step::Layers(LayersStep { volume: VolumeName::Home, layers })).unwrap();
    session.execute(&Step::Workload(workload("./init.sh"))).unwrap();
    session.wait(Duration::from_secs(30)).unwrap();
    assert_eq!(bench.log(), format!("copied\n{}\n", bench.scope.id));
    session.finish().unwrap();
}
