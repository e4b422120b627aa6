//! What the Go driver does, with Linux' own tools: each step a program through sudo, with the driver's two fixed sleeps.
//!
//! Written after `lib/drivers/provider/native` of Aquarium Fish. Where macOS has dscl and hdiutil, here are useradd, and
//! mkfs with a loop mount. bsdtar's `--uname` is `tar` and `chown -R`, which is a little quicker.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use super::scratch::{Scratch, text};
use crate::run::tool;

/// An environment that was made so.
pub(crate) struct Steps {
    user: String,
    home: PathBuf,
    disk: PathBuf,
    image: PathBuf,
    entry: Child,
}

fn sudo(args: &[&str]) -> anyhow::Result<()> {
    tool("sudo", &[&["-n"], args].concat()).output().map(drop)
}

impl Steps {
    /// Makes an environment of the unpacked image's layer and a disk of 10 GB, and starts the entry.
    pub(crate) fn allocate(scratch: &Scratch, layer: &std::path::Path, n: usize) -> anyhow::Result<(Self, Duration)> {
        let (user, dir) = (format!("fish-go{n}"), scratch.dir("go")?);
        let (home, disk, image) =
            (PathBuf::from("/home").join(&user), dir.join(format!("{n}")), dir.join(format!("{n}.img")));
        fs::create_dir_all(&disk)?;
        let since = Instant::now();
        sudo(&["useradd", "-m", &user])?;
        tool("truncate", &["-s", "10G", text(&image)?]).output()?;
        tool("mkfs.ext4", &["-q", "-F", text(&image)?]).output()?;
        sudo(&["mount", "-o", "loop", text(&image)?, text(&disk)?])?;
        sudo(&["chown", "-R", &user, text(&disk)?])?;
        sudo(&["tar", "-xf", text(layer)?, "-C", text(&home)?])?;
        sudo(&["chown", "-R", &user, text(&home)?])?;
        // A shell's background job ignores SIGINT, and what it starts inherits that.
        let entry = home.join("init.sh");
        let start = ["--default-signal=INT", "sudo", "-n", "su", "-l", &user, "-c", text(&entry)?];
        let entry = tool("env", &start).leave()?;
        thread::sleep(Duration::from_secs(1));
        Ok((Self { user, home, disk, image, entry }, since.elapsed()))
    }

    /// Stops and removes it.
    pub(crate) fn deallocate(mut self) -> anyhow::Result<Duration> {
        let since = Instant::now();
        tool("sudo", &["-n", "killall", "-INT", "-u", &self.user]).quietly()?;
        if tool("ps", &["-u", &self.user, "-o", "pid="]).output().is_ok() {
            thread::sleep(Duration::from_secs(5));
        }
        tool("sudo", &["-n", "killall", "-KILL", "-u", &self.user]).quietly()?;
        self.entry.wait()?;
        sudo(&["userdel", &self.user])?;
        sudo(&["rm", "-rf", text(&self.home)?])?;
        sudo(&["umount", text(&self.disk)?])?;
        fs::remove_file(&self.image)?;
        fs::remove_dir(&self.disk)?;
        Ok(since.elapsed())
    }
}
