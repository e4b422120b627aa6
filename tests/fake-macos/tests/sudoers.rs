//! The rendered rules, asked of the real sudo and of the emulated one.
//!
//! The real sudo reads `/etc/sudoers`, so the whole question is asked in a private mount namespace in which a
//! file of ours lies over it: nothing of the machine changes.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a suite fails where it stands and says what it did")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Rig, Service};
use fake_macos::sudoers::allows;
use native_platform::Platform;
use native_platform::command::{CommandSpec, Site};
use native_platform::render::{HELPER, RenderError, Rules, Style, render_sudoers};
use native_platform_macos::{Privilege, TABLE, default_site};

const USER: &str = "nobody";

fn rules(style: Style) -> String {
    let site = site();
    render_sudoers(&Rules::new(style, USER, &TABLE, &site)).unwrap()
}

fn site() -> Site {
    let mut site = default_site();
    site.groups.push(("_developer".parse().unwrap(), 204));
    site
}

/// Every privileged command that a style has a rule for.
fn needed(style: Style) -> Vec<Vec<String>> {
    let site = site();
    let line = |row: &CommandSpec| {
        let mut argv = vec![(TABLE.tool_path)(row.tool).display().to_string()];
        argv.extend(row.example(&site));
        argv
    };
    Rules::new(style, USER, &TABLE, &site).commands().into_iter().map(line).collect()
}

/// Attacks by people who tried the published rules, and their relatives: all of them were allowed by the published rules
/// or by expressions that were written carelessly.
fn attacks() -> Vec<Vec<String>> {
    const LINES: &[&[&str]] = &[
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa", "UniqueID", "0"],
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa", "UniqueID", "501"],
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa", "UniqueID", "70001", "0"],
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa", "PrimaryGroupID", "80"],
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa", "UserShell", "/tmp/evil"],
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa /../root", "UserShell", "/tmp/evil"],
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa/../root", "UserShell", "/bin/sh"],
        &["/usr/bin/dscl", ".", "create", "/Users/fish-aaaaaa", "NFSHomeDirectory", "/var/root"],
        &["/usr/bin/dscl", ".", "append", "/Groups/admin", "GroupMembership", "fish-aaaaaa"],
        &[
            "/usr/bin/dscl",
            ".",
            "append",
            "/Groups/admin",
            "GroupMembership",
            "_aquarium-fish",
            "GroupMembership",
            "fish-aaaaaa",
        ],
        &[
            "/usr/bin/dscl",
            ".",
            "append",
            "/Groups/../Users/root",
            "AuthenticationHint",
            "x",
            "GroupMembership",
            "fish-aaaaaa",
        ],
        &["/usr/bin/dscl", ".", "append", "/Groups/staff", "GroupMembership", "fish-aaaaaa", "root"],
        &["/usr/bin/dscl", ".", "delete", "/Users/root"],
        &["/usr/bin/dscl", ".", "delete", "/Users/fish-aaaaaa", "/Users/root"],
        &["/usr/bin/dscl", ".", "delete", "/Groups/admin", "GroupMembership", "root"],
        &["/usr/bin/dscl", ".", "change", "/Users/nobody", "NFSHomeDirectory", "/var/empty", "/tmp"],
        &["/usr/sbin/chown", "-R", "fish-aaaaaa:staff", "/etc", "/Volumes/fish-aaaaaa_x/"],
        &["/usr/sbin/chown", "-R", "fish-aaaaaa:staff", "/Volumes/fish-aaaaaa_x/../../etc/"],
        &["/usr/sbin/chown", "-R", "fish-aaaaaa:staff", "/Volumes/fish-aaaaaa_x/"],
        &["/usr/bin/tar", "-xf", "-", "--uname", "fish-aaaaaa", "-C", "/Volumes/fish-aaaaaa_x/../../etc/"],
        &[
            "/usr/bin/tar",
            "-xf",
            "-",
            "--uname",
            "fish-aaaaaa",
            "-C",
            "/Volumes/fish-aaaaaa_x",
            "--use-compress-program",
            "/tmp/evil",
            "-C",
            "/",
        ],
        &[
            "/usr/bin/tar",
            "-xf",
            "-",
            "--uname",
            "fish-aaaaaa",
            "-C",
            "/Volumes/fish-aaaaaa_x",
            "--uname",
            "root",
            "-C",
            "/",
        ],
        &["/usr/bin/tar", "-xf", "-", "--uname", "fish-zzzzzz", "-C", "/Users/fish-aaaaaa/"],
        &["/usr/bin/tar", "-xf - --uname fish-aaaaaa", "-C", "/Users/fish-aaaaaa/"],
        &["/usr/bin/mdutil", "-i", "off", "/Volumes/fish-aaaaaa_x", "-E", "/"],
        &["/usr/bin/su", "-l", "root", "-c", ". /private/var/fish-native/job.sh"],
        &["/usr/bin/su", "-l", "fish-aaaaaa", "-c", ". /private/var/fish-native/job.sh", "-l", "root"],
        &["/usr/bin/su", "-l", "fish-aaaaaa", "-c", ". /tmp/job.sh"],
        &["/usr/bin/su", "-l", "fish-aaaaaa", "-c", ". /private/var/fish-native/jobXsh"],
        &["/bin/rm", "-rf", "/Users/fish-aaaaaa", "/etc"],
        &["/bin/rm", "-rf", "/Users/fish-aaaaaa/../admin"],
        &["/bin/rm", "-rf", "/Users"],
        &["/usr/bin/pkill", "-KILL", "-U", "0"],
        &["/usr/bin/pkill", "-KILL", "-U", "70001", "-U", "0"],
        &["/usr/bin/killall", "-KILL", "-u", "root"],
        &["/usr/bin/killall", "-INT", "-u", "fish-aaaaaa", "Finder"],
        &["/bin/launchctl", "bootout", "user/501"],
        &["/bin/launchctl", "bootout", "system"],
        &["/usr/bin/crontab", "-u", "root", "-r"],
        &["/usr/bin/crontab", "-u", "fish-aaaaaa", "/tmp/evil"],
        &[
            "/usr/bin/find",
            "/private/var/folders",
            "/private/tmp",
            "/private/var/tmp",
            "/Users/Shared",
            "-xdev",
            "-uid",
            "0",
            "-delete",
        ],
        &[
            "/usr/bin/find",
            "/private/var/folders",
            "/private/tmp",
            "/private/var/tmp",
            "/Users/Shared",
            "/",
            "-xdev",
            "-uid",
            "70001",
            "-delete",
        ],
        &[
            "/usr/bin/find",
            "/private/var/folders",
            "/private/tmp",
            "/private/var/tmp",
            "/Users/Shared",
            "-xdev",
            "-uid",
            "70001",
            "-exec",
            "/tmp/evil",
            ";",
            "-delete",
        ],
        &["/usr/sbin/createhomedir", "-c", "-u", "root"],
        &["/usr/sbin/createhomedir", "-c", "-a"],
        &["/usr/bin/dscl", ".", "delete", "/Users/fish-aaaaaa\n/Users/root"],
        &["/bin/sh", "-c", "id"],
    ];
    LINES.iter().map(|line| line.iter().map(|w| (*w).to_owned()).collect()).collect()
}

