//! A workspace on this very host, and the steps of a usual label.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use native_config::{AccountKind, Isolation, LimitsMode};
use native_helper::HelperPlatform;
use native_platform::{
    AccountStep, Backing, Invocation, LayerSource, LayersStep, Limits, Platform, Runner, Scope, Session, Step,
    SystemRunner, Variables, VolumeName, VolumeStep, WorkloadStep,
};

/// A workspace and an environment in it. Whatever happens, dropping it purges the environment.
pub(crate) struct Bench {
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) platform: HelperPlatform,
    pub(crate) scope: Scope,
}

impl Bench {
    /// `None` when this host can't do it, after saying why.
    pub(crate) fn new(id: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let platform = HelperPlatform::at(PathBuf::from(env!("CARGO_BIN_EXE_fish-native-helper")));
        if let Some(missing) = platform.checks().unwrap().into_iter().find(|c| !c.ok) {
            println!("skipped: {}: {}", missing.detail, missing.fix);
            return None;
        }
        let dir = tempfile::Builder::new().prefix("fish-cycle-").tempdir_in("/var/tmp").unwrap();
        Some(Self::within(Arc::new(dir), platform, id))
    }

    /// Another environment in the same workspace.
    pub(crate) fn beside(&self, id: &str) -> Self {
        let platform = HelperPlatform::at(PathBuf::from(env!("CARGO_BIN_EXE_fish-native-helper")));
        Self::within(Arc::clone(&self.dir), platform, id)
    }

    fn within(dir: Arc<tempfile::TempDir>, platform: HelperPlatform, id: &str) -> Self {
        // A run that was killed may have left an environment of this test's name.
        for old in platform.known().unwrap().into_iter().filter(|s| s.id.as_ref() == id) {
            let mut session = platform.open(&old).unwrap();
            session.purge().unwrap();
            assert_eq!(session.audit().unwrap(), []);
        }
        let scope = Scope {
            id: id.parse().unwrap(),
            dir: dir.path().join(id),
            isolation: Isolation::Private,
            uids: (70000, 79999),
        };
        fs::create_dir(&scope.dir).unwrap();
        let layer = dir.path().join("layer");
        fs::create_dir_all(layer.join("bin")).unwrap();
        Self { dir, platform, scope }
    }

    pub(crate) fn session(&self) -> Box<dyn Session> {
        self.platform.open(&self.scope).unwrap()
    }

    /// A layer with these files, executable.
    pub(crate) fn layer(&self, name: &str, files: &[(&str, &str)]) -> LayerSource {
        let dir = self.dir.path().join(name);
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        LayerSource { image: name.to_owned(), digest: String::new(), dir }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.scope.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let Ok(mut session) = self.platform.open(&self.scope) else { return };
        let purged = session.purge();
        let leaks = session.audit();
        if !std::thread::panicking() {
            purged.unwrap();
            assert_eq!(leaks.unwrap(), []);
        }
    }
}

pub(crate) fn account() -> Step {
    Step::Account(AccountStep { groups: Vec::new(), kind: AccountKind::Real })
}

pub(crate) fn volume(volume: VolumeName, backing: Backing) -> Step {
    Step::Volume(VolumeStep { volume, backing, label: None, reuse: false, clone_from: None })
}

pub(crate) fn sized(megabytes: u64) -> Backing {
    Backing::Sized { bytes: megabytes << 20, fs: None }
}

pub(crate) fn workload(entry: &str) -> WorkloadStep {
    let limits = Limits {
        mode: LimitsMode::Hard,
        cpu: 1,
        cpu_shared: false,
        memory_bytes: 256 << 20,
        pids: 64,
        open_files: 1024,
    };
    WorkloadStep {
        entry: entry.to_owned(),
        variables: Variables(vec![("GREETING".to_owned(), "it's \"quoted\"\nü".to_owned())]),
        limits,
        lifetime_ms: None,
        stop_grace_ms: 200,
        log_bytes: 1 << 20,
        writable_paths: Vec::new(),
        allow_setuid: false,
    }
}

pub(crate) fn disk(name: &str) -> VolumeName {
    VolumeName::Disk(name.parse().unwrap())
}

/// The steps of a usual label, without the workload.
pub(crate) fn furnish(session: &mut dyn Session, layers: Vec<LayerSource>) -> Vec<Step> {
    let steps = vec![
        account(),
        volume(VolumeName::Home, sized(64)),
        volume(VolumeName::Temp, sized(32)),
        volume(disk("ws"), sized(32)),
        volume(disk("plain"), Backing::Dir),
        Step::Layers(LayersStep { volume: VolumeName::Home, layers }),
    ];
    for step in &steps {
        session.execute(step).unwrap();
    }
    steps
}

/// Runs a shell script as root and returns what it printed.
pub(crate) fn shell(script: &str) -> String {
    let shell = Invocation::new("shell", PathBuf::from("/bin/sh"), vec!["-ec".to_owned(), script.to_owned()]);
    let runner: &dyn Runner = &SystemRunner::real();
    runner.check(&shell).unwrap().stdout
}

/// Runs a shell script as this uid, with the group of the same number and these besides.
pub(crate) fn shell_as(uid: u32, groups: &str, script: &str) -> String {
    let script = script.replace('\'', "'\\''");
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups {groups}") };
    shell(&format!("exec setpriv --reuid {uid} --regid {uid} {groups} sh -ec '{script}'"))
}

/// Runs a script when it is dropped, whatever happened.
pub(crate) struct Undo(pub(crate) String);

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            let done = std::panic::catch_unwind(|| shell(&self.0));
            assert!(done.is_ok() || std::thread::panicking(), "{}", self.0);
        }
    }
}
