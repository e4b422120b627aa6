//! `cargo xtask vm`: the black-box suite where users are, in a booted Debian with systemd as its first process, cgroup
//! v2 alone, sudo, cron, at and polkit.
//!
//! mmdebstrap makes the root file system once per release (`target/vm/debian-RELEASE.ext4`, kept; remove it to have it
//! made again). The program and the suite's test binaries are built here and travel on a second disk. qemu boots
//! Debian's own kernel; a unit of the image runs the tests and powers off. The console is in
//! `target/vm/console-RELEASE.log`. `docs/src/testing.md` tells how to use it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::need::found;
use crate::report::{Step, Steps, say};
use crate::run::{cargo, tool};

/// Debian's number and name of a release.
const RELEASES: [(&str, &str); 2] = [("12", "bookworm"), ("13", "trixie")];

/// What the chore needs here, and Debian's package of it.
const TOOLS: [(&str, &str); 3] =
    [("mmdebstrap", "mmdebstrap"), ("qemu-system-x86_64", "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs")];

/// What is in the image beside the essential packages: a system like a user's, and what the suite's tests need.
const PACKAGES: &str = "systemd-sysv,udev,kmod,dbus,libpam-systemd,polkitd,sudo,passwd,e2fsprogs,mount,util-linux,\
                        xz-utils,python3,nginx-light,openssl,curl,ca-certificates,cron,at,fuse3,uidmap,procps,psmisc,\
                        iproute2,acl,keyutils,linux-image-cloud-amd64";

/// Longer than the suite takes in emulation, in seconds.
const LONGEST: &str = "3600";

/// The unit that runs the tests and then powers off, however they end.
const UNIT: &str = "\
[Unit]
Description=The black-box suite of fish-native
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /fish && mount -o ro /dev/vdb /fish && exec sh /fish/run.sh'
ExecStopPost=/bin/systemctl poweroff --no-block
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
TimeoutStartSec=infinity

[Install]
WantedBy=graphical.target
";

/// Runs the suite in each of these releases (all, if none is named). Other words are names of test files, and then only
/// these are run.
pub(crate) fn all(words: &[&str]) -> anyhow::Result<()> {
    let (mut chosen, mut tests) = (Vec::new(), Vec::new());
    for word in words {
        match RELEASES.into_iter().find(|(number, name)| number == word || name == word) {
            Some(release) => chosen.push(release),
            None if crate::root().join("tests/e2e/tests").join(format!("{word}.rs")).is_file() => tests.push(*word),
            None => bail!("{word} is neither a release (12, 13) nor a file of tests/e2e/tests"),
        }
    }
    if chosen.is_empty() {
        chosen.extend(RELEASES);
    }
    let missing: Vec<&str> = TOOLS.iter().filter(|(tool, _)| !found(tool)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        bail!("missing: apt-get install -y --no-install-recommends {}", missing.join(" "));
    }
    let dir = crate::target().join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let mut steps = Steps::new();
    let mut payload = None;
    steps.step("build", |_| {
        payload = Some(payload_disk(&dir, &tests)?);
        Ok(Step::Done)
    });
    if let Some(payload) = &payload {
        for (number, name) in chosen {
            let step = if number == "12" { "Debian 12" } else { "Debian 13" };
            steps.step(step, |steps| {
                let image = image(&dir, number, name)?;
                run(steps, &dir, number, &image, payload)
            });
        }
    }
    if let Some(payload) = payload {
        drop(fs::remove_file(payload));
    }
    steps.finish()
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}

/// Makes a file system of a directory's content.
fn file_system(dir: &Path, image: &Path, size: u64, label: &str) -> anyhow::Result<()> {
    let file = fs::File::create(image).with_context(|| format!("make {}", image.display()))?;
    file.set_len(size)?;
    drop(file);
    tool("/usr/sbin/mkfs.ext4", &["-q", "-F", "-L", label, "-d", text(dir)?, text(image)?]).run()
}

/// The kernel, the initial file system and the root disk of a release.
struct Image {
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
}

/// The release's image, made if it is not there.
fn image(dir: &Path, number: &str, name: &str) -> anyhow::Result<Image> {
    let image = Image {
        kernel: dir.join(format!("vmlinuz-{number}")),
        initrd: dir.join(format!("initrd-{number}")),
        disk: dir.join(format!("debian-{number}.ext4")),
    };
    if image.disk.exists() && image.kernel.exists() && image.initrd.exists() {
        return Ok(image);
    }
    let root = dir.join(format!("root-{number}"));
    remove_root(&root)?;
    // With the names and owners of a real system: as root, not in a user namespace.
    let include = format!("--include={PACKAGES}");
    // Its mounts are nobody else's to see, and go with it.
    let make = ["--mount", "mmdebstrap", "--mode=root", "--variant=minbase", &include, name, text(&root)?];
    tool("unshare", &make).run()?;
    let unit = root.join("etc/systemd/system/fish-suite.service");
    fs::write(&unit, UNIT).context("write the unit")?;
    let wants = root.join("etc/systemd/system/graphical.target.wants");
    fs::create_dir_all(&wants).context("enable the unit")?;
    std::os::unix::fs::symlink("/etc/systemd/system/fish-suite.service", wants.join("fish-suite.service"))
        .context("enable the unit")?;
    for entry in fs::read_dir(root.join("boot")).context("look for the kernel")? {
        let path = entry?.path();
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let to = match file {
            file if file.starts_with("vmlinuz-") => &image.kernel,
            file if file.starts_with("initrd.img-") => &image.initrd,
            _ => continue,
        };
        fs::copy(&path, to).with_context(|| format!("copy {}", path.display()))?;
    }
    // Its name comes last: an image that was cut off is made again.
    let temporary = image.disk.with_extension("new");
    file_system(&root, &temporary, 64 << 30, "root")?;
    fs::rename(&temporary, &image.disk).context("keep the image")?;
    remove_root(&root)?;
    Ok(image)
}

