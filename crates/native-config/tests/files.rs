//! Right files of both generations, the forms of a label, what a file is, tools, and files made to hurt.

use native_config::{
    AccountKind, DiskKind, DriverConfig, FileFacts, InstanceName, Isolation, Kind, Label, Lifetime, LimitsMode,
    NodeConfig, Privilege, Severity, Source, Target, TemplateContext, Tenancy, ToolKey, environment, parse_config,
    parse_label, sniff,
};
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::time::Duration;

macro_rules! fixture {
    ($path:literal) => {
        ($path, include_str!(concat!("fixtures/", $path)))
    };
}

const LABELS: &[(&str, &str)] = &[
    fixture!("labels/older.yml"),
    fixture!("labels/newer.yml"),
    fixture!("labels/wrapped-definition.yml"),
    fixture!("labels/wrapped-label.yml"),
    fixture!("labels/bare-definition.json"),
    fixture!("labels/newer.json"),
    fixture!("labels/anchors.yml"),
];

const CONFIGS: &[(&str, &str)] = &[
    fixture!("configs/older.yml"),
    fixture!("configs/newer.yml"),
    fixture!("configs/own.yml"),
    fixture!("configs/own.json"),
    fixture!("configs/empty.yml"),
];

fn label(name: &str) -> Label {
    let (name, text) = LABELS.iter().find(|(path, _)| path.ends_with(name)).expect(name);
    let (label, warnings) = parse_label(&Source::new(name, text), Target::Linux).into_result().expect(name);
    assert!(warnings.is_empty(), "{warnings:?}");
    label
}

fn config(name: &str) -> NodeConfig {
    let (name, text) = CONFIGS.iter().find(|(path, _)| path.ends_with(name)).expect(name);
    let (config, warnings) = parse_config(&Source::new(name, text), Target::Linux).into_result().expect(name);
    assert!(warnings.is_empty(), "{warnings:?}");
    config
}

fn instance<'c>(config: &'c NodeConfig, name: &str) -> &'c DriverConfig {
    &config.instances[&name.parse::<InstanceName>().expect("an instance name")]
}

