//! The emulated host: one directory with its tools, its document, its settings and its files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::fault::{Action, Fault};
use crate::{Reply, base, tools};

/// How the host is set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Major and minor version of macOS.
    pub macos: (u32, u32),
    /// The uid of the service's account, if it is not root.
    pub service: u32,
    /// Whether the caller has Full Disk Access.
    pub tcc: bool,
    /// How long after its creation a user can't be found, in ms.
    pub visible_after_ms: u64,
    /// The uids that are emulated users, both ends included. No two hosts that live at the same time may
    /// share any: processes are found by uid, and they are real.
    pub uids: (u32, u32),
}

/// Attributes of one record.
pub type Record = BTreeMap<String, Vec<String>>;

/// A disk image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// The identifier that its file holds.
    pub id: u64,
    /// Its file.
    pub path: PathBuf,
    /// `APFS`, `HFS+`, ...
    pub fs: String,
    /// The volume's name.
    pub volume: String,
    /// The whole disk's number, while it is attached.
    pub disk: Option<u32>,
    /// Where it is mounted, while it is.
    pub mounted: Option<PathBuf>,
    /// Whether the mount point was made by the mount.
    pub made: bool,
    /// Whether owners count on the volume.
    pub owners: bool,
    /// Whether the Finder hides it.
    pub nobrowse: bool,
}

/// A System V object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ipc {
    /// `m`, `q` or `s`.
    pub kind: char,
    /// Its id.
    pub id: u32,
    /// Its owner.
    pub uid: u32,
}

/// What the host remembers beside its files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// `Users`, `Groups`, `SharePoints` -> name -> attributes.
    pub od: BTreeMap<String, BTreeMap<String, Record>>,
    /// When a user got both its ids, in ms.
    pub born: BTreeMap<String, u64>,
    /// Disk images, attached or not.
    pub images: Vec<Image>,
    /// The number of the next image.
    pub next_image: u64,
    /// launchd's user domains.
    pub domains: Vec<u32>,
    /// System V objects.
    pub ipc: Vec<Ipc>,
    /// Files that have the `uchg` flag.
    pub uchg: Vec<PathBuf>,
}

/// A call as it was logged.
#[derive(Debug, Clone, Deserialize)]
pub struct Logged {
    /// Its number.
    pub call: u64,
    /// The tool.
    pub tool: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The names of its variables.
    pub env: Vec<String>,
    /// Its working directory.
    pub cwd: PathBuf,
}

/// The emulated host.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    /// Who calls: the effective user. Its real user tells whether `sudo` can become root, as set-uid would.
    caller: u32,
    /// How it is set up.
    pub config: Config,
}

impl Default for Config {
    /// A root service on a Mac of today with Full Disk Access.
    fn default() -> Self {
        Self { macos: (26, 3), service: 0, tcc: true, visible_after_ms: 0, uids: (70000, 79999) }
    }
}

