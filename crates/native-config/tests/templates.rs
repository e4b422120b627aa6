//! Templates: the forms that labels use, names that don't exist, and every way to make one run away; metadata.

use native_config::{
    Metadata, MetadataError, Source, Target, Template, TemplateContext, TemplateError, environment, parse_label,
};

fn context() -> TemplateContext {
    let mut context = TemplateContext { user: "fish-abcdef".into(), ..TemplateContext::default() };
    for (name, path) in [("ws", "/mnt/ws"), ("my-disk", "/mnt/my disk")] {
        context.disks.insert(name.into(), path.into());
    }
    context
}

fn render(text: &str) -> Result<String, TemplateError> {
    Template::parse(text)?.render(&context())
}

#[test]
fn what_labels_write_today() {
    for (text, expected) in [
        ("./init.sh", "./init.sh"),
        ("", ""),
        ("{{ .Disks.ws }}", "/mnt/ws"),
        ("{{.Disks.ws}}/x", "/mnt/ws/x"),
        ("a {{- .Disks.ws -}} b", "a/mnt/wsb"),
        ("{{ index .Disks \"my-disk\" }}/y", "/mnt/my disk/y"),
        ("{{ index .Disks `ws` }}", "/mnt/ws"),
        ("{{ .User }}", "fish-abcdef"),
        ("{{ $.User }}", "fish-abcdef"),
        ("{{ .Disks.ws | printf \"%s/%s\" .User }}", "fish-abcdef//mnt/ws"),
        ("{{ printf \"%q %d %05d %x\" .User 3 42 255 }}", "\"fish-abcdef\" 3 00042 ff"),
        ("{{ print 1 2 \"a\" \"b\" 3 }}", "1 2ab3"),
        ("{{ if .Disks.ws }}y{{ else }}n{{ end }}", "y"),
        ("{{ if eq .User \"root\" }}a{{ else if ne .User \"x\" }}b{{ end }}", "b"),
        ("{{ with .Disks }}{{ .ws }}{{ end }}", "/mnt/ws"),
        ("{{ with .Disks.ws }}{{ . }}{{ end }}", "/mnt/ws"),
        ("{{ with $d := .Disks }}{{ $d.ws }}{{ end }}", "/mnt/ws"),
        ("{{ range $name, $path := .Disks }}{{ $name }}={{ $path }};{{ end }}", "my-disk=/mnt/my disk;ws=/mnt/ws;"),
        ("{{ range .Disks }}[{{ . }}]{{ else }}none{{ end }}", "[/mnt/my disk][/mnt/ws]"),
        ("{{ len .Disks }}", "2"),
        ("{{ len .User | printf \"%d\" }}", "11"),
        ("{{ slice .User 5 }}", "abcdef"),
        ("{{ slice .User 0 4 }}", "fish"),
        ("{{ and .User \"x\" }}{{ or \"\" \"y\" }}{{ not true }}", "xyfalse"),
        ("{{ $x := .User }}{{ $x }}", "fish-abcdef"),
        ("{{/* a comment */}}z", "z"),
        ("{{ \"{{\" }}", "{{"),
        ("{{ 1000000 }}", "1000000"),
        ("{{ html \"<a>\" }}{{ urlquery \"a b\" }}{{ js \"'\" }}", "&lt;a&gt;a+b\\'"),
        ("{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" .User }}", "<fish-abcdef>"),
        ("}} { { }", "}} { { }"),
        ("\u{1f41f} {{ .User }}\n\t\"'\\", "\u{1f41f} fish-abcdef\n\t\"'\\"),
    ] {
        assert_eq!(render(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn nothing_unknown_is_written() {
    let disk = |name: &str| Err(TemplateError::UnknownDisk { name: name.into() });
    let field = |name: &str| Err(TemplateError::UnknownField { name: name.into() });
    for text in [
        "{{ .Disks.no }}",
        "{{ index .Disks \"no\" }}",
        "{{ $.Disks.no }}",
        "{{ with .Disks }}{{ .no }}{{ end }}",
        "{{ if false }}{{ .Disks.no }}{{ end }}",
        "{{ if true }}a{{ else }}{{ with .Disks.no }}b{{ end }}{{ end }}",
        "{{ if .Disks.no }}a{{ end }}",
        "{{ printf \"%s\" (index .Disks \"no\") }}",
        "{{ (.Disks).no }}",
        "{{ $d := .Disks }}{{ $d.no }}",
        "{{ $n := \"no\" }}{{ index .Disks $n }}",
        "{{ range .Disks }}{{ $.Disks.no }}{{ end }}",
        "{{ define \"t\" }}{{ .no }}{{ end }}{{ template \"t\" .Disks }}",
    ] {
        assert_eq!(render(text), disk("no"), "{text}");
    }
    for (text, name) in [("{{ .Disk }}", "Disk"), ("{{ .Env.HOME }}", "Env"), ("{{ $.Nope }}", "Nope")] {
        assert_eq!(render(text), field(name), "{text}");
    }
    for text in
        ["{{ env \"HOME\" }}", "{{ readFile \"/etc/passwd\" }}", "{{ if false }}{{ nope }}{{ end }}", "{{ ws }}"]
    {
        assert!(matches!(Template::parse(text), Err(TemplateError::UnknownFunction { .. })), "{text}");
    }
    for text in [
        "{{",
        "{{ .Disks.ws",
        "{{ if }}a{{ end }}",
        "{{ if true }}a",
        "{{ .Disks.my-disk }}",
        "{{}}",
        "{{ \"a }}",
        "a{{ end }}b",
        "{{ else }}",
        "{{ template }}",
        "{{ range }}{{ end }}",
        "{{ ( }}",
    ] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
    for text in [
        "{{ nil }}",
        "{{ .Disks.ws.x }}",
        "{{ .Disks.ws 1 }}",
        "{{ call .User }}",
        "{{ index .User \"x\" }}",
        "{{ .Disks..ws }}",
        "{{ $x }}",
    ] {
        assert!(render(text).is_err(), "{text}");
    }
    let written = |text: &str| render(text).unwrap_or_default();
    for text in ["{{ index .Disks }}", "{{ print .Disks }}", "{{ print nil }}", "{{ printf \"%d\" .User }}"] {
        assert!(!written(text).contains("<no value>"), "{text}");
    }
}

#[test]
fn a_template_reaches_nothing_else() {
    // The harshest inputs: nothing of this host may come out.
    for text in ["{{ .Disks }}", "{{ . }}", "{{ $ }}", "{{ printf \"%v %#v\" . . }}"] {
        let out = render(text).unwrap_or_default();
        assert!(!out.contains("HOME") && !out.contains("/root") && !out.contains("PATH"), "{out}");
    }
}

#[test]
fn nothing_runs_away() {
    let chain: String = (0..60)
        .map(|i| {
            format!("{{{{define \"t{i}\"}}}}{{{{template \"t{n}\"}}}}{{{{template \"t{n}\"}}}}{{{{end}}}}", n = i + 1)
        })
        .collect();
    let nested = |open: &str, close: &str, times: usize| format!("{}{}", open.repeat(times), close.repeat(times));
    let cases: Vec<(&str, String)> = vec![
        ("recursion", "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}".into()),
        (
            "the 150 bytes that double themselves",
            "{{define \"a\"}}{{if lt (len .) 40}}{{template \"a\" (print . \"x\")}}{{template \"a\" (print . \"x\")}}{{end}}{{end}}\
             {{template \"a\" \"\"}}"
                .into(),
        ),
        ("a chain that doubles", format!("{chain}{{{{define \"t60\"}}}}{{{{end}}}}{{{{template \"t0\"}}}}")),
        ("two that call each other", "{{define \"a\"}}{{template \"b\"}}{{end}}{{define \"b\"}}{{template \"a\"}}{{end}}".into()),
        ("block", "{{block \"a\" .}}{{template \"a\" .}}{{end}}".into()),
        ("great range", "{{range 1000000000}}x{{end}}".into()),
        ("nested ranges", nested("{{range 1000}}", "{{end}}", 20)),
        ("printf widths", "{{printf \"%065000d\" 1}}".repeat(400)),
        ("printf of many verbs", format!("{{{{printf \"{}\" 1}}}}", "%65000d".repeat(500))),
        ("printf star", "{{printf \"%*d\" 2000000000 1 | printf \"%*s\" 2000000000}}".repeat(200)),
        ("printf precision", "{{printf \"%.65000f\" 1.5}}".repeat(300)),
        ("a text that doubles", format!("{{{{$x := \"xxxxxxxx\"}}}}{}{{{{$x}}}}", "{{$x = print $x $x}}".repeat(60))),
        ("a text that doubles in a range", "{{$x := \"xxxxxxxx\"}}{{range 900}}{{$x = print $x $x}}{{end}}".into()),
        ("a text that grows sixfold", format!("{{{{$x := \"<<<<<<<<\"}}}}{}", "{{$x = js $x}}".repeat(60))),
        ("html", format!("{{{{$x := \"&&&&&&&&\"}}}}{}", "{{$x = html $x}}".repeat(500))),
        ("slices", "{{$x := printf \"%060000d\" 1}}{{range 1000}}{{$y := slice $x 1}}{{end}}{{$x}}".repeat(3)),
        ("many actions", "{{.User}}".repeat(6_000)),
        ("a long pipe", format!("{{{{.User{}}}}}", "|print".repeat(9_000))),
        ("deep if", nested("{{if true}}", "{{end}}", 3_000)),
        ("deep with", nested("{{with .Disks}}", "{{end}}", 2_000)),
        ("deep else", format!("{}{}", "{{if false}}{{else}}".repeat(1_500), "{{end}}".repeat(1_500))),
        ("deep else if", format!("{{{{if false}}}}{}{{{{end}}}}", "{{else if false}}".repeat(3_000))),
        ("deep parentheses", format!("{{{{{}1{}}}}}", "(".repeat(30_000), ")".repeat(30_000))),
        ("unclosed parentheses", format!("{{{{{}", "(".repeat(60_000))),
        ("long field", format!("{{{{{}}}}}", ".a".repeat(30_000))),
        ("long source", format!("{{{{.User}}}}{}", "x".repeat(70_000))),
        ("long text", "x".repeat(1_000_001)),
        ("many defines", (0..3_000).map(|i| format!("{{{{define \"{i}\"}}}}x{{{{end}}}}")).collect()),
        ("a long line of calls", (0..900).map(|i| format!("{{{{define \"{i}\"}}}}{{{{template \"{}\"}}}}{{{{end}}}}", i + 1)).collect()),
        ("deep index", format!("{{{{index{}}}}}", " .Disks".repeat(8_000))),
    ];
    for (what, text) in cases {
        match render(&text) {
            Ok(out) => assert!(out.len() <= 1_000_000, "{what}: {} bytes", out.len()),
            Err(error) => assert!(error.to_string().len() < 1_000, "{what}: {error}"),
        }
        // The same in a label, where it is read as well as filled in.
        let json = serde_json::json!({
            "driver": "native", "metadata": { "A": text.clone() }, "options": { "entry": text },
            "resources": { "cpu": 1, "ram": 1, "disks": { "ws": { "size": 1 } } },
        });
        let text = json.to_string();
        let checked = parse_label(&Source::new("f", &text), Target::Linux);
        assert!(checked.problems.iter().all(|p| p.to_string().len() < 3_000), "{what}");
    }
    assert!(matches!(render("{{range 1000000}}x{{end}}"), Err(TemplateError::TooBig { .. })));
    let deep = nested("{{if true}}", "{{end}}", 90);
    assert_eq!(render(&deep).as_deref(), Ok(""), "what people nest is fine");
}

fn metadata(text: &str) -> Metadata {
    Metadata::parse_file(&Source::new("m", text)).into_result().expect("metadata").0
}

fn variables(application: &str, label: &str) -> Result<Vec<(String, String)>, MetadataError> {
    environment(&metadata(application), &metadata(label), &context())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn values_of_every_type() {
    let text = r#"
text: "as it is"
whole: 1000000
great: 123456789012345678901234567890
negative: -5
float: 3.10
exponent: 1e6
hex: 0x1F
yes: true
no: False
null_value: null
tilde: ~
nothing:
empty: ""
list: [1, "x y", true, null, [2.50], { k: "v" }]
empty_list: []
empty_map: {}
nested: { a: { b: 1 } }
date: 2026-11-23
word: yes
"#;
    let expected = pairs(&[
        ("text", "as it is"),
        ("whole", "1000000"),
        ("great", "123456789012345678901234567890"),
        ("negative", "-5"),
        ("float", "3.10"),
        ("exponent", "1e6"),
        ("hex", "0x1F"),
        ("yes", "true"),
        ("no", "false"),
        ("null_value", ""),
        ("tilde", ""),
        ("nothing", ""),
        ("empty", ""),
        ("list", r#"[1,"x y",true,null,[2.50],{"k":"v"}]"#),
        ("empty_list", "[]"),
        ("nested_a_b", "1"),
        ("date", "2026-11-23"),
        ("word", "yes"),
    ]);
    assert_eq!(variables("{}", text), Ok(expected));
}

#[test]
fn the_label_is_laid_over_the_application() {
    let got = variables("{ A: app, B: { x: 1, y: 2 }, C: { z: 1 } }", "{ A: label, B: { y: 3, z: 4 }, C: flat, D: d }");
    assert_eq!(got, Ok(pairs(&[("A", "label"), ("B_x", "1"), ("B_y", "3"), ("B_z", "4"), ("C", "flat"), ("D", "d")])));
}

#[test]
fn names_of_variables() {
    for (key, name) in [
        ("a.b", "a_b"),
        ("a-b", "ab"),
        ("1A", "A"),
        ("12_x", "_x"),
        ("\u{e9}t\u{e9}", "t"),
        ("a b", "ab"),
        ("a=b", "ab"),
        ("A_1", "A_1"),
        ("a$(x)", "ax"),
        ("ENV", "ENV"),
    ] {
        let metadata =
            Metadata::parse_file(&Source::new("m", &serde_json::json!({ key: "v" }).to_string())).value.unwrap();
        assert_eq!(environment(&Metadata::default(), &metadata, &context()), Ok(pairs(&[(name, "v")])), "{key}");
    }
    for text in ["{ '123': x }", "{ '---': x }", "{ '': x }"] {
        assert!(matches!(variables("{}", text), Err(MetadataError::EmptyName { .. })), "{text}");
    }
    for text in ["{ a.b: 1, a: { b: 2 } }", "{ a-b: 1, ab: 2 }", "{ 1A: 1, A: 2 }", "{ a_b: 1, a: { b: 2 } }"] {
        assert!(matches!(variables("{}", text), Err(MetadataError::Collision { .. })), "{text}");
    }
    assert!(matches!(variables("{ a-b: 1 }", "{ ab: 2 }"), Err(MetadataError::Collision { .. })), "across both files");
    for key in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "DYLD_INSERT_LIBRARIES",
        "BASH_ENV",
        "L-D_PRELOAD",
        "1LD_PRELOAD",
        "LD.PRELOAD",
    ] {
        let text = format!("{{ {key}: x }}");
        assert!(matches!(variables("{}", &text), Err(MetadataError::Forbidden { .. })), "{text}");
    }
}

#[test]
fn a_value_survives_byte_for_byte() {
    let value = "quotes ' \" ` $HOME $(id) \\n \\ \n\r\n\t newline, \u{1f41f} \u{202e} %s {} } }} end ";
    let text = serde_json::json!({ "A": value, "B": format!("{value}{{{{ .User }}}}{value}") }).to_string();
    let got = variables("{}", &text).unwrap();
    assert_eq!(got, pairs(&[("A", value), ("B", &format!("{value}fish-abcdef{value}"))]));
    let from_pairs = Metadata::from_pairs([format!("A={value}"), "B=a=b=c".to_owned(), "C=".to_owned()]).unwrap();
    let got = environment(&Metadata::default(), &from_pairs, &context()).unwrap();
    assert_eq!(got, pairs(&[("A", value), ("B", "a=b=c"), ("C", "")]));
    assert!(matches!(variables("{}", "{ \"A\": \"a\\u0000b\" }"), Err(MetadataError::Nul { .. })));
    let nul = Metadata::from_pairs(["A=a\0b"]).unwrap();
    assert!(matches!(environment(&nul, &Metadata::default(), &context()), Err(MetadataError::Nul { .. })));
}

#[test]
fn pairs_of_the_command_line() {
    for wrong in ["", "A", "=x"] {
        assert!(matches!(Metadata::from_pairs([wrong]), Err(MetadataError::NotAPair { .. })), "{wrong:?}");
    }
    let last = Metadata::from_pairs(["A=1", "B=2", "A=3"]).unwrap();
    assert_eq!(environment(&last, &Metadata::default(), &context()), Ok(pairs(&[("B", "2"), ("A", "3")])));
    assert_eq!(serde_json::to_string(&metadata("{ a: 1, b: { c: x } }")).unwrap(), r#"{"a":1,"b":{"c":"x"}}"#);
}

#[test]
fn templates_in_metadata() {
    assert_eq!(
        variables("{ W: '{{ .Disks.ws }}/x', L: ['{{ .User }}', '\"{{ .Disks.ws }}\"'] }", "{}"),
        Ok(pairs(&[("W", "/mnt/ws/x"), ("L", r#"["fish-abcdef","\"/mnt/ws\""]"#)]))
    );
    assert!(matches!(variables("{ W: '{{ .Disks.no }}' }", "{}"), Err(MetadataError::Template { .. })));
    let big = serde_json::json!({ "A": "x".repeat(600_000), "B": "x".repeat(600_000) }).to_string();
    assert_eq!(variables("{}", &big), Err(MetadataError::TooBig));
    let value = "x".repeat(1_000_000);
    let fits = serde_json::json!({ "A": value }).to_string();
    assert_eq!(variables("{}", &fits).map(|list| list[0].1.len()), Ok(1_000_000), "a value of 1 MB passes");
    assert!(Metadata::parse_file(&Source::new("m", "[1]")).value.is_none());
    assert!(Metadata::parse_file(&Source::new("m", "a: {")).value.is_none());
    assert!(Metadata::parse_file(&Source::new("m", "")).value.is_some_and(|metadata| metadata.is_empty()));
}
