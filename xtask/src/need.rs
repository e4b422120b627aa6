//! System packages that the build and the tests use: named when missing, never installed from here.

use std::path::Path;

use crate::report::say;

/// A tool, Debian's package of it, and what needs it.
const TOOLS: [(&str, &str, &str); 10] = [
    ("cc", "gcc libc6-dev", "the build"),
    ("useradd", "passwd", "the driver"),
    ("mkfs.ext4", "e2fsprogs", "the driver"),
    ("mount", "mount", "the driver"),
    ("tar", "tar", "tests of archives"),
    ("xz", "xz-utils", "tests of archives"),
    ("python3", "python3", "tests against a file server"),
    ("nginx", "nginx-light", "tests against a file server"),
    ("sudo", "sudo", "tests of the helper"),
    ("curl", "curl", "tests against a file server"),
];

/// Says what is missing and how to install it.
pub(crate) fn check() {
    let mut packages = Vec::new();
    for (tool, package, user) in TOOLS {
        if !found(tool) {
            say(&format!("missing: {tool}, for {user}: apt-get install -y --no-install-recommends {package}"));
            packages.push(package);
        }
    }
    if !packages.is_empty() {
        say(&format!("all at once: apt-get install -y --no-install-recommends {}", packages.join(" ")));
        say("going on: what needs a missing tool says `skipped`");
    }
}

/// Whether a tool is there.
pub(crate) fn found(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(tool).is_file())
}