impl Host {
    /// Makes a host in an empty directory; `exe` is the multi-call binary.
    ///
    /// # Errors
    /// When files can't be made.
    pub fn install(root: &Path, exe: &Path, config: Config) -> io::Result<Self> {
        fs::set_permissions(root, Permissions::from_mode(0o777))?;
        fs::create_dir(root.join("bin"))?;
        for tool in tools::NAMES {
            std::os::unix::fs::symlink(exe, root.join("bin").join(tool))?;
        }
        fs::create_dir(root.join("volumes"))?;
        for (dir, mode) in base::DIRECTORIES {
            let path = root.join("fs").join(dir);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(*mode))?;
        }
        // What the set-up page tells an operator to make.
        let state = root.join("fs/private/var/fish-native");
        fs::create_dir(&state)?;
        fs::set_permissions(&state, Permissions::from_mode(0o711))?;
        chown(&state, Some(config.service), Some(20))?;
        let host = Self { root: root.to_owned(), caller: 0, config };
        for (name, text) in [
            ("config.json", serde_json::to_string(&host.config)?),
            ("state.json", serde_json::to_string(&base::state(host.config.service))?),
            ("faults.json", "[]".to_owned()),
            ("calls", String::new()),
            ("calls.jsonl", String::new()),
            ("lock", String::new()),
        ] {
            fs::write(root.join(name), text)?;
            fs::set_permissions(root.join(name), Permissions::from_mode(0o666))?;
        }
        Ok(host)
    }

    /// Opens a host.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(root: &Path) -> io::Result<Self> {
        let config = serde_json::from_slice(&fs::read(root.join("config.json"))?)?;
        Ok(Self { root: root.to_owned(), caller: rustix::process::geteuid().as_raw(), config })
    }

    /// Becomes root where the real user is: what a set-uid tool does. The caller stays known.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn elevate(&self) -> io::Result<()> {
        if rustix::process::getuid().is_root() {
            rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
            rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        }
        Ok(())
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that stands for `/`.
    pub fn fs(&self) -> PathBuf {
        self.root.join("fs")
    }

    /// Whether a path lies in the emulated file system and has no `..`.
    pub fn inside(&self, path: &str) -> bool {
        Path::new(path).starts_with(self.fs()) && !path.split('/').any(|part| part == "..")
    }

    /// Who is calling: a real user below `su`, root below `sudo`, else the service.
    pub fn euid(&self) -> u32 {
        if std::env::var_os("FAKE_SUDO").is_some() && rustix::process::geteuid().is_root() { 0 } else { self.caller }
    }

    /// Does something to files with the rights of the caller.
    pub fn as_caller<T>(&self, action: impl FnOnce() -> T) -> T {
        let euid = self.euid();
        if euid == rustix::process::geteuid().as_raw() {
            return action();
        }
        let (user, root) = (Uid::from_raw(euid), Uid::ROOT);
        let dropped = rustix::thread::set_thread_res_uid(user, user, root);
        assert!(dropped.is_ok(), "FAKE: can't become {euid}");
        let value = action();
        let regained = rustix::thread::set_thread_res_uid(root, root, root);
        assert!(regained.is_ok(), "FAKE: can't become root again");
        value
    }

    fn lock(&self) -> io::Result<File> {
        let lock = OpenOptions::new().write(true).open(self.root.join("lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    fn load(&self) -> io::Result<State> {
        Ok(serde_json::from_slice(&fs::read(self.root.join("state.json"))?)?)
    }

    /// What the host remembers now.
    ///
    /// # Panics
    /// When the document can't be read: then no test means anything.
    pub fn state(&self) -> State {
        self.load().expect("FAKE: state.json")
    }

    /// Changes what the host remembers, under its lock.
    ///
    /// # Panics
    /// When the document can't be read or written: then no test means anything.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _lock = self.lock().expect("FAKE: lock");
        let mut state = self.state();
        let value = change(&mut state);
        self.replace("state.json", serde_json::to_vec(&state).expect("FAKE: state")).expect("FAKE: state.json");
        value
    }

    fn replace(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        // A tool may be killed at any time, so the document is replaced and never half written.
        let temp = self.root.join(format!("{name}.{}", std::process::id()));
        fs::write(&temp, bytes)?;
        fs::set_permissions(&temp, Permissions::from_mode(0o666))?;
        fs::rename(temp, self.root.join(name))
    }

    /// Sets what goes wrong.
    ///
    /// # Panics
    /// When the script can't be written.
    pub fn set_faults(&self, faults: &[Fault]) {
        let text = serde_json::to_vec(faults).expect("FAKE: faults");
        self.replace("faults.json", text).expect("FAKE: faults.json");
    }

    /// What goes wrong with this call, if anything does; counts it down.
    pub fn fault_for(&self, index: u64, tool: &str, args: &[&str]) -> Option<Action> {
        let read =
            || -> io::Result<Vec<Fault>> { Ok(serde_json::from_slice(&fs::read(self.root.join("faults.json"))?)?) };
        let fits = |f: &Fault| {
            f.times > 0
                && f.call.is_none_or(|c| c == index)
                && f.tool.as_deref().is_none_or(|t| t == tool)
                && args.join(" ").contains(&f.args)
        };
        if !read().ok()?.iter().any(fits) {
            return None;
        }
        let _lock = self.lock().ok()?;
        let mut faults = read().ok()?;
        let fault = faults.iter_mut().find(|f| fits(f))?;
        fault.times -= 1;
        let action = fault.action.clone();
        self.set_faults(&faults);
        Some(action)
    }

    /// Numbers a call.
    pub(crate) fn count_call(&self) -> io::Result<u64> {
        // One byte for each call, appended atomically: the place after it is the number.
        let mut calls = OpenOptions::new().append(true).open(self.root.join("calls"))?;
        calls.write_all(b".")?;
        io::Seek::stream_position(&mut calls).map(|end| end - 1)
    }

    /// How many calls there have been.
    pub fn calls(&self) -> u64 {
        fs::metadata(self.root.join("calls")).map_or(0, |m| m.len())
    }

    pub(crate) fn log_call(&self, index: u64, tool: &str, args: &[&str], reply: &Reply) {
        let line = serde_json::json!({
            "call": index, "tool": tool, "args": args, "euid": self.euid(), "code": reply.code, "err": reply.err,
            "env": std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect::<Vec<_>>(),
            "cwd": std::env::current_dir().unwrap_or_default(),
        });
        if let Ok(mut log) = OpenOptions::new().append(true).open(self.root.join("calls.jsonl")) {
            drop(log.write_all(format!("{line}\n").as_bytes()));
        }
    }

    /// Every call so far: index, tool, arguments, in the order in which they ended.
    pub fn log(&self) -> Vec<(u64, String, Vec<String>)> {
        self.logged().into_iter().map(|l| (l.call, l.tool, l.args)).collect()
    }

    /// Every call so far with what was known of it, in the order in which they ended.
    pub fn logged(&self) -> Vec<Logged> {
        let text = fs::read_to_string(self.root.join("calls.jsonl")).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Changes the settings.
    ///
    /// # Panics
    /// When they can't be written.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        let text = serde_json::to_vec(&self.config).expect("FAKE: config");
        self.replace("config.json", text).expect("FAKE: config.json");
    }

    /// The uid and gid of a user whom the system can already find.
    pub fn visible_user(&self, name: &str) -> Option<(u32, u32)> {
        let state = self.state();
        let record = state.od.get("Users")?.get(name)?;
        let id = |key: &str| record.get(key)?.first()?.parse::<i64>().ok().map(|n| n as u32);
        let (uid, gid) = (id("UniqueID")?, id("PrimaryGroupID")?);
        let born = state.born.get(name).copied().unwrap_or(0);
        (now_ms() >= born + self.config.visible_after_ms).then_some((uid, gid))
    }

    /// Whether the uid is one of the emulated users'.
    pub fn is_emulated(&self, uid: u32) -> bool {
        (self.config.uids.0..=self.config.uids.1).contains(&uid)
    }

    /// Gives a tree to a user.
    ///
    /// # Errors
    /// When it can't be walked or changed.
    pub fn chown_tree(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                Self::chown_tree(&entry?.path(), uid, gid)?;
            }
            return chown(path, Some(uid), Some(gid));
        }
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
    }
}

/// The time in ms.
#[expect(clippy::disallowed_methods, reason = "the time of the emulated host, which its processes compare")]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
