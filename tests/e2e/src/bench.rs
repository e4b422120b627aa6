//! [`Bench`]: a workspace, an image cache, a file server and a configuration of a test's own.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::host::Snapshot;
use crate::image::{Image, Tree};
use crate::program::{Outcome, Running, binary, command};
use crate::server::{Answer, Server};
use crate::service::{Mode, Service};

/// The user that the server knows.
pub const USER: &str = "fish";
/// The user's password.
pub const PASSWORD: &str = "water";

/// Tools that a whole run needs, with Debian's package of each.
const TOOLS: [(&str, &str); 5] = [
    ("/usr/sbin/useradd", "passwd"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/bin/mount", "mount"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/unshare", "util-linux"),
];

/// A test's own workspace and server, and the host as it was before.
#[derive(Debug)]
pub struct Bench {
    /// The bench's directory; gone when the bench is dropped.
    pub dir: TempDir,
    /// The file server.
    pub server: Server,
    before: Snapshot,
    /// The installation for a service user, in that mode.
    service: Option<Service>,
    /// The test's turn on the host: released last.
    _turn: File,
}

impl Bench {
    /// A bench, or nothing after having said why not.
    ///
    /// # Panics
    /// When its files can't be made.
    pub fn new() -> Option<Self> {
        Self::in_mode(Mode::of_this_run())
    }

