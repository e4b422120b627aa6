//! What a caller who is not root may ask of the helper: `/etc/fish-native/helper.yml`, written by root.
//!
//! The request is typed and was checked by the driver, but the driver may be anybody who runs as the service user. So
//! everything that a step names is checked again here, against a file that only root can change. Without that file a
//! caller who is not root gets nothing.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use native_config::GroupName;
use native_platform::{ErrorKind, Scope, Step, StepError, StepKind};
use serde::Deserialize;

/// Where the rules are.
pub(crate) const RULES: &str = "/etc/fish-native/helper.yml";

/// What may be asked.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    /// Workspaces: an environment's directory is directly below one of these.
    pub(crate) workspaces: Vec<PathBuf>,
    /// Image caches: layers come from below one of these.
    pub(crate) images: Vec<PathBuf>,
    /// The first uid that environments may get.
    #[serde(default = "first_uid")]
    pub(crate) uid_min: u32,
    /// The last one.
    #[serde(default = "last_uid")]
    pub(crate) uid_max: u32,
    /// Groups that labels may name.
    #[serde(default)]
    pub(crate) groups: Vec<GroupName>,
    /// Directories of the host that may stay writable for workloads.
    #[serde(default)]
    pub(crate) writable_paths: Vec<PathBuf>,
    /// Directories and images that disks may start from.
    #[serde(default)]
    pub(crate) clone_from: Vec<PathBuf>,
    /// Whether set-uid programs may work inside.
    #[serde(default)]
    pub(crate) allow_setuid: bool,
}

fn first_uid() -> u32 {
    70_000
}

fn last_uid() -> u32 {
    79_999
}

fn refused(step: StepKind, what: impl std::fmt::Display) -> StepError {
    StepError::new(step, ErrorKind::Invalid, format!("the root helper refuses {what}"))
        .hint(format!("root can allow it in {RULES}"))
}

impl Rules {
    /// Reads the rules, which must be root's alone.
    pub(crate) fn load(path: &Path) -> Result<Self, StepError> {
        let not_ready = |what: String| {
            StepError::new(StepKind::Platform, ErrorKind::NotReady, format!("{}: {what}", path.display()))
                .hint(format!("as root, write {RULES} with `workspaces` and `images`, mode 644"))
        };
        let open = fs::File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
        let mut file = open.map_err(|e| not_ready(e.to_string()))?;
        let meta = file.metadata().map_err(|e| not_ready(e.to_string()))?;
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(not_ready("somebody other than root can write it".to_owned()));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| not_ready(e.to_string()))?;
        let rules: Self = serde_yaml::from_str(&text).map_err(|e| not_ready(e.to_string()))?;
        if rules.uid_min < 1000 || rules.uid_min > rules.uid_max {
            return Err(not_ready(format!(
                "uid_min {} and uid_max {} are no range above 1000",
                rules.uid_min, rules.uid_max
            )));
        }
        Ok(rules)
    }

    /// Whether this caller may have an environment there.
    pub(crate) fn check_scope(&self, scope: &Scope, caller: u32) -> Result<(), StepError> {
        const STEP: StepKind = StepKind::Platform;
        let dir = &scope.dir;
        if dir.file_name().is_none_or(|n| n != scope.id.as_ref()) || !is_plain(dir) {
            return Err(refused(STEP, format_args!("{} as the directory of {}", dir.display(), scope.id)));
        }
        if !self.workspaces.iter().any(|w| dir.parent() == Some(w)) {
            return Err(refused(STEP, format_args!("{}, which is in none of its workspaces", dir.display())));
        }
        match fs::symlink_metadata(dir) {
            Ok(meta) if meta.is_dir() && meta.uid() == caller => {}
            Ok(_) => return Err(refused(STEP, format_args!("{}, which is not the caller's directory", dir.display()))),
            Err(e) => return Err(refused(STEP, format_args!("{}: {e}", dir.display()))),
        }
        if scope.uids.0 < self.uid_min || scope.uids.1 > self.uid_max || scope.uids.0 > scope.uids.1 {
            return Err(refused(STEP, format_args!("uids {} to {}", scope.uids.0, scope.uids.1)));
        }
        Ok(())
    }

    /// Whether everything that a step names is allowed.
    pub(crate) fn check_step(&self, step: &Step) -> Result<(), StepError> {
        let refuse = |what: std::fmt::Arguments<'_>| Err(refused(step.kind(), what));
        let below = |path: &Path, roots: &[PathBuf]| {
            is_plain(path) && roots.iter().any(|root| path.starts_with(root) && path != root)
        };
        match step {
            Step::Account(account) => {
                if let Some(group) = account.groups.iter().find(|g| !self.groups.contains(g)) {
                    return refuse(format_args!("group {group}"));
                }
            }
            Step::Volume(volume) => {
                if let Some(path) = &volume.clone_from
                    && !(is_plain(path) && self.clone_from.iter().any(|root| path.starts_with(root)))
                {
                    return refuse(format_args!("a disk that starts from {}", path.display()));
                }
            }
            Step::Layers(layers) => {
                if let Some(layer) = layers.layers.iter().find(|l| !below(&l.dir, &self.images)) {
                    return refuse(format_args!("a layer from {}", layer.dir.display()));
                }
            }
            Step::Workload(workload) => {
                if let Some(path) = workload.writable_paths.iter().find(|p| !self.writable_paths.contains(p)) {
                    return refuse(format_args!("{} as a writable path", path.display()));
                }
                if workload.allow_setuid && !self.allow_setuid {
                    return refuse(format_args!("set-uid programs"));
                }
            }
        }
        Ok(())
    }
}

