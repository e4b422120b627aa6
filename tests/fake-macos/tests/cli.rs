//! The command line against the emulated Mac, in all three privilege modes: the life of an environment, what is
//! printed, exit codes, sudo rules.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use common::{Rig, SERVICE, Service, runnable};
use e2e::{Answer, Image, Outcome, PASSWORD, Running, Server, Tree, USER};
use native_platform::render::Style;
use native_platform_macos::Privilege;
use serde_json::{Value, json};

/// How the driver gets its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The driver is root, and the helper its child.
    Root,
    /// The helper through sudo.
    Helper,
    /// Each command through sudo.
    SudoCommands,
}

/// An emulated Mac with a service on it that has a configuration.
struct Site {
    rig: Rig,
    mode: Mode,
    program: PathBuf,
    server: Server,
    served: PathBuf,
}

impl Site {
    fn new(mode: Mode) -> Self {
        let rig = Rig::with(
            if mode == Mode::Root { Privilege::Root } else { Privilege::SudoCommands },
            (26, 3),
            Style::Regex,
        );
        let fs = rig.host.fs();
        fs::create_dir_all(fs.join("usr/libexec")).unwrap();
        let program =
            common::reachable(env!("CARGO_BIN_EXE_fish-native-emulated"), &rig.host.root().join("mac-native"));
        symlink(&program, fs.join("usr/libexec/fish-native-helper")).unwrap();
        let served = rig.host.root().join("served");
        fs::create_dir(&served).unwrap();
        let site = Self { rig, mode, program, server: Server::start(), served };
        let (low, high) = site.rig.host.config.uids;
        let privilege = match mode {
            Mode::Root => "auto",
            Mode::Helper => "helper",
            Mode::SudoCommands => "sudo-commands",
        };
        let text = format!(
            "images_path: {0}/private/var/cache\nworkspace_path: {0}/private/var/work\ndownload_user: {USER}\n\
             download_password: {PASSWORD}\nstop_grace: 300ms\nuid_min: {low}\nuid_max: {high}\nprivilege: {privilege}\n",
            fs.display()
        );
        fs::write(site.config(), text).unwrap();
        chown(site.config(), Some(site.rig.host.config.service), None).unwrap();
        if mode == Mode::Helper {
            // Nothing but the helper is allowed, and the state is root's.
            let rules = site.fish(&["sudoers", "--style", "helper"]).code(0).stdout;
            fs::write(site.rig.host.root().join("sudoers"), rules).unwrap();
            chown(fs.join("private/var/fish-native"), Some(0), Some(0)).unwrap();
            let etc = fs.join("private/etc/fish-native");
            fs::create_dir_all(&etc).unwrap();
            let work = fs.join("private/var");
            let text = format!(
                "workspaces: [{0}/work]\nimages: [{0}/cache]\nuid_min: {low}\nuid_max: {high}\n",
                work.display()
            );
            fs::write(etc.join("helper.yml"), text).unwrap();
            fs::set_permissions(etc.join("helper.yml"), Permissions::from_mode(0o644)).unwrap();
        }
        site
    }

    fn config(&self) -> PathBuf {
        self.rig.host.root().join("config.yml")
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = e2e::command(&self.program);
        command.args(["--platform", "macos-emulated", "--root"]).arg(self.rig.host.root());
        command.arg("--config").arg(self.config()).args(args).current_dir("/");
        let _service = Service::enter(if self.mode == Mode::Root { Privilege::Root } else { Privilege::SudoCommands });
        Running::start(command)
    }

    fn fish(&self, args: &[&str]) -> Outcome {
        self.start(args).finish()
    }

    fn image(&self, name: &str, tree: &Tree) -> Image {
        let image = Image::pack(&self.served, name, tree);
        self.server.set(&image.file, Answer::File(image.path.clone()));
        image
    }

    fn source(&self, image: &Image, tag: &str) -> String {
        format!("{{url: '{}', sum: '{}'{tag}}}", self.server.url(&image.file), image.sum)
    }

