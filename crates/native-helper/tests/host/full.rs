//! A disk that is full at any step: the workspace's, or that of root's records.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use native_helper::HelperPlatform;
use native_platform::{Backing, ErrorKind, LayersStep, Platform, Step, VolumeName};

use crate::common::{Bench, Undo, account, disk, shell, sized, volume, workload};

/// A file system of 24 MB at `point`, with so much of it free.
fn small(bench: &Bench, name: &str, free_kb: u32) -> (PathBuf, Undo) {
    let (image, point) = (bench.dir.path().join(format!("{name}.img")), bench.dir.path().join(name));
    let (image, place) = (image.display(), point.display());
    shell(&format!(
        "truncate -s 24M {image}; mkfs.ext4 -q -F -m 0 {image}; mkdir -p {place}; mount -o loop {image} {place}; \
         mkdir -p {place}/{id} {place}/environments {place}/locks {place}/templates; \
         cat /dev/zero > {place}/rest 2>/dev/null || true; truncate -s -{free_kb}k {place}/rest; sync",
        id = bench.scope.id,
    ));
    let undo = Undo(format!("umount {place}; rm {image}; rmdir {place}"));
    (point, undo)
}

/// Every step until one fails, which must be for the full disk; then everything goes, and nothing is left.
fn until_full(bench: &Bench) -> usize {
    let layers =
        vec![bench.layer("base", &[("init.sh", "#!/bin/sh\ncat /dev/zero > ~/fill 2>/dev/null\necho done\n")])];
    let steps = [
        account(),
        volume(VolumeName::Home, sized(64)),
        volume(VolumeName::Temp, sized(32)),
        volume(disk("plain"), Backing::Dir),
        Step::Layers(LayersStep { volume: VolumeName::Home, layers }),
        Step::Workload(workload("./init.sh")),
    ];
    let mut session = bench.session();
    let mut done = 0;
    for step in &steps {
        match session.execute(step) {
            Ok(_) => done += 1,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Failed, "{error:?}");
                assert!(error.message.contains("No space left"), "{error:?}");
                break;
            }
        }
    }
    for step in steps.iter().rev() {
        session.revert(step).unwrap();
    }
    assert_eq!(session.audit().unwrap(), [], "after {done} steps");
    session.finish().unwrap();
    done
}

#[test]
fn a_full_workspace_loses_nothing() {
    for (n, free_kb) in [0, 64, 256, 2048].into_iter().enumerate() {
        let Some(mut bench) = Bench::new(&format!("fish-full{}a", ["w", "x", "y", "z"][n])) else { return };
        fs::remove_dir(&bench.scope.dir).unwrap();
        let (point, undo) = small(&bench, "small", free_kb);
        bench.scope.dir = point.join(bench.scope.id.as_ref());
        let done = until_full(&bench);
        assert!(done >= 1, "an account needs nothing of the workspace");
        drop(undo);
    }
}

#[test]
fn a_full_disk_of_roots_records_loses_nothing() {
    for (n, free_kb) in [0, 16, 256].into_iter().enumerate() {
        let Some(mut bench) = Bench::new(&format!("fish-full{}b", ["w", "x", "y"][n])) else { return };
        let (point, undo) = small(&bench, "state", free_kb);
        // The helper, in a mount namespace in which its records are on that disk.
        let wrapper = bench.dir.path().join("helper");
        let script = format!(
            "#!/bin/sh\nexec unshare --mount --propagation private sh -c 'mount --bind {} /var/lib/fish-native && exec {}'\n",
            point.display(),
            env!("CARGO_BIN_EXE_fish-native-helper"),
        );
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        let usual = std::mem::replace(&mut bench.platform, HelperPlatform::at(wrapper));
        until_full(&bench);
        bench.platform = usual;
        drop(undo);
        assert!(bench.platform.known().unwrap().iter().all(|scope| scope.id != bench.scope.id));
    }
}