fn emulated(rules: &str, argv: &[String]) -> bool {
    let args: Vec<&str> = argv[1..].iter().map(String::as_str).collect();
    allows(rules, &argv[0], &args, true)
}

#[test]
fn the_emulated_sudo_denies_every_attack_and_allows_what_is_needed() {
    let regex = rules(Style::Regex);
    for argv in needed(Style::Regex) {
        assert!(emulated(&regex, &argv), "{argv:?}");
    }
    for argv in attacks() {
        assert!(!emulated(&regex, &argv), "{argv:?}");
    }
    let wildcard = rules(Style::Wildcard);
    for argv in needed(Style::Wildcard) {
        assert!(emulated(&wildcard, &argv), "{argv:?}");
    }
    // The header does not exaggerate.
    let open = attacks().iter().filter(|argv| emulated(&wildcard, argv)).count();
    assert!(open >= 15, "{open}");
}

/// The rules of the driver's published set-up page, all twelve.
#[test]
fn the_wildcard_style_holds_the_published_rules() {
    const PUBLISHED: &str = r"
        NOPASSWD:NOEXEC: /usr/bin/dscl . create /Users/U *
        NOPASSWD:NOEXEC: /usr/bin/dscl . append /Groups/* GroupMembership U
        NOPASSWD:NOEXEC: /usr/sbin/createhomedir -c -u U
        NOPASSWD:NOEXEC: /usr/sbin/chown -R U\:* /Volumes/U_*/
        NOPASSWD:NOEXEC: /usr/bin/tar -xf - --uname U -C /Users/U/
        NOPASSWD:NOEXEC: /usr/bin/tar -xf - --uname U -C /Volumes/U_*/
        NOPASSWD:NOEXEC: /usr/bin/mdutil -i off /Volumes/U_*/
        NOPASSWD: /usr/bin/su -l U *
        NOPASSWD:NOEXEC: /usr/bin/killall -INT -u U
        NOPASSWD:NOEXEC: /usr/bin/killall -KILL -u U
        NOPASSWD:NOEXEC: /usr/bin/dscl . delete /Users/U
        NOPASSWD:NOEXEC: /bin/rm -rf /Users/U";
    let text = rules(Style::Wildcard);
    let user = format!("fish-{}", "[a-z]".repeat(6));
    let rules: Vec<_> = PUBLISHED.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    for rule in &rules {
        // A name of its own, not the `U` of `/Users`.
        let rule = rule.replace("/U", "/@").replace("/@sers", "/Users").replace(" U", " @").replace('@', &user);
        assert!(text.lines().any(|l| l == format!("{USER} ALL=(root) {rule}")), "{rule}");
    }
    assert_eq!(rules.len(), 12);
    assert!(text.starts_with("# fish-native") && text.contains("THESE RULES ARE ROOT"));
}