#[test]
fn the_older_label() {
    let label = label("older.yml");
    assert_eq!((label.name.as_deref(), label.version), (Some("mac-ci"), Some(2)));
    let definition = &label.definitions[0];
    assert!(definition.is_native());
    let images: Vec<_> = definition.images.iter().map(|i| (i.name.as_str(), i.version.as_str())).collect();
    assert_eq!(images, [("mac-ci", "20230210.190425_ff1cd1cf"), ("tools", "tools")]);
    assert_eq!(definition.images[0].tag.as_ref().map(|tag| tag.as_str()), Some("ws"));
    assert!(definition.images[0].sum.is_some() && definition.images[1].sum.is_none());
    let groups: Vec<_> = definition.groups.iter().map(|group| group.as_str()).collect();
    assert_eq!(groups, ["staff", "_developer"]);
    let resources = &definition.resources;
    assert_eq!((resources.cpu, resources.ram_gb, resources.disk_gb()), (14, 12, 10));
    assert_eq!(resources.disks["ws"].kind, DiskKind::Dir);
    assert!(resources.multitenancy && resources.cpu_overbook && resources.ram_overbook);
    assert_eq!(resources.lifetime, Lifetime::For(Duration::from_secs(3_723)));
    assert_eq!(resources.unmatched_pattern(&["OS:linux", "Arch:x86_64"]), None);
    let missing = resources.unmatched_pattern(&["OS:linux", "Arch:arm64"]).map(|pattern| pattern.as_str());
    assert_eq!(missing, Some("Arch:x86_64"));

    let mut context = TemplateContext { user: "fish-abcdef".into(), ..TemplateContext::default() };
    context.disks.insert("ws".into(), "/mnt/ws".into());
    assert_eq!(definition.render_entry(&context).unwrap(), Path::new("/mnt/ws/init.sh"));
    let variables = environment(&Default::default(), &label.metadata, &context).unwrap();
    let expected = [("JENKINS_AGENT_WORKSPACE", "/mnt/ws"), ("LIMITS_RAM", "1000000"), ("LIMITS_ratio", "1.50")];
    assert_eq!(variables, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn the_newer_label_and_the_other_forms() {
    let newer = label("newer.yml");
    let definition = &newer.definitions[0];
    assert_eq!(definition.images[0].version.as_str(), "20230210");
    assert_eq!(definition.resources.lifetime, Lifetime::For(Duration::from_secs(44 * 86_400)));
    let disks = &definition.resources.disks;
    assert_eq!((disks["ws"].label.as_deref(), disks["ws"].clone.as_deref()), (Some("workspace"), None));
    assert_eq!((disks["my-cache"].size_gb, disks["my-cache"].clone.as_deref()), (0, Some("/srv/cache")));
    assert!(disks["my-cache"].reuse);

    assert_eq!(label("wrapped-definition.yml").definitions[0].entry.source(), "./run.sh");
    let wrapped = label("wrapped-label.yml");
    assert_eq!(wrapped.definitions[0].driver, "native/big");
    assert_eq!(wrapped.definitions[0].resources.lifetime, Lifetime::Unlimited);
    assert_eq!(wrapped.definitions[0].entry.source(), "./init.sh");
    assert_eq!(label("bare-definition.json").definitions[0].entry.source(), "./\u{1f680}.sh");
    assert!(label("newer.json").definitions[0].images[0].sum.is_none());
    let anchors = label("anchors.yml");
    assert_eq!(anchors.definitions[1].driver, "native/big");
    let (first, second) = (&anchors.definitions[0].resources, &anchors.definitions[1].resources);
    assert_eq!((first.cpu, second.cpu, second.ram_gb, second.multitenancy), (1, 8, 1, true));
}

#[test]
fn both_generations_mean_the_same() {
    let older = "definitions: [{driver: native, options: {images: [{url: 'https://h/a-1.tar'}], entry: x}, resources: \
                 {cpu: 1, ram: 1, mem_overbook: true}}]";
    let newer = "definitions: [{driver: native, images: [{url: 'https://h/a-1.tar'}], options: {entry: x}, resources: \
                 {cpu: 1, ram: 1, ram_overbook: true}}]";
    let read = |text: &str| parse_label(&Source::new("f", text), Target::Linux).into_result().unwrap().0;
    assert_eq!(read(older), read(newer));
}

#[test]
fn a_definition_of_another_driver_keeps_its_place() {
    let text = "definitions:\n- {driver: vmx, options: {whatever: 1}, resources: {cpu: lots}}\n\
                - {driver: native, resources: {cpu: 1, ram: 1}}\n";
    let (label, warnings) = parse_label(&Source::new("f", text), Target::Linux).into_result().unwrap();
    assert_eq!(label.definitions.iter().map(|d| d.is_native()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn configs_of_both_generations() {
    let older = config("older.yml");
    let native = instance(&older, "native");
    assert_eq!((native.cpu_alter, native.ram_alter, native.cpu_overbook, native.ram_overbook), (-2, -10, 12, 8));
    assert_eq!(native.images_path.as_deref(), Some(Path::new("images")));
    assert_eq!(native.tools[&ToolKey::Sudo], Path::new("/usr/bin/sudo"));
    assert_eq!(native.download_user.as_deref(), Some("reader"));
    assert_eq!(native.download_password.as_ref().map(|p| p.expose_secret()), Some("secret"));
    assert!(!format!("{older:?}").contains("secret"), "never in Debug");
    let identifiers = native.node_identifiers.as_ref().unwrap();
    assert_eq!(identifiers, &["FishName:node-1", "Zone:a"], "the node's own list");
    assert_eq!(older.instances.len(), 2, "an instance without cfg has the defaults");
    assert!(native.check_alter(3, 11).is_ok());
    assert!(native.check_alter(2, 11).is_err() && native.check_alter(3, 10).is_err());

    let newer = config("newer.yml");
    let native = instance(&newer, "native");
    assert_eq!(native.download_origins[1].to_string(), "https://other.example.com:8443");
    assert_eq!((native.privilege, native.limits), (Privilege::Helper, LimitsMode::Off));
    assert_eq!((native.home_size, native.tmp_size), (Some(10_000_000_000), Some(1 << 30)));
    assert_eq!((native.stop_grace, native.slots), (Duration::from_secs(90), Some(4)));
    assert_eq!((native.uid_min, native.uid_max), (80_000, 89_999));
    assert_eq!(native.writable_paths, [PathBuf::from("/opt/cache")]);
    let big = instance(&newer, "native/big");
    assert_eq!((big.tenancy, big.account, big.isolation), (Tenancy::Lenient, AccountKind::Ephemeral, Isolation::Basic));
    assert_eq!(big.default_lifetime, Lifetime::For(Duration::from_secs(172_800)));

    let own = config("own.yml");
    let native = instance(&own, "native");
    assert_eq!((native.images_max_size, native.log_size), (Some(100_000_000_000), 5_000_000));
    assert_eq!(native.images_memory, Some(256 << 20));
    assert!(native.allow_setuid && native.download_proxy.is_some());
    let empty = config("empty.yml");
    let native = instance(&empty, "native");
    assert_eq!((native.uid_min, native.uid_max, native.pids_max), (70_000, 79_999, 4_096));
    assert_eq!((native.log_size, native.stop_grace), (64_000_000, Duration::from_secs(5)));
}

#[test]
fn a_password_is_never_shown() {
    for text in ["download_password: 31337", "download_password: [s3cr3t]", "download_password: {s3cr3t: 31337}"] {
        let checked = parse_config(&Source::new("f", text), Target::Linux);
        assert!(checked.value.is_none());
        let shown = format!("{:?}", checked.problems);
        assert!(!shown.contains("31337") && !shown.contains("s3cr3t"), "{shown}");
    }
}

#[test]
fn macos_takes_its_own_keys() {
    let text = "dscl_path: /usr/bin/dscl\nprivilege: sudo-commands\n";
    let (config, warnings) = parse_config(&Source::new("f", text), Target::Macos).into_result().unwrap();
    assert!(warnings.is_empty());
    assert_eq!(instance(&config, "native").tools[&ToolKey::Dscl], Path::new("/usr/bin/dscl"));
}

#[test]
fn what_a_file_is() {
    for (name, text) in LABELS {
        assert_eq!(sniff(&Source::new(name, text)), Kind::Label, "{name}");
    }
    for (name, text) in CONFIGS {
        assert_eq!(sniff(&Source::new(name, text)), Kind::Config, "{name}");
    }
    for (text, kind) in [
        ("", Kind::Config),
        ("# comment\n", Kind::Config),
        ("defintions: []", Kind::Label),
        ("driver: native", Kind::Label),
        ("resources: {", Kind::Label),
        ("drivers: [", Kind::Config),
        ("name: x\nversion: 1\n", Kind::Label),
        ("image_path: /x", Kind::Config),
        ("definitions:\n\t- x", Kind::Label),
        ("nonsense", Kind::Config),
        ("just: a: text", Kind::Config),
        ("{\"definitions\": [", Kind::Label),
    ] {
        assert_eq!(sniff(&Source::new("f", text)), kind, "{text:?}");
    }
}

#[test]
fn tools_must_be_what_they_should() {
    let text = "drivers:\n  - name: native\n    cfg:\n      sudo_path: /bin/sudo\n      tar_path: /bin/tar\n";
    let src = Source::new("node.yml", text);
    let config = parse_config(&src, Target::Linux).value.unwrap();
    let native = instance(&config, "native");
    let fine = FileFacts { exists: true, is_file: true, executable: true, writable_by_others: false };
    assert!(native.check_tools(&src, &|_| fine).is_empty());
    for (facts, part) in [
        (FileFacts { exists: false, ..fine }, "does not exist"),
        (FileFacts { is_file: false, ..fine }, "is not a file"),
        (FileFacts { executable: false, ..fine }, "is not executable"),
        (FileFacts { writable_by_others: true, ..fine }, "can be changed by others"),
    ] {
        let problems = native.check_tools(&src, &|path| if path.ends_with("tar") { facts } else { fine });
        assert_eq!(problems.len(), 1);
        let problem = &problems[0];
        assert_eq!((problem.line, problem.column, problem.field.as_str()), (5, 17, "drivers[0].cfg.tar_path"));
        assert!(problem.message.contains(part) && problem.hint.is_some() && problem.severity == Severity::Error);
    }
}

#[test]
fn yaml_that_editors_and_programs_write() {
    for text in [
        "\u{feff}driver: native\nresources: {cpu: 1, ram: 1}\n",
        "driver: native\r\nresources:\r\n  cpu: 1\r\n  ram: 1\r\n",
        "{\n\t\"driver\":\t\"native\",\n\t\"resources\": {\n\t\t\"cpu\": 1,\n\t\t\"ram\": 1\n\t}\n}",
        "{\"driver\":\"native\",\"resources\":{\"cpu\":1,\"ram\":1}}",
        "---\ndriver: native\nresources: {cpu: 0x1, ram: 0o7}\n...\n",
        "%YAML 1.2\n---\ndriver: !!str native\nresources: {cpu: !!int 1, ram: 1}\n",
        "driver: 'native'\nresources:\n- &x\n",
    ] {
        let checked = parse_label(&Source::new("f", text), Target::Linux);
        let expected = !text.contains("&x");
        assert_eq!(checked.value.is_some(), expected, "{text:?} {:?}", checked.problems);
    }
}

#[test]
fn every_escape_of_json() {
    let written = serde_json::json!({
        "driver": "native",
        "resources": { "cpu": 1, "ram": 1 },
        "metadata": { "A": "quote \" backslash \\ slash / \u{8}\u{c}\n\r\t \u{e9} \u{1f600} \u{2028}", "k\u{e9}y: #": "x" },
    });
    let plain = written.to_string();
    let escaped = plain.replace('/', "\\/").replace('\u{1f600}', "\\ud83d\\ude00").replace('\u{e9}', "\\u00E9");
    let pretty = serde_json::to_string_pretty(&written).unwrap().replace("  ", "\t");
    for text in [plain, escaped, pretty] {
        let (label, _) = parse_label(&Source::new("f", &text), Target::Linux).into_result().expect(&text);
        let variables = environment(&Default::default(), &label.metadata, &TemplateContext::default()).unwrap();
        let expected = written["metadata"]["A"].as_str().unwrap();
        assert_eq!(variables, [("A".to_owned(), expected.to_owned()), ("ky".to_owned(), "x".to_owned())]);
    }
    for text in ["{\"driver\":\"\\ud83d\"}", "{\"driver\":\"\\x\"}", "{\"driver\":\"a\nb\"", "{\"driver\" \"native\"}"]
    {
        assert!(parse_label(&Source::new("f", text), Target::Linux).value.is_none(), "{text}");
    }
}

/// Runs on a thread with the stack of a test thread; must come back with an error and soon.
fn must_refuse(what: &str, text: &str) {
    let checked = parse_label(&Source::new("f", text), Target::Linux);
    assert!(checked.value.is_none(), "{what}");
    assert!(!checked.problems.is_empty(), "{what}");
    let shown: usize = checked.problems.iter().map(|p| p.to_string().len()).sum();
    assert!(shown < 1_000_000, "{what}: {shown} bytes of messages");
    // The other readers share the tree, so the great texts need not be read three times.
    if text.len() < 3_000_000 {
        let _ = sniff(&Source::new("f", text));
        let _ = parse_config(&Source::new("f", text), Target::Linux);
    }
}

#[test]
fn files_made_to_hurt() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..40 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    must_refuse("alias bomb", &bomb);
    must_refuse("deep flow", &"[".repeat(100_000));
    must_refuse("deep flow maps", &"{a: ".repeat(100_000));
    must_refuse("deep block", &(0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>());
    must_refuse("deep dashes", &"- ".repeat(100_000));
    must_refuse("alias to itself", "a: &a [*a]");
    must_refuse("unknown alias", "a: *b");
    must_refuse("long key", &format!("{}: 1", "k".repeat(2_000_000)));
    must_refuse("long quoted key", &format!("\"{}\": 1", "k".repeat(2_000_000)));
    must_refuse("NUL", "a: \0");
    must_refuse("merge of a text", "<<: [x]\ndriver: native");
    must_refuse("17 MB", &" ".repeat(17 * 1024 * 1024));
    must_refuse("10 MB of keys", &(0..700_000).map(|i| format!("key{i}: 1\n")).collect::<String>());
    must_refuse("10 MB of a text", &format!("driver: \"{}\"", "x".repeat(10_000_000)));
    must_refuse("10 MB of dashes", &"-\n".repeat(5_000_000));
    must_refuse("10 MB of brackets", &"[]\n".repeat(3_000_000));
    must_refuse("10 MB of comments", &"# comment\n".repeat(1_000_000));
    must_refuse("many duplicates", &"a: 1\n".repeat(100_000));
    must_refuse("a mapping as key", "? {a: b}\n: c\n");
}
