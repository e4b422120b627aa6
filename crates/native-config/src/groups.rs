//! Which groups of a host a label may be given: one list for the driver and for the root side.
//!
//! | group | root's driver | the helper, for a service user |
//! | --- | --- | --- |
//! | [`GroupStanding::Root`], and any with the gid 0 | never | never |
//! | [`GroupStanding::Privileged`] | when `allowed_groups` of the config names it | when `groups` of `helper.yml` names it |
//! | [`GroupStanding::Usual`] | unless there are `allowed_groups` without it | when `groups` of `helper.yml` names it |

use crate::GroupName;

/// What a member of a group may do to its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupStanding {
    /// Nothing that its own files would not allow, as far as its name tells.
    Usual,
    /// Become root on some system, or read what others must not. An operator can allow it.
    Privileged,
    /// It is root's own group: system files are its. No configuration makes that right.
    Root,
}

/// The names that root's group has: `wheel` is the gid 0 of the BSDs and of macOS.
const ROOT: [&str; 2] = ["root", "wheel"];

/// Groups whose members are as good as root on some system, or read what others must not.
const PRIVILEGED: &[&str] = &[
    "_developer",
    "_lpadmin",
    "_lpoperator",
    "_sshd",
    "adm",
    "admin",
    "backup",
    "bin",
    "com.apple.access_ssh",
    "daemon",
    "disk",
    "docker",
    "incus",
    "incus-admin",
    "input",
    "kmem",
    "kvm",
    "libvirt",
    "libvirt-qemu",
    "lp",
    "lpadmin",
    "lxd",
    "mem",
    "microk8s",
    "netdev",
    "operator",
    "plugdev",
    "podman",
    "procmod",
    "procview",
    "sambashare",
    "shadow",
    "ssh_keys",
    "sudo",
    "sys",
    "systemd-journal",
    "tape",
    "tty",
    "utmp",
    "vboxusers",
    "wireshark",
];

impl GroupName {
    /// What a member of this group may do to its host.
    pub fn standing(&self) -> GroupStanding {
        if ROOT.contains(&self.as_str()) {
            GroupStanding::Root
        } else if PRIVILEGED.contains(&self.as_str()) {
            GroupStanding::Privileged
        } else {
            GroupStanding::Usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_apart_by_name() {
        let standing = |name: &str| name.parse::<GroupName>().unwrap().standing();
        assert_eq!(standing("wheel"), GroupStanding::Root);
        assert_eq!(standing("docker"), GroupStanding::Privileged);
        assert_eq!(standing("staff"), GroupStanding::Usual);
        assert!(PRIVILEGED.is_sorted(), "kept in order, so that nothing is there twice");
    }
}
