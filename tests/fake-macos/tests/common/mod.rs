//! An emulated Mac and the platform over it.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::allow_attributes,
    reason = "each suite uses a part of it"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fake_macos::{Config, Host};
use native_config::{EnvironmentId, Isolation};
use native_platform::command::Site;
use native_platform::render::{Rules, Style, render_sudoers};
use native_platform::{
    AccountStep, Backing, LayerSource, LayersStep, Limits, Platform, Runner, Scope, Step, SystemRunner, Variables,
    VolumeName, VolumeStep, WorkloadStep,
};
use native_platform_macos::{MacConfig, MacPlatform, Privilege, TABLE};
use rustix::process::{Gid, Uid};
use tempfile::TempDir;

/// The service's account where it is not root.
pub const SERVICE: u32 = 501;

/// Whether the suite can run; says why not.
pub fn runnable() -> bool {
    let root = rustix::process::getuid().is_root();
    if !root {
        println!("skipped: the emulated Mac changes owners and users, which needs root");
    }
    root
}

/// The binaries, where accounts can reach them whatever the modes of the build directory are.
fn binaries() -> &'static (TempDir, PathBuf, PathBuf) {
    static COPIES: OnceLock<(TempDir, PathBuf, PathBuf)> = OnceLock::new();
    COPIES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let copy = |from: &str, name: &str| reachable(from, &dir.path().join(name));
        let tools = copy(env!("CARGO_BIN_EXE_fake-macos"), "fake-macos");
        let keeper = copy(env!("CARGO_BIN_EXE_fake-macos-keeper"), "keeper");
        (dir, tools, keeper)
    })
}

/// The same program at a path that every user may go to.
pub fn reachable(from: &str, to: &Path) -> PathBuf {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap();
    }
    to.to_owned()
}

/// uids that no other emulated host of this machine has at this time.
fn uids() -> (u32, u32) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let low = 100_000 + std::process::id() % 4000 * 5000 + COUNT.fetch_add(1, Ordering::Relaxed) % 250 * 20;
    (low, low + 19)
}

/// An emulated Mac.
pub struct Rig {
    pub host: Host,
    pub mode: Privilege,
    dir: TempDir,
    /// Holds `runner`'s clock to milliseconds.
    pub limit: Duration,
}

impl Rig {
    pub fn new(mode: Privilege) -> Self {
        Self::with(mode, (26, 3), Style::Regex)
    }