/// Removes a root file system. Never while something is mounted in it: that may be this machine's own `/dev`.
fn remove_root(root: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let below = |line: &str| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(root));
    if mounts.lines().any(below) {
        bail!("something is mounted below {}: end whoever makes it, and unmount it", root.display());
    }
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", root.display()))
        }
        _ => Ok(()),
    }
}

/// Builds the program and the suite's tests and puts them on a disk.
fn payload_disk(dir: &Path, tests: &[&str]) -> anyhow::Result<PathBuf> {
    let built = cargo(["test", "--no-run", "--locked", "--package", "e2e", "--message-format", "json"]).output()?;
    let programs = cargo([
        "build",
        "--locked",
        "--package",
        "fish-native",
        "--package",
        "native-helper",
        "--message-format",
        "json",
    ])
    .output()?;
    // Its own: another run may be reading its disk.
    let payload = dir.join(format!("payload-{}", std::process::id()));
    fs::create_dir_all(payload.join("tests")).context("make the payload")?;
    for path in executables(&built).into_iter().chain(executables(&programs)) {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // NAME-HASH of a test binary; the programs have no hash.
        let to = match name.rsplit_once('-') {
            Some((test, hash)) if hash.len() == 16 => {
                if !tests.is_empty() && !tests.contains(&test) {
                    continue;
                }
                payload.join("tests").join(test)
            }
            _ => payload.join(&name),
        };
        fs::copy(&path, &to).with_context(|| format!("copy {}", path.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).context("set a mode")?;
    }
    // The tests look for their fixtures where they were compiled.
    let suite = crate::root().join("tests/e2e");
    tool("cp", &["-a", text(&suite.join("fixtures"))?, text(&payload.join("fixtures"))?]).run()?;
    fs::write(payload.join("run.sh"), script(text(&suite)?)).context("write the script")?;
    let disk = payload.with_extension("ext4");
    file_system(&payload, &disk, 1 << 30, "fish")?;
    fs::remove_dir_all(&payload).context("remove what is on the disk now")?;
    Ok(disk)
}

/// The executables in cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    let read = |line: &str| serde_json::from_str::<Value>(line).ok()?["executable"].as_str().map(PathBuf::from);
    messages.lines().filter_map(read).collect()
}

/// What runs in the machine.
fn script(suite: &str) -> String {
    format!(
        "cp /fish/fish-native* /usr/local/bin/\n\
         export FISH_NATIVE_BIN=/usr/local/bin/fish-native RUST_BACKTRACE=1 HOME=/root FISH_MATRIX=25 FISH_E2E_CLOCK=1\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         mkdir -p '{suite}/fixtures'\n\
         mount --bind /fish/fixtures '{suite}/fixtures'\n\
         cd '{suite}'\n\
         echo \"$(. /etc/os-release; echo $PRETTY_NAME), Linux $(uname -r), $(ps -o comm= 1), cgroups: $(stat -fc %T \
         /sys/fs/cgroup)\"\n\
         code=0\n\
         for test in /fish/tests/*; do\n\
         \techo \"== ${{test##*/}}\"\n\
         \t\"$test\" --test-threads=1 --show-output || code=1\n\
         done\n\
         echo \"the suite ended with $code\"\n"
    )
}

/// Boots, runs the tests, and reads from the serial line how they ended.
fn run(steps: &mut Steps, dir: &Path, number: &str, image: &Image, payload: &Path) -> anyhow::Result<Step> {
    // A guest of a machine that lends its processor has flags of it; elsewhere the device may be there and not work.
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualised = Path::new("/dev/kvm").exists() && cpu.split_whitespace().any(|f| f == "vmx" || f == "svm");
    let accelerator = if virtualised { "kvm" } else { "tcg,thread=multi" };
    say(&format!("accelerator: {accelerator}"));
    let console = format!("file:{}", text(&dir.join(format!("console-{number}.log")))?);
    let disk = |path: &Path| -> anyhow::Result<String> {
        // What the machine writes is thrown away: the next run starts from the same image.
        Ok(format!("file={},if=virtio,format=raw,snapshot=on", text(path)?))
    };
    let (root, second) = (disk(&image.disk)?, disk(payload)?);
    let machine = tool(
        "timeout",
        &[
            "--signal=KILL",
            LONGEST,
            "qemu-system-x86_64",
            "-accel",
            accelerator,
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "3072",
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
            "-serial",
            &console,
            "-serial",
            "stdio",
            "-kernel",
            text(&image.kernel)?,
            "-initrd",
            text(&image.initrd)?,
            "-append",
            "root=/dev/vda rw console=ttyS0",
            "-drive",
            &root,
            "-drive",
            &second,
        ],
    );
    let (lines, success) = machine.lines(|line| {
        let line = line.trim();
        line.starts_with("test result:")
            || line.starts_with("skipped:")
            || line.starts_with("matrix:")
            || line.starts_with("with isolation:")
            || line.ends_with("FAILED")
            || line.starts_with("Debian")
            || line.starts_with("the suite ended with")
    })?;
    let ended = lines.iter().any(|line| line == "the suite ended with 0");
    steps.summaries.extend(lines.into_iter().map(|line| format!("Debian {number}: {line}")));
    if success && ended {
        Ok(Step::Done)
    } else {
        bail!("the suite failed in Debian {number}: see above and console-{number}.log")
    }
}
