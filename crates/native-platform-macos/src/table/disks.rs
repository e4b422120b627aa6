//! Disk images and volumes.
//!
//! `hdiutil` needs no root for any of this. Its warnings (macOS 27 deprecates it) go to standard error, so
//! only standard output is read.

use native_platform::command::{CommandSpec, Means, Outcome, Piece, Retry, Slot};

use super::{SYSTEM, USER, code, texts};

use Piece::{Slot as S, Text as T};

/// Creates an image.
pub const IMAGE_CREATE: CommandSpec = CommandSpec {
    id: "image-create",
    tool: "hdiutil",
    // A sparse image takes from the host what is written to it and no more; the size is the limit of the file
    // system in it. The owner is set here, so that no chown as root is ever needed (hdiutil.1).
    args: &[
        &[T("create")],
        &[T("-type")],
        &[T("SPARSE")],
        &[T("-fs")],
        &[S(Slot::FileSystem)],
        &[T("-size")],
        &[S(Slot::Megabytes), T("m")],
        &[T("-volname")],
        &[S(Slot::Label)],
        &[T("-nospotlight")],
        &[T("-uid")],
        &[S(Slot::Uid)],
        &[T("-gid")],
        &[S(Slot::Gid)],
        &[S(Slot::Path)],
    ],
    what: "create a disk image of a fixed size whose file system belongs to the account; one at a time, because \
           two at once can hang",
    outcomes: &[code(1, "Resource busy", Means::Again, "actions/runner-images#7522: XProtect looks at it")],
    retry: Retry { times: 5, pause_ms: 1000 },
    limit_s: 600,
    ..CommandSpec::PLAIN
};

/// Copies an image.
pub const IMAGE_CLONE: CommandSpec = CommandSpec {
    id: "image-clone",
    tool: "cp",
    args: &[&[T("-c")], &[S(Slot::Path)], &[S(Slot::Path)]],
    what: "copy a prepared image, by cloning its blocks",
    limit_s: 600,
    ..CommandSpec::PLAIN
};

/// Mounts an image.
pub const IMAGE_ATTACH: CommandSpec = CommandSpec {
    id: "image-attach",
    tool: "hdiutil",
    args: &[
        &[T("attach")],
        &[T("-plist")],
        &[T("-nobrowse")],
        &[T("-owners")],
        &[T("on")],
        &[T("-mountpoint")],
        &[S(Slot::Path)],
        &[S(Slot::Path)],
    ],
    what: "mount the image below /Volumes, where the system itself makes the mount point",
    outcomes: &[code(1, "Resource busy", Means::Again, "hdiutil.1; seen in public scripts")],
    retry: Retry { times: 5, pause_ms: 1000 },
    limit_s: 60,
    undo: Some("image-detach"),
    ..CommandSpec::PLAIN
};

/// All attached images.
pub const IMAGE_INFO: CommandSpec = CommandSpec {
    id: "image-info",
    tool: "hdiutil",
    args: texts!["info", "-plist"],
    what: "which images are attached: asked before attaching and after detaching",
    limit_s: 30,
    ..CommandSpec::PLAIN
};

/// `hdiutil detach` and its relatives.
const DETACH: &[Outcome] = &[
    code(16, "Resource busy", Means::Busy, "KiroCrew#10296; `couldn't unmount` as well as `couldn't eject`"),
    code(1, "No such file or directory", Means::Absent, "KiroCrew#10298: it has gone meanwhile"),
];

/// Unmounts and detaches.
pub const IMAGE_DETACH: CommandSpec = CommandSpec {
    id: "image-detach",
    tool: "hdiutil",
    args: &[&[T("detach")], &[T("/dev/"), S(Slot::Device)]],
    what: "unmount and detach, by device: after a half detach the mount point is gone and the device is not",
    outcomes: DETACH,
    retry: Retry { times: 5, pause_ms: 1000 },
    limit_s: 60,
    ..CommandSpec::PLAIN
};

/// Detaches what something still holds.
pub const IMAGE_DETACH_FORCE: CommandSpec = CommandSpec {
    id: "image-detach-force",
    args: &[&[T("detach")], &[T("/dev/"), S(Slot::Device)], &[T("-force")]],
    what: "detach although something holds it, when asking nicely did not help",
    retry: Retry { times: 1, pause_ms: 3000 },
    ..IMAGE_DETACH
};

/// Detaches where hdiutil is deprecated.
pub const IMAGE_EJECT: CommandSpec = CommandSpec {
    id: "image-eject",
    tool: "diskutil",
    args: &[&[T("eject")], &[S(Slot::Device)]],
    what: "detach by the tool that replaces hdiutil, which works where hdiutil says busy",
    outcomes: &[
        code(1, "Unable to find disk", Means::Absent, "diskutil.8"),
        code(1, "failed to eject", Means::Busy, "diskutil.8"),
    ],
    retry: Retry { times: 2, pause_ms: 1000 },
    limit_s: 60,
    ..CommandSpec::PLAIN
};

/// What is mounted where.
pub const MOUNTS: CommandSpec = CommandSpec {
    id: "mounts",
    tool: "mount",
    what: "what is mounted where, and whether owners count there",
    ..CommandSpec::PLAIN
};

/// Whether a volume is indexed.
pub const SPOTLIGHT: CommandSpec = CommandSpec {
    id: "spotlight",
    tool: "mdutil",
    args: &[&[T("-s")], &[SYSTEM, T("/Volumes")]],
    what: "whether Spotlight is on; volumes are made without an index, so nothing is switched off",
    ..CommandSpec::PLAIN
};

/// Gives a volume that has content to the account.
pub const VOLUME_OWN: CommandSpec = CommandSpec {
    id: "volume-own",
    tool: "chown",
    args: &[
        &[T("-R")],
        &[USER, T(":"), S(Slot::Group)],
        &[SYSTEM, T("/Volumes/"), USER, T("_"), S(Slot::Disk), T("/")],
    ],
    what: "give a re-used or cloned disk to the account; below /Volumes, which is root's, and on a mount point, \
           so that no link of the account can lead it elsewhere",
    why_root: "its files belong to an earlier account",
    limit_s: 600,
    published: Some(
        "/usr/sbin/chown -R fish-[a-z][a-z][a-z][a-z][a-z][a-z]\\:* \
         /Volumes/fish-[a-z][a-z][a-z][a-z][a-z][a-z]_*/",
    ),
    // chown follows a symbolic link that ends with a slash, and sudo can't see that the path is a mount point.
    fenceable: false,
    ..CommandSpec::PLAIN
};