/// An absolute path without `.` or `..`: what it starts with is then where it is, links aside.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use native_config::{AccountKind, Isolation};
    use native_platform::{AccountStep, Backing, LayerSource, LayersStep, VolumeName, VolumeStep};

    const TEXT: &str = "workspaces: [/srv/work]\nimages: [/srv/images]\ngroups: [ci]\n";

    fn rules() -> Rules {
        serde_yaml::from_str(TEXT).unwrap()
    }

    fn layer(dir: &str) -> Step {
        let source = LayerSource { image: "x-1".into(), digest: String::new(), dir: dir.into() };
        Step::Layers(LayersStep { volume: VolumeName::Home, layers: vec![source] })
    }

    #[test]
    fn steps_may_name_only_what_root_allows() {
        let rules = rules();
        let account =
            |group: &str| Step::Account(AccountStep { groups: vec![group.parse().unwrap()], kind: AccountKind::Real });
        let clone = |path: &str| {
            Step::Volume(VolumeStep {
                volume: VolumeName::Home,
                backing: Backing::Dir,
                label: None,
                reuse: false,
                clone_from: Some(path.into()),
            })
        };
        for good in [account("ci"), layer("/srv/images/layers/ab/tree")] {
            rules.check_step(&good).unwrap();
        }
        let bad = [
            account("docker"),
            layer("/etc"),
            layer("/srv/images"),
            layer("/srv/images/../../etc"),
            layer("srv/images/x"),
            layer("/srv/images-2/x"),
            clone("/etc/shadow"),
        ];
        for bad in bad {
            let error = rules.check_step(&bad).unwrap_err();
            assert!(error.message.starts_with("the root helper refuses"), "{error:?}");
        }
    }

    #[test]
    fn an_environment_lies_in_a_workspace_and_is_its_callers() {
        let dir = tempfile::Builder::new().prefix("fish-rules-").tempdir().unwrap();
        let own = dir.path().join("fish-aaaaaa");
        fs::create_dir(&own).unwrap();
        let caller = fs::metadata(&own).unwrap().uid();
        let rules = Rules { workspaces: vec![dir.path().to_owned()], ..rules() };
        let scope =
            |dir: PathBuf, uids| Scope { id: "fish-aaaaaa".parse().unwrap(), dir, isolation: Isolation::Private, uids };
        let range = (70_000, 79_999);
        rules.check_scope(&scope(own.clone(), range), caller).unwrap();
        assert!(rules.check_scope(&scope(own.clone(), range), caller + 1).is_err(), "somebody else's directory");
        assert!(rules.check_scope(&scope(own.clone(), (0, 79_999)), caller).is_err(), "root's uid");
        assert!(rules.check_scope(&scope(own.join("../fish-aaaaaa"), range), caller).is_err());
        assert!(rules.check_scope(&scope("/etc/fish-aaaaaa".into(), range), caller).is_err());
        std::os::unix::fs::symlink("/etc", dir.path().join("fish-bbbbbb")).unwrap();
        let mut linked = scope(dir.path().join("fish-bbbbbb"), range);
        linked.id = "fish-bbbbbb".parse().unwrap();
        assert!(rules.check_scope(&linked, 0).is_err(), "a link in place of the directory");
    }

    #[test]
    fn the_file_must_be_roots_and_without_surprises() {
        let dir = tempfile::Builder::new().prefix("fish-rules-").tempdir().unwrap();
        let path = dir.path().join("helper.yml");
        assert_eq!(Rules::load(&path).unwrap_err().kind, ErrorKind::NotReady);
        fs::write(&path, format!("{TEXT}allow_everything: true\n")).unwrap();
        assert!(Rules::load(&path).is_err());
        fs::write(&path, TEXT).unwrap();
        let is_root = fs::metadata(&path).unwrap().uid() == 0;
        assert_eq!(Rules::load(&path).ok(), is_root.then(rules));
        let mut open = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o666);
        fs::set_permissions(&path, open).unwrap();
        assert!(Rules::load(&path).is_err(), "writable by others");
    }
}