    /// Writes a label: two layers over the home, one over the disk.
    fn label(&self, script: &str) -> String {
        let base = self.image("base", &Tree::new().program("init.sh", script).file("which", "first\n"));
        let over = self.image("over", &Tree::new().file("which", "second\n"));
        let tool = self.image("tool", &Tree::new().program("tool", "#!/bin/sh\necho tool says hello\n"));
        let images = [self.source(&base, ""), self.source(&over, ""), self.source(&tool, ", tag: ws")];
        let text = format!(
            "name: e2e\nversion: 1\nmetadata: {{OUTER: {{INNER: \"a 'quoted' $HOME\"}}, WS: '{{{{ .Disks.ws }}}}'}}\n\
             definitions:\n  - driver: native\n    images: [{}]\n    resources: {{cpu: 1, ram: 1, multitenancy: true, \
             disks: {{ws: {{size: 1}}}}}}\n",
            images.join(", ")
        );
        let path = self.rig.host.root().join("label.yml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What is on the host, apart from the cache and the workspace's own lock.
    fn snapshot(&self) -> String {
        let all = self.rig.snapshot();
        let kept = all.lines().filter(|l| !l.contains("private/var/cache") && !l.contains("private/var/work/."));
        kept.collect::<Vec<_>>().join("\n")
    }

    fn environments(&self) -> Vec<String> {
        let names = fs::read_dir(self.rig.host.fs().join("private/var/work")).unwrap();
        let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.starts_with("fish-")).collect()
    }
}

fn has_keys(document: &Value, keys: &[&str]) {
    for key in keys {
        assert!(document.get(key).is_some(), "{key} in {document}");
    }
}

const LOOK: &str = "#!/bin/sh\necho \"user=$USER uid=$(/usr/bin/id -u) home=$HOME\"\necho \"which=$(cat which)\"\n\
    echo \"nested=$OUTER_INNER\"\necho \"name=$APP\"\n\"$WS/tool\"\necho err >&2\nexit 42\n";

fn life(mode: Mode) {
    if !runnable() {
        return;
    }
    let site = Site::new(mode);
    let label = site.label(LOOK);
    let start = site.snapshot();

    let doctor = site.fish(&["doctor", "--json"]).code(0).json();
    assert_eq!(doctor["ready"], true, "{doctor}");
    let ids: Vec<_> = doctor["checks"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    for id in ["tools", "full-disk-access", "uid-range", "disk-backend", "spotlight", "round-trip"] {
        assert!(ids.contains(&id), "{id} in {ids:?}");
    }

    let ran = site.fish(&["run", &label, "-m", "APP=an app"]).code(42);
    for line in ["which=second", "nested=a 'quoted' $HOME", "name=an app", "tool says hello"] {
        assert!(ran.stdout.contains(line), "{line} in {ran:?}");
    }
    common::same(&start, &site.snapshot());
    let ran = site.fish(&["run", &label, "--json"]).code(42).json();
    has_keys(&ran, &["identifier", "user", "uid", "home", "disks", "timings_ms", "exit_code", "audit"]);
    for key in ["account", "volumes", "images", "layers", "start", "total", "stop", "revert", "audit"] {
        assert!(ran["timings_ms"][key].is_u64(), "{key} in {ran}");
    }
    assert_eq!(ran["audit"], json!({ "clean": true, "leaked": [] }));

    // The same by pieces.
    let label = site.label("#!/bin/sh\necho started\nexec sleep 600\n");
    let made = site.fish(&["allocate", &label, "--json"]).code(0).json();
    has_keys(&made, &["identifier", "user", "uid", "home", "disks", "timings_ms"]);
    let id = made["identifier"].as_str().unwrap();
    assert_eq!(made["home"], json!(site.rig.host.fs().join("Users").join(id)));
    let status = site.fish(&["status", id, "--json"]).code(0).json();
    assert_eq!((&status["status"], &status["running"]), (&json!("ALLOCATED"), &json!(true)), "{status}");
    has_keys(&status, &["identifier", "phase", "exit_code", "pids", "usage"]);
    assert!(site.fish(&["list"]).code(0).stdout.contains(id));
    assert_eq!(site.fish(&["logs", id]).code(0).stdout, "started\n");
    let inside = site.fish(&["exec", id, "--", "sh", "-c", "cat which; exit 7"]).code(7);
    assert_eq!(inside.stdout, "second\n", "{inside:?}");
    assert_eq!(site.fish(&["audit", "--json"]).code(0).json()["clean"], true);
    site.fish(&["deallocate", id]).code(0);
    site.fish(&["status", id]).code(15);
    site.fish(&["audit"]).code(0);
    assert_eq!(site.environments(), [""; 0]);

    // What is wrong is said with its own code, and nothing stays.
    let label = site.label("not a program");
    let text = fs::read_to_string(&label).unwrap().replace("resources:", "options: {entry: ./none}\n    resources:");
    fs::write(&label, text).unwrap();
    let failed = site.fish(&["allocate", &label, "--json"]);
    assert!([2, 13].contains(&failed.code), "{failed:?}");
    assert!(failed.json()["error"]["message"].as_str().unwrap().contains("none is no program"), "{failed:?}");
    common::same(&start, &site.snapshot());
    for (_, tool, args) in site.rig.host.log() {
        assert!(!args.join(" ").contains("an app"), "a variable in an argument: {tool} {args:?}");
    }
}

#[test]
fn a_life_as_root() {
    life(Mode::Root);
}

#[test]
fn a_life_through_the_helper() {
    life(Mode::Helper);
}

#[test]
fn a_life_with_each_command_through_sudo() {
    life(Mode::SudoCommands);
}

/// The label that every newcomer runs.
#[test]
fn the_example_runs_on_a_mac_too() {
    if !runnable() {
        return;
    }
    let site = Site::new(Mode::Helper);
    // The checkout may be where the service user can't read, as in /root.
    let top = site.rig.host.root().join("example");
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello");
    assert!(e2e::command("cp").args(["-r", here]).arg(&top).status().unwrap().success());
    let top = top.to_str().unwrap();
    site.fish(&["check", &format!("{top}/label.yml")]).code(0);
    let mut text = fs::read_to_string(format!("{top}/label.yml")).unwrap();
    for name in ["hello", "hello-tools"] {
        let packed = site.served.join(name);
        fs::create_dir(&packed).unwrap();
        chown(&packed, Some(SERVICE), None).unwrap();
        let out = packed.to_str().unwrap();
        let made = site.fish(&["images", "pack", &format!("{top}/{name}"), "--name", name, "--out", out, "--json"]);
        let path = PathBuf::from(made.code(0).json()["path"].as_str().unwrap());
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        site.server.set(&file, Answer::File(path));
        let old = format!("http://127.0.0.1:8080/{name}-20260101.000000_00000000.tar.xz");
        text = text.replace(&old, &site.server.url(&file));
    }
    let path = site.rig.host.root().join("hello.yml");
    fs::write(&path, text).unwrap();
    let ran = site.fish(&["run", path.to_str().unwrap()]).code(0);
    for word in ["/Users/fish-", "greet says: good morning"] {
        assert!(ran.stdout.contains(word), "{word} in {ran:?}");
    }
    assert_eq!(site.environments(), [""; 0]);
}

/// `sudoers --check` names each command that sudo refuses.
#[test]
fn rules_are_checked_one_by_one() {
    if !runnable() {
        return;
    }
    let site = Site::new(Mode::SudoCommands);
    let checked = site.fish(&["sudoers", "--check", "--json"]).code(0).json();
    let commands = checked["commands"].as_array().unwrap().len();
    assert!(checked["ready"] == true && commands > 15, "{checked}");
    let rules = site.rig.host.root().join("sudoers");
    let text = fs::read_to_string(&rules).unwrap();
    let fewer: Vec<_> = text.lines().filter(|l| !l.contains("-KILL -U")).collect();
    fs::write(&rules, fewer.join("\n")).unwrap();
    let checked = site.fish(&["sudoers", "--check", "--json"]).code(10).json();
    let missing: Vec<_> = checked["commands"].as_array().unwrap().iter().filter(|c| c["allowed"] == false).collect();
    assert!(missing.len() == 1 && missing[0]["id"] == "kill", "{missing:?}");
    assert!(site.fish(&["sudoers", "--check"]).code(10).stdout.contains("MISSING kill"));
    // The helper's rule is another one, and this host has none.
    site.fish(&["sudoers", "--check", "--style", "helper"]).code(10);
    let helper = Site::new(Mode::Helper);
    helper.fish(&["sudoers", "--check"]).code(0);
    // On Linux there is the helper and nothing else, and the reason is told.
    let refused = site.fish(&["sudoers", "--platform", "linux", "--style", "regex"]).code(2);
    assert!(refused.stderr.contains("system calls"), "{refused:?}");
    let linux = site.fish(&["sudoers", "--platform", "linux"]).code(0);
    assert!(linux.stdout.contains("NOPASSWD: /usr/libexec/fish-native-helper \"\""), "{linux:?}");
    site.fish(&["sudoers", "--platform", "linux", "--check"]).code(2);
    site.fish(&["sudoers", "--user", "a b"]).code(2);
}

/// Without Full Disk Access the host is not ready, and it is said what to click.
#[test]
fn doctor_says_what_to_click() {
    if !runnable() {
        return;
    }
    let mut site = Site::new(Mode::Root);
    site.rig.host.reconfigure(|c| c.tcc = false);
    let doctor = site.fish(&["doctor"]).code(10);
    assert!(doctor.stdout.contains("-14120") && doctor.stdout.contains("Full Disk Access"), "{doctor:?}");
    let label = site.label("#!/bin/sh\n");
    site.fish(&["run", &label]).code(125);
    assert_eq!(site.environments(), [""; 0]);
}
