//! [`Service`]: a host that is set up for a driver that is not root: a service user, the helper, its sudo rule and its
//! rules, all of them really installed and taken away again.
//!
//! `FISH_E2E_MODE=helper` runs the whole suite in this way; without it the program runs as root.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::program::{binary, command, helper};

/// The service user. Not a name that an environment can have.
const USER: &str = "fish-svc";
const HELPER: &str = "/usr/libexec/fish-native-helper";
const RULES: &str = "/etc/fish-native/helper.yml";
const SUDOERS: &str = "/etc/sudoers.d/fish-native-e2e";
/// How our own installation is told from an operator's.
const MARK: &str = "# made by the black-box suite of fish-native\n";

/// Which way the program gets its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It runs as root.
    Root,
    /// It runs as a service user, with the helper behind sudo.
    Helper,
}

impl Mode {
    /// The mode that this run of the suite is in.
    ///
    /// # Panics
    /// When the variable has another word.
    pub fn of_this_run() -> Self {
        match std::env::var("FISH_E2E_MODE").as_deref() {
            Err(_) | Ok("root") => Self::Root,
            Ok("helper") => Self::Helper,
            Ok(other) => panic!("FISH_E2E_MODE is {other:?}: root or helper"),
        }
    }
}

/// The installation. Gone when it is dropped.
#[derive(Debug)]
pub struct Service {
    uid: u32,
    gid: u32,
    /// The program, where the service user can execute it.
    program: PathBuf,
}

impl Service {
    /// Installs everything for a bench in this directory, or says why that can't be done.
    ///
    /// # Panics
    /// When half of it can be done.
    pub(crate) fn install(dir: &Path) -> Result<Self, String> {
        if !Path::new("/usr/bin/sudo").exists() {
            return Err("sudo is missing (apt-get install sudo)".to_owned());
        }
        if !Path::new("/etc/sudoers.d").is_dir() {
            return Err("sudo here reads no /etc/sudoers.d".to_owned());
        }
        let ours = fs::read_to_string(RULES).is_ok_and(|text| text.starts_with(MARK));
        if let Some(there) = [HELPER, RULES].iter().find(|path| !ours && Path::new(path).exists()) {
            return Err(format!("{there} is there: this host is an operator's"));
        }
        // A run that was killed may have left its own.
        uninstall();
        let made =
            command("useradd").args(["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER]).output();
        let made = made.expect("start useradd");
        assert!(made.status.success(), "useradd {USER}: {}", String::from_utf8_lossy(&made.stderr));
        let passwd = fs::read_to_string("/etc/passwd").expect("read the users");
        let line = passwd.lines().find(|line| line.starts_with(&format!("{USER}:"))).expect("the user is there");
        let ids: Vec<u32> = line.split(':').skip(2).take(2).map(|id| id.parse().expect("a number")).collect();
        let (uid, gid) = (ids[0], ids[1]);
        fs::create_dir_all("/etc/fish-native").expect("make /etc/fish-native");
        write(RULES, 0o644, &rules(dir, ""));
        write(SUDOERS, 0o440, &format!("{MARK}{USER} ALL=(root) NOPASSWD: {HELPER} \"\"\n"));
        fs::create_dir_all("/usr/libexec").expect("make /usr/libexec");
        fs::copy(helper(), HELPER).expect("install the helper");
        fs::set_permissions(HELPER, fs::Permissions::from_mode(0o755)).expect("set the helper's mode");
        chown(dir, Some(uid), Some(gid)).expect("give the bench to the service user");
        let mut program = binary();
        let closed = |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
        if program.ancestors().any(closed) {
            let copy = dir.join("fish-native");
            fs::copy(&program, &copy).expect("copy the program to where the service user gets");
            program = copy;
        }
        Ok(Self { uid, gid, program })
    }

    /// Lets root's rules say more.
    ///
    /// # Panics
    /// When they can't be written.
    pub fn allow(&self, dir: &Path, more: &str) {
        write(RULES, 0o644, &rules(dir, more));
    }

    /// The words by which the program is started as the service user.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = self.as_user();
        words.push(self.program.display().to_string());
        words
    }

    /// The words by which anything is started as the service user.
    pub fn as_user(&self) -> Vec<String> {
        let (uid, gid) = (format!("--reuid={}", self.uid), format!("--regid={}", self.gid));
        ["setpriv", &uid, &gid, "--clear-groups", "--"].map(str::to_owned).to_vec()
    }

    /// The service user's uid.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        uninstall();
    }
}

fn rules(dir: &Path, more: &str) -> String {
    let dir = dir.display();
    format!("{MARK}workspaces: [{dir}/workspace]\nimages: [{dir}/images]\n{more}")
}

fn write(path: &str, mode: u32, text: &str) {
    drop(fs::remove_file(path));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).unwrap_or_else(|e| panic!("write {path}: {e}"));
}

/// Takes away whatever is there of ours.
fn uninstall() {
    for path in [SUDOERS, HELPER, RULES] {
        drop(fs::remove_file(path));
    }
    drop(fs::remove_dir("/etc/fish-native"));
    if fs::read_to_string("/etc/passwd").is_ok_and(|text| text.lines().any(|l| l.starts_with(&format!("{USER}:")))) {
        drop(command("userdel").arg(USER).output());
    }
}