#[test]
fn the_helper_takes_no_arguments() {
    let rules = rules(Style::Helper);
    assert!(allows(&rules, HELPER, &[], true) && !allows(&rules, HELPER, &["x"], true));
    let site = site();
    let bad = Rules::new(Style::Helper, "a ALL=(ALL) ALL\nb", &TABLE, &site);
    assert!(matches!(render_sudoers(&bad), Err(RenderError::User(_))));
}

fn program(name: &str) -> Option<String> {
    ["/usr/bin", "/usr/sbin"].iter().map(|d| format!("{d}/{name}")).find(|p| Path::new(p).exists())
}

/// Why the real sudo can't be asked.
fn unavailable() -> Option<&'static str> {
    if !rustix::process::getuid().is_root() {
        return Some("the real sudo can only be asked by root, in a mount namespace");
    }
    for (tool, why) in [
        ("sudo", "sudo is not installed"),
        ("visudo", "visudo is not installed"),
        ("unshare", "unshare is not installed"),
    ] {
        if program(tool).is_none() {
            return Some(why);
        }
    }
    None
}

fn sh(script: &str, args: &[&str]) -> std::process::Output {
    #[expect(clippy::disallowed_methods, reason = "asks the real sudo")]
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh"]).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Asks the real sudo about commands, one answer each.
fn ask(rules: &str, commands: &[Vec<String>]) -> Vec<bool> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sudoers");
    fs::write(&file, rules).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
    // sudo looks at the program itself, so a writable layer over the places of programs holds empty ones.
    let mut script = String::from(
        "set -e\nmount --make-rprivate /\nmount --bind \"$1\" /etc/sudoers\nfor d in bin sbin; do\n\
         mkdir -p \"$2/$d\" \"$2/$d.work\"\n\
         mount -t overlay overlay -o \"lowerdir=/usr/$d,upperdir=$2/$d,workdir=$2/$d.work\" /usr/$d\ndone\n",
    );
    let mut programs: Vec<_> = commands.iter().map(|argv| &argv[0]).collect();
    programs.sort();
    programs.dedup();
    for program in programs {
        script.push_str(&format!("[ -e {program} ] || cp /usr/bin/true {program}\n"));
    }
    script.push_str("set +e\n");
    for argv in commands {
        let words: Vec<_> = argv.iter().map(|w| format!("'{}'", w.replace('\'', "'\\''"))).collect();
        script.push_str(&format!("sudo -l -U {USER} {} >/dev/null 2>&1 && echo yes || echo no\n", words.join(" ")));
    }
    let path = dir.path().join("ask.sh");
    fs::write(&path, script).unwrap();
    let texts = [path.to_str().unwrap(), file.to_str().unwrap(), dir.path().to_str().unwrap()];
    let output = sh("exec unshare -m /bin/sh \"$1\" \"$2\" \"$3\"", &texts);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers: Vec<_> = text.lines().map(|l| l == "yes").collect();
    assert_eq!(answers.len(), commands.len(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    answers
}

#[test]
fn visudo_accepts_every_style() {
    if let Some(why) = unavailable() {
        println!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for style in [Style::Helper, Style::Regex, Style::Wildcard] {
        let path = dir.path().join(format!("{style:?}"));
        fs::write(&path, rules(style)).unwrap();
        let output = sh("exec visudo -cf \"$1\"", &[path.to_str().unwrap()]);
        assert!(output.status.success(), "{style:?}: {}", String::from_utf8_lossy(&output.stderr));
        println!("{style:?}: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

#[test]
fn the_real_sudo_denies_every_attack_and_allows_what_is_needed() {
    if let Some(why) = unavailable() {
        println!("skipped: {why}");
        return;
    }
    let (all, needed, attacks) = (needed(Style::Wildcard), needed(Style::Regex), attacks());
    let answers = ask(&rules(Style::Regex), &needed);
    let denied: Vec<_> = needed.iter().zip(&answers).filter(|(_, yes)| !**yes).map(|(argv, _)| argv).collect();
    assert!(denied.is_empty(), "denied: {denied:#?}");
    let answers = ask(&rules(Style::Regex), &attacks);
    let allowed: Vec<_> = attacks.iter().zip(&answers).filter(|(_, yes)| **yes).map(|(argv, _)| argv).collect();
    assert!(allowed.is_empty(), "allowed: {allowed:#?}");
    println!("real sudo, regex style: {} commands allowed, {} attacks denied", needed.len(), attacks.len());
    let answers = ask(&rules(Style::Wildcard), &all);
    let denied: Vec<_> = all.iter().zip(&answers).filter(|(_, yes)| !**yes).map(|(argv, _)| argv).collect();
    assert!(denied.is_empty(), "denied by the wildcard style: {denied:#?}");
}

/// What the command line prints is what the real sudo was asked about; and its own question gets the real answer.
#[test]
fn the_command_line_renders_and_checks() {
    if let Some(why) = unavailable() {
        println!("skipped: {why}");
        return;
    }
    let program = e2e::binary();
    let fish = program.to_str().unwrap();
    let site = default_site();
    for (name, style) in [("helper", Style::Helper), ("regex", Style::Regex), ("wildcard", Style::Wildcard)] {
        let printed = sh("exec \"$1\" sudoers --platform macos --style \"$2\" --user nobody", &[fish, name]);
        let rendered = render_sudoers(&Rules::new(style, USER, &TABLE, &site)).unwrap();
        assert_eq!(String::from_utf8_lossy(&printed.stdout), rendered, "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sudoers");
    // In a mount namespace of its own, as above: the helper and the rules are there for sudo alone.
    let script = "set -e; mount --make-rprivate /; mount --bind \"$1\" /etc/sudoers; mkdir \"$2/up\" \"$2/work\"\n\
        mount -t overlay overlay -o \"lowerdir=/usr,upperdir=$2/up,workdir=$2/work\" /usr\n\
        mkdir -p /usr/libexec; cp /usr/bin/true /usr/libexec/fish-native-helper\n\
        set +e; \"$3\" sudoers --platform linux --check --user nobody --json; echo \"exit $?\"";
    for (rules, answer) in [(rules(Style::Helper), "exit 0"), ("# none\n".to_owned(), "exit 10")] {
        fs::write(&file, rules).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
        let work = tempfile::tempdir().unwrap();
        let words = [script, file.to_str().unwrap(), work.path().to_str().unwrap(), fish];
        let output = sh("exec unshare -m /bin/sh -c \"$1\" sh \"$2\" \"$3\" \"$4\"", &words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(answer), "{text} {}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("/usr/libexec/fish-native-helper"), "{text}");
    }
}

/// The emulated sudo answers as the real one does, for every command and attack in both styles.
#[test]
fn the_emulated_sudo_agrees_with_the_real_one() {
    if let Some(why) = unavailable() {
        println!("skipped: {why}");
        return;
    }
    let commands = [needed(Style::Wildcard), attacks()].concat();
    for style in [Style::Regex, Style::Wildcard, Style::Helper] {
        let rules = rules(style);
        for (argv, real) in commands.iter().zip(ask(&rules, &commands)) {
            assert_eq!(emulated(&rules, argv), real, "{style:?}: {argv:?}");
        }
    }
}

/// `doctor` asks for every command, and names those that have no rule.
#[test]
fn doctor_names_what_sudo_refuses() {
    if !common::runnable() {
        return;
    }
    for (macos, style, ok) in [
        ((26, 3), Style::Regex, true),
        ((26, 3), Style::Wildcard, true),
        ((26, 3), Style::Helper, false),
        // Their sudo has no expressions: such rules match nothing.
        ((13, 6), Style::Regex, false),
        ((13, 6), Style::Wildcard, true),
    ] {
        let rig = Rig::with(Privilege::SudoCommands, macos, style);
        let _service = Service::enter(rig.mode);
        let checks = rig.platform().checks().unwrap();
        let check = checks.iter().find(|c| c.id == "sudo-rules").unwrap();
        assert_eq!(check.ok, ok, "{macos:?} {style:?}: {check:?}");
        assert!(ok || check.detail.contains("user-delete"), "{check:?}");
        assert!(checks.iter().all(|c| c.ok == c.fix.is_empty()), "{checks:#?}");
        let others = checks.iter().filter(|c| !c.ok && c.id != "sudo-rules");
        assert_eq!(others.count(), 0, "{checks:#?}");
    }
}

#[test]
fn doctor_explains_full_disk_access() {
    if !common::runnable() {
        return;
    }
    let mut rig = Rig::new(Privilege::Root);
    rig.host.reconfigure(|c| c.tcc = false);
    let start = rig.snapshot();
    let checks = rig.platform().checks().unwrap();
    let check = checks.iter().find(|c| c.id == "full-disk-access").unwrap();
    assert!(!check.ok && check.detail.contains("-14120"), "{check:?}");
    for words in ["System Settings > Privacy & Security > Full Disk Access", "ssh", "PPPC", "After each update"] {
        assert!(check.fix.contains(words), "{}", check.fix);
    }
    common::same(&start, &rig.snapshot());
}
