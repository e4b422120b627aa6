//! Bounded loops over arbitrary input: nothing may panic, hang or grow without bound, and what is accepted must hold
//! what the types promise. `FISH_FUZZ_SECONDS` sets how long each target runs (1 without it), `FISH_FUZZ_SEED` where
//! it starts.

use native_config::{
    Checked, DiskName, Lifetime, NodePattern, Severity, Source, Target, Template, TemplateContext, parse_config,
    parse_fish_duration, parse_go_duration, parse_label, path_match, sniff,
};
use std::time::Duration;

/// A small generator of its own, so that a seed names an input on every machine and with every dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// Makes an input from seeds, pieces of the language and noise, by cutting, doubling, moving and replacing.
fn input(random: &mut Random, seeds: &[&str], pieces: &[&str]) -> String {
    let mut text: Vec<char> = match random.below(4) {
        0 => Vec::new(),
        _ => random.pick(seeds).chars().collect(),
    };
    for _ in 0..random.below(12) {
        let at = random.below(text.len() + 1);
        let to = (at + random.below(40)).min(text.len());
        match random.below(6) {
            0 => {
                text.drain(at..to);
            }
            1 => {
                let piece: Vec<char> = text[at..to].to_vec();
                let place = random.below(text.len() + 1);
                text.splice(place..place, piece);
            }
            2 => {
                let noise = char::from_u32((random.next() % 0x11_0000) as u32).unwrap_or('\u{0}');
                text.insert(at, noise);
            }
            3 => {
                let noise = char::from((random.next() % 128) as u8);
                text.insert(at, noise);
            }
            4 => {
                let piece = random.pick(pieces).repeat(1 + random.below(200));
                text.splice(at..at, piece.chars());
            }
            _ => {
                text.splice(at..to, random.pick(pieces).chars());
            }
        }
    }
    text.into_iter().take(200_000).collect()
}