    /// A bench in which the program gets its rights in this way, or nothing after having said why not.
    ///
    /// # Panics
    /// When its files can't be made.
    pub fn in_mode(mode: Mode) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return skip("not root");
        }
        if let Some((tool, package)) = TOOLS.iter().find(|(tool, _)| !Path::new(tool).exists()) {
            return skip(&format!("{tool} is missing (apt-get install {package})"));
        }
        let turn = File::create("/run/lock/fish-native-e2e").expect("open the lock of the suite");
        turn.lock().expect("wait for the turn");
        // Not in /tmp, which is often too small or in memory.
        let dir = tempfile::Builder::new().prefix("fish-e2e-").tempdir_in("/var/tmp").expect("make a directory");
        binary();
        let service = match (mode == Mode::Helper).then(|| Service::install(dir.path())).transpose() {
            Ok(service) => service,
            Err(why) => return skip(&why),
        };
        let bench = Self { dir, server: Server::start(), before: Snapshot::take(), service, _turn: turn };
        bench.configure("");
        Some(bench)
    }

    /// Writes the configuration, with these lines besides.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn configure(&self, more: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "images_path: {dir}/images\nworkspace_path: {dir}/workspace\ndownload_user: {USER}\n\
             download_password: {PASSWORD}\nstop_grace: 2s\n{more}"
        );
        fs::write(self.config(), text).expect("write the configuration");
    }

    /// The configuration's file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config.yml")
    }

    /// Packs a tree and serves it.
    ///
    /// # Panics
    /// When it can't be packed.
    pub fn image(&self, name: &str, tree: &Tree) -> Image {
        let dir = self.dir.path().join("served");
        fs::create_dir_all(&dir).expect("make a directory");
        let image = Image::pack(&dir, name, tree);
        self.server.set(&image.file, Answer::File(image.path.clone()));
        image
    }

    /// Writes a file of the bench and returns its path.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("write a file");
        path.to_str().expect("the suite's paths are text").to_owned()
    }

    /// Packs one program as the image `work` and writes a label that starts it, with a disk `ws` of 1 GB.
    pub fn label(&self, script: &str) -> String {
        let image = self.image("work", &Tree::new().program("init.sh", script));
        self.write("label.yml", &label(&[self.source(&image, None)], "{}"))
    }

    /// An image's entry of a label.
    pub fn source(&self, image: &Image, tag: Option<&str>) -> String {
        let tag = tag.map(|t| format!(", tag: {t}")).unwrap_or_default();
        format!("{{url: '{}', sum: '{}'{tag}}}", self.server.url(&image.file), image.sum)
    }

    /// Starts the program with the bench's configuration.
    pub fn start(&self, args: &[&str]) -> Running {
        let words = self.words();
        let mut command = command(&words[0]);
        // The program's log goes to the bench: a failed test shows it.
        command.args(&words[1..]).args(args).current_dir(self.dir.path());
        Running::start(command)
    }

    /// The words that start the program with the bench's configuration, in this mode.
    pub fn words(&self) -> Vec<String> {
        let mut words = match &self.service {
            Some(service) => service.words(),
            None => vec![binary().display().to_string()],
        };
        words.extend(["--config".to_owned(), self.config().display().to_string()]);
        words
    }

    /// The same as the beginning of a shell's line.
    pub fn line(&self) -> String {
        self.words().iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
    }

    /// The installation for a service user, if this is that mode.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_ref()
    }

    /// Runs the program with the bench's configuration to its end.
    pub fn fish(&self, args: &[&str]) -> Outcome {
        self.start(args).finish()
    }

    /// Runs the program on a kernel that shows another boot id, as after a reboot.
    pub fn after_a_reboot(&self, args: &[&str]) -> Outcome {
        let boot = self.write("boot_id", "11111111-2222-3333-4444-555555555555\n");
        let line = format!(
            "mount --bind '{boot}' /proc/sys/kernel/random/boot_id && exec '{}' --config '{}' \"$@\"",
            binary().display(),
            self.config().display()
        );
        let mut shell = command("unshare");
        shell.args(["--mount", "sh", "-c", &line, "sh"]).args(args).current_dir(self.dir.path());
        Running::start(shell).finish()
    }

    /// The environments that the program lists.
    pub fn environments(&self) -> Vec<String> {
        let list = self.fish(&["list", "--json"]).code(0).json();
        let all = list["environments"].as_array().cloned().unwrap_or_default();
        all.iter().map(|e| e["identifier"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the cache holds besides finished images: anything here is half an image.
    pub fn half_images(&self) -> Vec<String> {
        let staging = self.dir.path().join("images").join("staging");
        fs::read_dir(staging).into_iter().flatten().flatten().map(|e| e.path().display().to_string()).collect()
    }

    /// Asserts that the host is as it was before, and that the workspace is empty.
    ///
    /// # Panics
    /// When something was left behind, or taken away.
    #[track_caller]
    pub fn assert_as_before(&self) {
        self.compare(false);
    }

    /// The same after kill -9, which may leave the beginning of a download in the cache.
    ///
    /// # Panics
    /// When something else was left behind, or taken away.
    #[track_caller]
    pub fn assert_as_before_but_for_downloads(&self) {
        self.compare(true);
    }

    #[track_caller]
    fn compare(&self, was_killed: bool) {
        assert_eq!(self.left(was_killed), [""; 0], "left behind, or taken away");
    }

    /// What is not as it was before, one line each. After kill -9 (`was_killed`), the beginning of a download may stay.
    pub fn left(&self, was_killed: bool) -> Vec<String> {
        let workspace = self.dir.path().join("workspace");
        let entries = fs::read_dir(workspace).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut left: Vec<String> =
            names.filter(|name| name.contains("fish-")).map(|name| format!("workspace: {name}")).collect();
        left.extend(Snapshot::new_since(&self.before));
        left.extend(Snapshot::gone_since(&self.before).into_iter().map(|line| format!("taken: {line}")));
        // What had come when the process was killed stays for a day: whoever wants the image next goes on there.
        let kept = |path: &String| was_killed && (path.ends_with(".part") || path.ends_with(".part.json"));
        left.extend(self.half_images().into_iter().filter(|path| !kept(path)));
        left
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A failed test must not spoil the next one: whatever is still there goes, as well as it can.
        if std::thread::panicking() {
            let removed = self.fish(&["deallocate", "--all"]);
            let line = format!("cleaning up after the failure: {} {}\n", removed.code, removed.stderr);
            drop(std::io::stderr().write_all(line.as_bytes()));
        }
    }
}

/// A label with these images, this metadata (a YAML value), one CPU, one GB and the disk `ws` of 1 GB.
pub fn label(images: &[String], metadata: &str) -> String {
    format!(
        "name: e2e\nversion: 1\nmetadata: {metadata}\ndefinitions:\n  - driver: native\n    images: [{}]\n    \
         resources: {{cpu: 1, ram: 1, multitenancy: true, disks: {{ws: {{size: 1}}}}}}\n",
        images.join(", ")
    )
}

impl Bench {
    /// Writes a label with these images and this metadata (a YAML value) and returns its path.
    pub fn label_of(&self, images: &[String], metadata: &str) -> String {
        self.write("label.yml", &label(images, metadata))
    }
}

fn skip<T>(why: &str) -> Option<T> {
    crate::say(&format!("skipped: {why}"));
    None
}