    pub fn with(mode: Privilege, macos: (u32, u32), style: Style) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = if mode == Privilege::Root { 0 } else { SERVICE };
        let config = Config { macos, service, tcc: true, visible_after_ms: 0, uids: uids() };
        let host = Host::install(dir.path(), &binaries().1, config).unwrap();
        let rig = Self { host, mode, dir, limit: Duration::from_secs(20) };
        for path in ["private/var/work", "private/var/cache"] {
            let path = rig.host.fs().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            chown(&path, Some(service), Some(20)).unwrap();
        }
        rig.install_rules(style);
        rig
    }

    pub fn install_rules(&self, style: Style) {
        let site = self.site();
        let bin = self.host.root().join("bin");
        let tool = |name: &str| bin.join(name);
        let rules = Rules { tool: &tool, ..Rules::new(style, "_aquarium-fish", &TABLE, &site) };
        let text = render_sudoers(&rules).unwrap();
        // The published rules name real paths; the emulated host has its own.
        let text = text.replace("/Volumes/fish", &format!("{}/Volumes/fish", self.host.fs().display()));
        let text = text.replace("/bin/rm -rf /Users/", &format!("/bin/rm -rf {}/Users/", self.host.fs().display()));
        let fixed = ["/usr/bin/", "/usr/sbin/", "/bin/"]
            .iter()
            .fold(text, |text, real| text.replace(&format!(": {real}"), &format!(": {}/", bin.display())));
        fs::write(self.host.root().join("sudoers"), fixed).unwrap();
    }

    pub fn site(&self) -> Site {
        self.config().site
    }

    pub fn config(&self) -> MacConfig {
        let keeper = vec![binaries().2.display().to_string()];
        let mut config = MacConfig::new(self.mode, keeper).below(self.host.root());
        let group = |name: &str, gid| (name.parse().unwrap(), gid);
        config.site.uids = self.host.config.uids;
        config.site.groups = vec![group("staff", 20), group("everyone", 12), group("_developer", 204)];
        config.second = Duration::from_millis(20);
        config.limit = Some(self.limit);
        config
    }

    pub fn platform(&self) -> MacPlatform {
        self.platform_over(Arc::new(SystemRunner::real()))
    }

    pub fn platform_over(&self, runner: Arc<dyn Runner>) -> MacPlatform {
        MacPlatform::new(self.config(), runner)
    }

    pub fn id() -> EnvironmentId {
        "fish-abcdef".parse().unwrap()
    }

    pub fn scope(&self) -> Scope {
        let dir = self.host.fs().join("private/var/work").join(Self::id().as_str());
        if !dir.exists() {
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
            if !rustix::process::geteuid().is_root() || self.mode == Privilege::SudoCommands {
                drop(chown(&dir, Some(SERVICE), Some(20)));
            }
        }
        Scope { id: Self::id(), dir, isolation: Isolation::Basic, uids: self.host.config.uids }
    }

    /// An unpacked layer in the cache, closed to accounts as the real cache is.
    pub fn layer(&self, name: &str, files: &[(&str, &str)], mode: u32) -> LayerSource {
        let dir = self.host.fs().join("private/var/cache").join(name);
        fs::create_dir_all(&dir).unwrap();
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        if self.mode == Privilege::SudoCommands && rustix::process::geteuid().is_root() {
            Host::chown_tree(&dir, SERVICE, 20).unwrap();
        }
        fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
        LayerSource { image: name.to_owned(), digest: format!("sha256:{name}"), dir }
    }

    /// What the host is, but for what may change: the uid counter, our lock files, spent images.
    pub fn snapshot(&self) -> String {
        let mut state = self.host.state();
        state.next_image = 0;
        state.born.clear();
        state.images.retain(|i| i.disk.is_some() || i.path.exists());
        state.uchg.retain(|p| p.exists());
        let mut lines = vec![serde_json::to_string_pretty(&state).unwrap()];
        list(&self.host.fs(), &self.host.fs(), &mut lines);
        let processes = live(self.host.config.uids);
        lines.push(format!("processes {processes:?}"));
        lines.join("\n")
    }
}

fn list(root: &Path, dir: &Path, lines: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let ours = ["fish-native/uids.", "fish-native/hdiutil.", "fish-native/job.sh", "work/fish-abcdef/"];
        if ["records", "images"].iter().any(|dir| name.ends_with(&format!("fish-native/{dir}"))) {
            list(root, &path, lines);
            continue;
        }
        if ours.iter().any(|o| name.contains(o)) && !name.ends_with(".sparseimage") {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        lines.push(format!("{name} {}:{} {:o}", meta.uid(), meta.gid(), meta.mode()));
        if meta.is_dir() {
            list(root, &path, lines);
        }
    }
}

/// Live processes whose real user is in the range.
pub fn live(uids: (u32, u32)) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        if entry.metadata().is_ok_and(|m| !(uids.0..=uids.1).contains(&m.uid())) {
            continue;
        }
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field =
            |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        let uid = field("Uid:").split_whitespace().next().and_then(|u| u.parse::<u32>().ok());
        if uid.is_some_and(|u| (uids.0..=uids.1).contains(&u)) && !field("State:").starts_with('Z') {
            found.push(pid);
        }
    }
    found
}

/// While it lives, this thread and what it starts has the rights of the service. The real user stays root: that
/// is how the emulated sudo becomes root again, as a set-uid program would.
pub struct Service(bool);

impl Service {
    pub fn enter(mode: Privilege) -> Self {
        if mode == Privilege::SudoCommands {
            let (user, group) = (Uid::from_raw(SERVICE), Gid::from_raw(20));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(Gid::ROOT, group, Gid::ROOT).unwrap();
            rustix::thread::set_thread_res_uid(Uid::ROOT, user, Uid::ROOT).unwrap();
        }
        Self(mode == Privilege::SudoCommands)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.0 {
            rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).unwrap();
            rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).unwrap();
        }
    }
}

