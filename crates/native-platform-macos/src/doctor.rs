//! What `doctor` looks at on macOS. Nothing here changes anything.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use native_platform::{Check, ErrorKind, StepError, StepKind};

use crate::config::Privilege;
use crate::mac::Mac;
use crate::parse;
use crate::store::make_hint;
use crate::table::{self as t, TABLE};
use crate::tools::{CommandError, chain, full_disk_access};
use native_platform::command::Means;

fn good(id: &str, detail: impl Into<String>) -> Check {
    Check { id: id.to_owned(), ok: true, detail: detail.into(), fix: String::new() }
}

fn bad(id: &str, detail: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { id: id.to_owned(), ok: false, detail: detail.into(), fix: fix.into() }
}

impl Mac {
    /// Every check.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.check_version(), self.check_tools()];
        checks.push(self.check_state());
        if self.tools.config.privilege == Privilege::SudoCommands {
            checks.push(self.check_sudo());
        }
        checks.push(self.check_access());
        checks.push(self.check_uids());
        checks.push(self.check_backend());
        checks.push(self.check_spotlight());
        // Said loudly where it can't be had: a workload sees the host's files and processes as any user does.
        checks.push(good("isolation", "basic: macOS keeps environments apart by their accounts alone"));
        checks
    }

    fn check_version(&self) -> Check {
        match self.version() {
            Ok((major, minor)) if major >= 12 => good("macos-version", format!("macOS {major}.{minor}")),
            Ok((major, minor)) => bad("macos-version", format!("macOS {major}.{minor}"), "update to macOS 12 or newer"),
            Err(error) => bad("macos-version", error.to_string(), "set sw_vers' path, or run this on macOS"),
        }
    }

    fn check_tools(&self) -> Check {
        let mut names = TABLE.tools();
        let trusted: BTreeSet<&str> = TABLE.privileged().map(|row| row.tool).chain(["sudo"]).collect();
        if self.tools.config.privilege == Privilege::SudoCommands {
            names.insert("sudo");
        }
        let count = names.len();
        for name in names {
            let path = self.tools.config.tool(name);
            let fix = format!("set {name}_path in the driver's config to the tool's absolute path");
            match fs::metadata(&path) {
                Err(e) => return bad("tools", format!("{}: {e}", path.display()), fix),
                Ok(meta) if !meta.is_file() || meta.mode() & 0o111 == 0 => {
                    return bad("tools", format!("{} is no program", path.display()), fix);
                }
                // Who may write the tool is root by way of it.
                Ok(meta) if trusted.contains(name) && (meta.mode() & 0o022 != 0 || meta.uid() != 0) => {
                    return bad(
                        "tools",
                        format!("{} can be changed by others than root", path.display()),
                        format!("sudo chown root {0} && sudo chmod go-w {0}", path.display()),
                    );
                }
                Ok(_) => {}
            }
        }
        good("tools", format!("{count} tools are there"))
    }

    fn check_state(&self) -> Check {
        let state = &self.tools.config.site.places.state;
        match self.prepare() {
            Ok(()) => good("state-directory", state.display().to_string()),
            Err(error) => bad("state-directory", error.message, error.hint.unwrap_or_else(|| make_hint(state))),
        }
    }

    /// Makes the state directory, and makes sure that it is nobody else's: who can write there chooses the images
    /// that are mounted and the script that jobs run through.
    pub(crate) fn prepare(&self) -> Result<(), StepError> {
        const STEP: StepKind = StepKind::Platform;
        let state = &self.tools.config.site.places.state;
        self.store.prepare().map_err(|e| e.at(STEP))?;
        let meta =
            fs::symlink_metadata(state).map_err(|e| StepError::failed(STEP, format!("{}: {e}", state.display())))?;
        let refused = |what: &str, fix: String| {
            Err(StepError::new(STEP, ErrorKind::NotReady, format!("{} {what}", state.display())).hint(fix))
        };
        let own = rustix::process::geteuid().as_raw();
        if !meta.is_dir() || meta.uid() != own {
            let what = format!("is not the directory of uid {own}, who is to own it");
            return refused(&what, format!("sudo chown -R {own} {}", state.display()));
        }
        if meta.mode() & 0o022 != 0 {
            return refused("may be written by others", format!("sudo chmod 0711 {}", state.display()));
        }
        Ok(())
    }

    /// Asks sudo for every command, which runs none of them.
    fn check_sudo(&self) -> Check {
        let refused = self.refused_commands();
        let fix = "fish-native sudoers --platform macos --style regex | sudo tee /etc/sudoers.d/fish-native";
        match refused {
            Err(error) => bad("sudo-rules", chain(&error), fix),
            Ok(refused) if refused.is_empty() => good("sudo-rules", "sudo allows every command"),
            Ok(refused) => {
                let old = self.version().is_ok_and(|v| v.0 < 14);
                // Their sudo has no regular expressions (1.9.5p2 up to macOS 13).
                let fix = if old { "use `privilege: helper` on macOS before 14" } else { fix };
                bad("sudo-rules", format!("sudo refuses: {}", refused.join(", ")), fix)
            }
        }
    }

    /// The commands that sudo has no rule for, by their ids.
    pub(crate) fn refused_commands(&self) -> Result<Vec<String>, CommandError> {
        let mut refused = Vec::new();
        for row in TABLE.privileged() {
            let site = &self.tools.config.site;
            let values: Vec<_> = row.slots().map(|slot| slot.example(site)).collect();
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            if row.fenceable && !self.tools.permitted(row, &values)? {
                refused.push(row.id.to_owned());
            }
        }
        Ok(refused)
    }

    /// Sets the home of `nobody` to what it is: allowed with Full Disk Access, refused without.
    fn check_access(&self) -> Check {
        const ID: &str = "full-disk-access";
        let program = self.tools.config.program.display().to_string();
        let home = self.tools.run(&t::ACCESS_READ, &[]);
        let home = home.map(|said| parse::attribute(&said.out, "NFSHomeDirectory").map(str::to_owned));
        match home {
            Err(error) => return bad(ID, chain(&error), "look at what dscl says: `dscl . read /Users/nobody`"),
            Ok(Some(home)) if home == "/var/empty" => {}
            Ok(home) => {
                return good(ID, format!("not asked: the home of nobody is {}", home.unwrap_or_default()));
            }
        }
        match self.tools.run(&t::ACCESS_PROBE, &[]) {
            Ok(_) => good(ID, "users can be deleted"),
            Err(CommandError::Failed { means: Some(Means::Denied), .. }) => {
                bad(ID, "macOS denies it to delete users (eDSPermissionError, -14120)", full_disk_access(&program))
            }
            Err(error) if error.no_rule() => good(ID, "not asked: sudo has no rule for it"),
            Err(error) => bad(ID, chain(&error), full_disk_access(&program)),
        }
    }

    fn check_uids(&self) -> Check {
        const ID: &str = "uid-range";
        let (low, high) = self.tools.config.site.uids;
        let said = match self.tools.run(&t::USER_LIST, &[]) {
            Ok(said) => said,
            Err(error) => return bad(ID, chain(&error), "look at what dscl says: `dscl . list /Users UniqueID`"),
        };
        let known = self.store.records().unwrap_or_default();
        let ours = |name: &str| known.iter().any(|r| r.scope.id.as_str() == name);
        let inside = |uid: i64| (i64::from(low)..=i64::from(high)).contains(&uid);
        let users = parse::user_ids(&said.out);
        let foreign: Vec<_> = users.iter().filter(|(n, uid)| inside(*uid) && !ours(n)).map(|(n, _)| *n).collect();
        let fix = "set uid_min and uid_max to a range that nobody uses";
        if low < 1000 {
            // Below 500 are Apple's, which move (300 to 304 in Sequoia); from 501 on are people's.
            return bad(ID, format!("{low} to {high} reaches into the ids of macOS and of people"), fix);
        }
        match foreign.first() {
            None => good(ID, format!("{low} to {high} are free")),
            Some(name) => bad(ID, format!("{name} has a uid between {low} and {high}"), fix),
        }
    }

    fn check_backend(&self) -> Check {
        const ID: &str = "disk-backend";
        let about = match self.version() {
            Err(error) => return bad(ID, error.to_string(), "set sw_vers' path"),
            Ok(version) if version >= (27, 0) => {
                "APFS images by hdiutil, which is deprecated here; detached by diskutil"
            }
            Ok(version) if version >= (26, 4) => "APFS images by hdiutil; HFS+ images can't be mounted here",
            Ok(_) => "APFS images by hdiutil; HFS+ where a label asks for it",
        };
        match self.attached() {
            Ok(_) => good(ID, about),
            Err(error) => bad(ID, error.to_string(), "look at what hdiutil says: `hdiutil info -plist`"),
        }
    }

    fn check_spotlight(&self) -> Check {
        // Volumes are hidden and made without an index, so this is information and never a failure.
        match self.tools.run(&t::SPOTLIGHT, &[]) {
            Ok(said) => {
                let said = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
                good("spotlight", format!("{said} (disks of environments are made without an index)"))
            }
            Err(error) => good("spotlight", format!("unknown: {}", chain(&error))),
        }
    }
}