/// Runs a target for its time, and fails for one input that takes long by itself.
#[expect(clippy::disallowed_methods, reason = "a test: its length and its seed come from outside, and it has a clock")]
#[expect(clippy::print_stdout, reason = "how many inputs a run took is its result")]
fn fuzz(seeds: &[&str], pieces: &[&str], mut target: impl FnMut(&str)) {
    let seconds = std::env::var("FISH_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0f64);
    let seed = std::env::var("FISH_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1u64);
    let mut random = Random(seed);
    let begin = std::time::Instant::now();
    let mut runs = 0u64;
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        let before = random.0;
        let text = input(&mut random, seeds, pieces);
        let own = std::time::Instant::now();
        target(&text);
        let took = own.elapsed();
        assert!(took < Duration::from_secs(10), "state {before}: {took:?} for {} bytes: {text:.200?}", text.len());
        runs += 1;
    }
    println!("{runs} inputs from seed {seed}");
}

/// What holds for every file, right or wrong.
fn check<T>(text: &str, checked: &Checked<T>) {
    let failed = checked.problems.iter().any(|problem| problem.severity == Severity::Error);
    assert_eq!(checked.value.is_none(), failed, "{text:?}");
    assert!(checked.problems.len() <= 500);
    for problem in &checked.problems {
        assert!(problem.line >= 1 && problem.column >= 1 && !problem.message.is_empty(), "{problem} in {text:?}");
        assert!(problem.message.len() < 4_000, "{} bytes of message for {text:?}", problem.message.len());
    }
}

const YAML: &[&str] = &[
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "\n- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "|\n",
    ">-\n",
    "---\n",
    "...\n",
    "? ",
    "%YAML 1.2\n",
    "\t",
    "\\u0000",
    "\\ud83d",
    "~",
    "null",
    "true",
    "yes",
    "-1",
    "4294967296",
    "1e9",
    "0x10",
    "name",
    "native",
    "definitions",
    "driver",
    "resources",
    "options",
    "images",
    "url",
    "sum",
    "disks",
    "size",
    "cpu",
    "ram",
    "lifetime",
    "metadata",
    "{{ .Disks.ws }}",
    "https://h/a-1.tar.xz",
    "sha256:",
    "drivers",
    "providers",
    "cfg",
    "\u{feff}",
];

const GO: &[&str] = &[
    "{{",
    "}}",
    "{{-",
    "-}}",
    " ",
    "(",
    ")",
    "|",
    "\"",
    "`",
    "'",
    "\\",
    ".",
    ".Disks",
    ".User",
    ".ws",
    "$",
    "$x",
    ":=",
    "=",
    ",",
    "if ",
    "else",
    "else if ",
    "end",
    "range ",
    "with ",
    "define \"a\"",
    "template \"a\"",
    "block \"a\" .",
    "break",
    "continue",
    "printf \"%s\" ",
    "printf \"%99999d\" ",
    "%",
    "print ",
    "index .Disks \"ws\"",
    "len ",
    "eq ",
    "and ",
    "or ",
    "not ",
    "html ",
    "js ",
    "slice ",
    "call ",
    "nil",
    "true",
    "1",
    "-1",
    "1e9",
    "/*",
    "*/",
    "{{if true}}",
    "{{end}}",
    "{{range 9}}",
    "{{.User}}",
];

#[test]
fn label() {
    let seeds = [
        include_str!("fixtures/labels/older.yml"),
        include_str!("fixtures/labels/newer.yml"),
        include_str!("fixtures/labels/newer.json"),
        include_str!("fixtures/labels/anchors.yml"),
        include_str!("fixtures/labels/bare-definition.json"),
    ];
    fuzz(&seeds, YAML, |text| {
        let src = Source::new("f", text);
        let _ = sniff(&src);
        let checked = parse_label(&src, Target::Linux);
        check(text, &checked);
        let Some(label) = checked.value else { return };
        assert!(label.definitions.iter().any(|definition| definition.is_native()));
        for definition in label.definitions.iter().filter(|definition| definition.is_native()) {
            let resources = &definition.resources;
            assert!(resources.cpu >= 1 && resources.ram_gb >= 1);
            for (name, disk) in &resources.disks {
                assert!(disk.size_gb >= 1 || disk.clone.is_some());
                assert!(!name.as_str().contains('/') && !name.as_str().contains(".."));
            }
            for image in &definition.images {
                assert!(image.tag.as_ref().is_none_or(|tag| resources.disks.contains_key(tag)));
                assert!(!image.name.as_str().contains('/') && !image.version.as_str().contains('/'));
            }
            let disks = resources.disks.keys().map(|name| (name.to_string(), format!("/d/{name}"))).collect();
            let context = TemplateContext { disks, user: "fish-abcdef".into() };
            // What the check accepts, the run accepts: only the values of paths differ.
            definition.render_entry(&context).unwrap_or_else(|error| panic!("{error}: {text:?}"));
            let variables = native_config::environment(&Default::default(), &label.metadata, &context);
            for (name, value) in variables.unwrap_or_else(|error| panic!("{error}: {text:?}")) {
                assert!(!name.is_empty() && !name.contains('=') && !value.contains('\0'));
            }
        }
    });
}

#[test]
fn config() {
    let seeds = [
        include_str!("fixtures/configs/older.yml"),
        include_str!("fixtures/configs/newer.yml"),
        include_str!("fixtures/configs/own.yml"),
        include_str!("fixtures/configs/own.json"),
    ];
    fuzz(&seeds, YAML, |text| {
        let src = Source::new("f", text);
        for target in [Target::Linux, Target::Macos] {
            let checked = parse_config(&src, target);
            check(text, &checked);
            let Some(config) = checked.value else { continue };
            assert!(!config.instances.is_empty());
            for config in config.instances.values() {
                assert!(config.uid_min >= 1_000 && config.uid_min <= config.uid_max);
                assert!(config.tools.values().all(|path| path.is_absolute()));
                assert!(config.writable_paths.iter().all(|path| path.is_absolute() && path.parent().is_some()));
                let fine = |_: &std::path::Path| native_config::FileFacts {
                    exists: false,
                    is_file: false,
                    executable: false,
                    writable_by_others: false,
                };
                assert_eq!(config.check_tools(&src, &fine).len(), config.tools.len());
            }
        }
    });
}

#[test]
fn template() {
    let seeds = [
        "{{ .Disks.ws }}/init.sh",
        "{{ index .Disks \"my-disk\" }}",
        "{{ if eq .User \"x\" }}a{{ else if .Disks }}b{{ else }}c{{ end }}",
        "{{ range $k, $v := .Disks }}{{ $k }}={{ $v }}{{ end }}",
        "{{ define \"a\" }}{{ . }}{{ end }}{{ template \"a\" .User }}{{ with .Disks }}{{ .ws }}{{ end }}",
        "{{ $x := printf \"%5d|%-5s|%q\" 1 \"a\" .User }}{{ $x }}{{ $x = print $x $x }}",
    ];
    let mut context = TemplateContext { user: "fish-abcdef".into(), ..TemplateContext::default() };
    context.disks.insert("ws".into(), "/mnt/ws".into());
    context.disks.insert("my-disk".into(), "/mnt/my-disk".into());
    fuzz(&seeds, GO, |text| match Template::parse(text).and_then(|template| template.render(&context)) {
        Ok(output) => assert!(output.len() <= 1_000_000, "{} bytes of output", output.len()),
        Err(error) => assert!(error.to_string().len() < 1_000, "{error}"),
    });
}

#[test]
fn duration() {
    let seeds = ["1h30m", "-1.5w", "3Y4M5d", "9223372036854775807ns", "0", "12\u{b5}s", ".5s"];
    let pieces = [
        "0",
        "9",
        ".",
        "-",
        "+",
        "h",
        "m",
        "ms",
        "M",
        "d",
        "w",
        "y",
        "ns",
        "\u{3bc}s",
        "99999999999999999999",
        " ",
        "e",
    ];
    fuzz(&seeds, &pieces, |text| {
        let go = parse_go_duration(text);
        let fish = parse_fish_duration(text);
        // Fish only adds units.
        if go.is_ok() {
            assert_eq!(go, fish, "{text:?}");
        }
        if let Ok(lifetime) = text.parse::<Lifetime>() {
            assert_eq!(lifetime.to_string().parse(), Ok(lifetime), "{text:?} does not come back");
        }
    });
}

#[test]
fn pattern() {
    let seeds = ["OS:linux", "a*b?c*x", "[a-z]*[^0-9]", "\\*[\\]a]", "*/*", "axbxcxdxe/f"];
    let pieces = ["*", "?", "[", "]", "^", "-", "\\", "/", "a", "z", "[a-c]", "\u{3b1}", "*a", "a*"];
    let mut earlier = String::from("axbxcxdxe/f");
    fuzz(&seeds, &pieces, |text| {
        // The work is the product of both lengths, and an identifier is short.
        let text: String = text.chars().take(2_000).collect();
        let matched = path_match(&text, &earlier);
        // Whether a pattern is malformed does not depend on the name.
        assert_eq!(matched.is_err(), path_match(&text, "").is_err(), "{text:?}");
        assert_eq!(text.parse::<NodePattern>().is_err(), text.is_empty() || matched.is_err());
        if !text.contains(['*', '?', '[', '\\']) {
            assert_eq!(path_match(&text, &text), Ok(true), "a plain pattern matches itself: {text:?}");
        }
        if !text.contains('/') {
            assert_eq!(path_match("*", &text), Ok(true));
        }
        let _ = text.parse::<DiskName>();
        earlier = text;
    });
}