pub fn account(groups: &[&str]) -> Step {
    let groups = groups.iter().map(|g| g.parse().unwrap()).collect();
    Step::Account(AccountStep { groups, ..AccountStep::default() })
}

pub fn volume(volume: VolumeName, backing: Backing) -> Step {
    Step::Volume(VolumeStep { volume, backing, label: None, reuse: false, clone_from: None })
}

pub fn disk(name: &str) -> VolumeName {
    VolumeName::Disk(name.parse().unwrap())
}

pub const GB: u64 = 1 << 30;

pub fn sized(bytes: u64) -> Backing {
    Backing::Sized { bytes, fs: None }
}

pub fn workload(entry: &str, variables: &[(&str, &str)]) -> WorkloadStep {
    let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    WorkloadStep {
        entry: entry.to_owned(),
        variables: Variables(variables),
        limits: Limits {
            mode: native_config::LimitsMode::Soft,
            cpu: 1,
            cpu_shared: false,
            memory_bytes: GB,
            pids: 200,
            open_files: 1024,
        },
        lifetime_ms: None,
        stop_grace_ms: 200,
        log_bytes: 1 << 20,
        writable_paths: Vec::new(),
        allow_setuid: false,
    }
}

/// The plan of a label with two layers, a disk and a second group.
pub fn plan(rig: &Rig, script: &str) -> Vec<Step> {
    let home = rig.layer("base", &[("init.sh", script), ("share/a.txt", "a")], 0o755);
    let over = rig.layer("over", &[("share/a.txt", "b"), ("secret/key", "k")], 0o700);
    let data = rig.layer("data", &[("data.txt", "d")], 0o700);
    vec![
        account(&["staff", "_developer"]),
        volume(VolumeName::Home, Backing::Dir),
        volume(VolumeName::Temp, Backing::Dir),
        volume(disk("ws"), sized(GB)),
        Step::Layers(LayersStep { volume: VolumeName::Home, layers: vec![home, over] }),
        Step::Layers(LayersStep { volume: disk("ws"), layers: vec![data] }),
        Step::Workload(workload("./init.sh", &[("TOKEN", "it's a\nsecret"), ("WS", "x")])),
    ]
}

/// Executes all steps and keeps them.
pub fn allocate(platform: &dyn Platform, scope: &Scope, plan: &[Step]) -> Result<(), native_platform::StepError> {
    let mut session = platform.open(scope)?;
    for step in plan {
        session.execute(step)?;
    }
    session.finish()
}

/// Reverts all steps in reverse; goes on after an error and returns the first.
pub fn revert(platform: &dyn Platform, scope: &Scope, plan: &[Step]) -> Result<(), native_platform::StepError> {
    let mut session = platform.open(scope)?;
    let mut first = Ok(());
    for step in plan.iter().rev() {
        first = first.and(session.revert(step));
    }
    session.finish()?;
    first
}

/// A file in a shared place, a crontab and shared memory of the first account.
pub fn plant_what_owners_remove(rig: &Rig) {
    let uid = rig.host.config.uids.0;
    for path in ["private/tmp/planted", "private/var/at/tabs/fish-abcdef"] {
        let path = rig.host.fs().join(path);
        fs::write(&path, "x").unwrap();
        chown(&path, Some(uid), Some(20)).unwrap();
    }
    rig.host.change(|s| s.ipc.push(fake_macos::host::Ipc { kind: 'm', id: 65536, uid }));
}

/// Lines of one snapshot that the other has not.
pub fn differences(start: &str, end: &str) -> Vec<String> {
    let (a, b): (Vec<_>, Vec<_>) = (start.lines().collect(), end.lines().collect());
    let gone = a.iter().filter(|l| !b.contains(l)).map(|l| format!("-{l}"));
    gone.chain(b.iter().filter(|l| !a.contains(l)).map(|l| format!("+{l}"))).collect()
}

/// Fails with the differences.
pub fn same(start: &str, end: &str) {
    let differences = differences(start, end);
    assert!(differences.is_empty(), "{differences:#?}");
}
