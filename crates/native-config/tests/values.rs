//! Table tests of Go's and Fish's semantics: patterns, durations, image names, checksums, names, sizes, origins.

use native_config::{
    Checksum, ChecksumError, DiskName, DurationError, EnvironmentId, GroupName, ImageName, ImageVersion, InstanceName,
    Lifetime, NodePattern, Origin, ProxyUrl, SumAlgo, image_name, image_version, parse_fish_duration,
    parse_go_duration, parse_length, path_match,
};
use std::time::Duration;
use url::Url;

#[test]
fn path_match_agrees_with_go() {
    // pattern, name, result; None is Go's ErrBadPattern.
    let table: &[(&str, &str, Option<bool>)] = &[
        ("abc", "abc", Some(true)),
        ("*", "abc", Some(true)),
        ("*c", "abc", Some(true)),
        ("a*", "a", Some(true)),
        ("a*", "abc", Some(true)),
        ("a*", "ab/c", Some(false)),
        ("a*/b", "abc/b", Some(true)),
        ("a*/b", "a/c/b", Some(false)),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
        ("ab[c]", "abc", Some(true)),
        ("ab[b-d]", "abc", Some(true)),
        ("ab[e-g]", "abc", Some(false)),
        ("ab[^c]", "abc", Some(false)),
        ("ab[^b-d]", "abc", Some(false)),
        ("ab[^e-g]", "abc", Some(true)),
        ("a\\*b", "a*b", Some(true)),
        ("a\\*b", "ab", Some(false)),
        ("a?b", "a\u{263a}b", Some(true)),
        ("a[^a]b", "a\u{263a}b", Some(true)),
        ("a???b", "a\u{263a}b", Some(false)),
        ("a[^a][^a][^a]b", "a\u{263a}b", Some(false)),
        ("[a-\u{3b6}]*", "\u{3b1}", Some(true)),
        ("*[a-\u{3b6}]", "A", Some(false)),
        ("a?b", "a/b", Some(false)),
        ("a*b", "a/b", Some(false)),
        ("[\\]a]", "]", Some(true)),
        ("[\\-]", "-", Some(true)),
        ("[x\\-]", "x", Some(true)),
        ("[x\\-]", "-", Some(true)),
        ("[x\\-]", "z", Some(false)),
        ("[\\-x]", "x", Some(true)),
        ("[\\-x]", "-", Some(true)),
        ("[\\-x]", "a", Some(false)),
        ("[]a]", "]", None),
        ("[-]", "-", None),
        ("[x-]", "x", None),
        ("[x-]", "-", None),
        ("[x-]", "z", None),
        ("[-x]", "x", None),
        ("[-x]", "-", None),
        ("[-x]", "a", None),
        ("\\", "a", None),
        ("[a-b-c]", "a", None),
        ("[", "a", None),
        ("[^", "a", None),
        ("[^bc", "a", None),
        ("a[", "a", None),
        ("a[", "ab", None),
        ("a[", "x", None),
        ("a/b[", "x", None),
        ("*x", "xxx", Some(true)),
        // What other glob dialects read otherwise.
        ("{a,b}", "a", Some(false)),
        ("{a,b}", "{a,b}", Some(true)),
        ("**", "a/b", Some(false)),
        ("**/b", "a/b", Some(true)),
        ("[!a]", "b", Some(false)),
        ("", "", Some(true)),
        ("", "a", Some(false)),
        ("*", "", Some(true)),
        ("?", "", Some(false)),
        ("[^a]", "/", Some(true)),
        ("OS:*", "OS:linux", Some(true)),
        ("OSVersion:1[12].*", "OSVersion:12.5", Some(true)),
        ("OSVersion:1[12].*", "OSVersion:13.0", Some(false)),
    ];
    for (pattern, name, expected) in table {
        assert_eq!(path_match(pattern, name).ok(), *expected, "{pattern:?} {name:?}");
    }
}

#[test]
fn many_stars_take_no_long_time() {
    let pattern = "*a".repeat(50) + "*b";
    let name = "a".repeat(2_000);
    assert_eq!(path_match(&pattern, &name), Ok(false));
}

#[test]
fn node_patterns() {
    let pattern: NodePattern = "OS:li*".parse().unwrap();
    assert!(pattern.matches("OS:linux") && !pattern.matches("OS:darwin"));
    assert!(pattern.matches_any(&["Arch:x86_64", "OS:linux"]));
    assert!("".parse::<NodePattern>().is_err() && "[a".parse::<NodePattern>().is_err());
    assert_eq!(pattern.to_string(), "OS:li*");
}

const S: i64 = 1_000_000_000;

#[test]
fn go_durations() {
    let table: &[(&str, i64)] = &[
        ("0", 0),
        ("5s", 5 * S),
        ("30s", 30 * S),
        ("1478s", 1478 * S),
        ("-5s", -5 * S),
        ("+5s", 5 * S),
        ("-0", 0),
        ("+0", 0),
        ("5.0s", 5 * S),
        ("5.6s", 5 * S + 600_000_000),
        ("5.s", 5 * S),
        (".5s", 500_000_000),
        ("1.0s", S),
        ("1.00s", S),
        ("1.004s", S + 4_000_000),
        ("1.0040s", S + 4_000_000),
        ("100.00100s", 100 * S + 1_000_000),
        ("10ns", 10),
        ("11us", 11_000),
        ("12\u{b5}s", 12_000),
        ("12\u{3bc}s", 12_000),
        ("13ms", 13_000_000),
        ("14s", 14 * S),
        ("15m", 15 * 60 * S),
        ("16h", 16 * 3600 * S),
        ("3h30m", (3 * 3600 + 30 * 60) * S),
        ("10.5s4m", 4 * 60 * S + 10 * S + 500_000_000),
        ("-2m3.4s", -(2 * 60 * S + 3 * S + 400_000_000)),
        ("1h2m3s4ms5us6ns", 3600 * S + 120 * S + 3 * S + 4_005_006),
        ("39h9m14.425s", (39 * 3600 + 9 * 60 + 14) * S + 425_000_000),
        ("52763797000ns", 52_763_797_000),
        ("0.3333333333333333333h", 20 * 60 * S),
        ("9007199254740993ns", (1 << 53) + 1),
        ("9223372036854775807ns", i64::MAX),
        ("9223372036854775.807us", i64::MAX),
        ("9223372036s854ms775us807ns", i64::MAX),
        ("-9223372036854775808ns", i64::MIN),
        ("-9223372036854775.808us", i64::MIN),
        ("-9223372036s854ms775us808ns", i64::MIN),
        ("0.100000000000000000000h", 6 * 60 * S),
        ("0.830103483285477580700h", 49 * 60 * S + 48 * S + 372_539_827),
    ];
    for (text, nanos) in table {
        assert_eq!(parse_go_duration(text), Ok(*nanos), "{text}");
        assert_eq!(parse_fish_duration(text), Ok(*nanos), "{text}");
    }
    for text in [
        "",
        "3",
        "-",
        "s",
        ".",
        "-.",
        ".s",
        "+.s",
        "1d",
        "\u{85}\u{85}",
        "\u{ffff}",
        "hello \u{ffff} world",
        "3000000h",
        "9223372036854775808ns",
        "9223372036854775.808us",
        "9223372036854ms775us808ns",
        "-9223372036854775809ns",
        "1 h",
        "1h ",
        " 1h",
        "1H",
        "--1s",
        "1h-1s",
        "1e3s",
        "1,5h",
        "0x1s",
    ] {
        assert!(parse_go_duration(text).is_err(), "{text:?}");
    }
    assert!(matches!(parse_go_duration("3"), Err(DurationError::MissingUnit { .. })));
    assert!(matches!(parse_go_duration("1d"), Err(DurationError::UnknownUnit { .. })));
    assert!(matches!(parse_go_duration("3000000h"), Err(DurationError::Overflow { .. })));
    assert!(matches!(parse_go_duration("x"), Err(DurationError::Invalid { .. })));
}

#[test]
fn fish_durations() {
    const DAY: i64 = 24 * 3600 * S;
    let table: &[(&str, i64)] = &[
        ("10d", 10 * DAY),
        ("10D", 10 * DAY),
        ("-1.5w", -(DAY * 21 / 2)),
        ("2W", 14 * DAY),
        ("1M", 30 * DAY),
        ("1m", 60 * S),
        ("3Y4M5d", (3 * 365 + 4 * 30 + 5) * DAY),
        ("1y1h", 365 * DAY + 3600 * S),
        ("0.5d", DAY / 2),
        ("1d1ms", DAY + 1_000_000),
    ];
    for (text, nanos) in table {
        assert_eq!(parse_fish_duration(text), Ok(*nanos), "{text}");
    }
    for text in ["1q", "300y", "1dd", "d", "1d2"] {
        assert!(parse_fish_duration(text).is_err(), "{text}");
    }
    assert_eq!(parse_length("1m30s"), Ok(Duration::from_secs(90)));
    assert!(matches!(parse_length("-1s"), Err(DurationError::Negative { .. })));
}

#[test]
fn lifetimes() {
    let hour_and_half = Lifetime::For(Duration::from_secs(5_400));
    for (text, expected, shown) in [
        ("", Lifetime::Default, "0"),
        ("0", Lifetime::Default, "0"),
        ("0s", Lifetime::Default, "0"),
        ("-0", Lifetime::Default, "0"),
        ("1h30m", hour_and_half, "1h30m"),
        ("90m", hour_and_half, "1h30m"),
        ("1.5s", Lifetime::For(Duration::from_millis(1_500)), "1.5s"),
        ("10ns", Lifetime::For(Duration::from_nanos(10)), "0.00000001s"),
        ("2d", Lifetime::For(Duration::from_secs(172_800)), "48h"),
        ("-1s", Lifetime::Unlimited, "-1s"),
        ("-1", Lifetime::Unlimited, "-1s"),
        ("-3d", Lifetime::Unlimited, "-1s"),
    ] {
        let lifetime: Lifetime = text.parse().unwrap();
        assert_eq!(lifetime, expected, "{text:?}");
        assert_eq!(lifetime.to_string(), shown);
        assert_eq!(shown.parse::<Lifetime>(), Ok(expected), "{shown} reads back");
    }
    for text in ["1", "soon", "1 h", "-", "--1"] {
        assert!(text.parse::<Lifetime>().is_err(), "{text:?}");
    }
}

#[test]
fn image_names_from_urls() {
    // url, name, version; None is an error.
    let table: &[(&str, Option<&str>, Option<&str>)] = &[
        ("https://h/lin-ci/lin-ci-20230210.190425_ff1cd1cf.tar.xz", Some("lin-ci"), Some("20230210.190425_ff1cd1cf")),
        ("https://h/a/macos_amd64-ci-VERSION.tar.xz", Some("macos_amd64-ci"), Some("VERSION")),
        ("https://h/image.tar.xz", Some("image"), Some("image")),
        ("https://h/image.tar.gz", Some("image"), Some("image")),
        ("https://h/image.tar", Some("image"), Some("image")),
        ("https://h/image.zip", Some("image"), Some("image")),
        ("https://h/image.v1.tar.xz", Some("image.v1"), Some("image.v1")),
        ("https://h/image.v1.zip", Some("image.v1"), Some("image.v1")),
        ("https://h/image", Some("image"), Some("image")),
        ("https://h/image-1", Some("image"), Some("1")),
        ("https://h/image-1.2", Some("image"), Some("1")),
        ("https://h/image-1.2.tar.xz", Some("image"), Some("1.2")),
        ("https://h/image-1.0-beta.tar.xz", Some("image-1.0"), Some("beta")),
        ("https://h/image-1.tar.xz?token=a-b.c", Some("image"), Some("1")),
        ("https://h/image-1.tar.xz#a-b", Some("image"), Some("1")),
        ("https://h/image-1.tar.xz/", Some("image"), Some("1")),
        ("https://h/image-1.tar.xz//?x", Some("image"), Some("1")),
        ("https://h:8443/a/../b/image-1.tar.xz", Some("image"), Some("1")),
        ("https://h/image-", Some("image"), None),
        ("https://h/image-.tar.xz", Some("image"), None),
        ("https://h/image-tar.xz", Some("image"), None),
        ("https://h/-1.tar.xz", None, Some("1")),
        ("https://h/--1.tar.xz", None, Some("1")),
        ("https://h/.tar.xz", None, None),
        ("https://h/tar.xz", None, None),
        ("https://h/.hidden", None, None),
        ("https://h", None, None),
        ("https://h/", None, None),
        ("https://h/..", None, None),
        ("https://h/%2e%2e", None, None),
        ("https://h/..%2f..%2fetc-1.tar", None, Some("1")),
        ("https://h/a%00b-1.tar", None, Some("1")),
        ("https://h/a b-1.tar", None, Some("1")),
        ("https://h/\u{e9}-1.tar", None, Some("1")),
        ("https://h/a-1+2.tar.xz", Some("a"), Some("1+2")),
        ("https://h/a..b-1.tar", None, Some("1")),
        ("https://h/a-1..2.tar.xz", Some("a"), None),
    ];
    for (url, name, version) in table {
        let url = Url::parse(url).unwrap();
        assert_eq!(image_name(&url).ok().as_ref().map(ImageName::as_str), *name, "name of {url}");
        assert_eq!(image_version(&url).ok().as_ref().map(ImageVersion::as_str), *version, "version of {url}");
    }
    let long = Url::parse(&format!("https://h/{}-1.tar", "a".repeat(300))).unwrap();
    assert!(image_name(&long).is_err());
}

#[test]
fn checksums() {
    for (algo, digits) in [("md5", 32), ("sha1", 40), ("sha256", 64), ("sha512", 128)] {
        let text = format!("{algo}:{}", "aB".repeat(digits / 2));
        let sum: Checksum = text.parse().unwrap();
        assert_eq!(sum.digest.len(), sum.algo.digest_len());
        assert_eq!(sum.to_string(), text.to_lowercase());
        assert_eq!(text.to_lowercase().parse(), Ok(sum.clone()), "case makes no difference");
        assert_eq!(sum.algo.is_weak(), algo == "md5" || algo == "sha1");
        for wrong in [format!("{text}a"), format!("{text}aa"), text[..text.len() - 1].to_owned(), format!("{algo}:")] {
            assert!(matches!(wrong.parse::<Checksum>(), Err(ChecksumError::Length { .. })), "{wrong}");
        }
    }
    assert_eq!("".parse::<Checksum>(), Err(ChecksumError::Form));
    assert_eq!("abc".parse::<Checksum>(), Err(ChecksumError::Form));
    for text in ["sha999:00", ":00", "SHA256:00", " sha256:00", "sha256 :00"] {
        assert!(matches!(text.parse::<Checksum>(), Err(ChecksumError::Algorithm { .. })), "{text}");
    }
    for text in ["md5:zz", "md5:0x", "md5: 00", "md5:00:00", "md5:\u{e9}"] {
        assert!(matches!(text.parse::<Checksum>(), Err(ChecksumError::Digit { .. })), "{text}");
    }
    assert_eq!("sha512".parse(), Ok(SumAlgo::Sha512));
}

#[test]
fn names_have_strict_alphabets() {
    let too_long = "a".repeat(129);
    let wrong = [
        "",
        ".",
        "..",
        "a..b",
        "/",
        "a/b",
        "../x",
        "-x",
        "-rf",
        ".x",
        "a b",
        " a",
        "a\n",
        "a\0",
        "\u{1f4be}",
        "\u{e9}",
        "a\u{202e}b",
        "a:b",
        "a\\b",
        "a*",
        "$(x)",
        "a'b",
        "~",
        &too_long,
    ];
    for text in wrong {
        assert!(text.parse::<DiskName>().is_err(), "disk {text:?}");
        assert!(text.parse::<ImageName>().is_err(), "image {text:?}");
        assert!(text.parse::<ImageVersion>().is_err(), "version {text:?}");
        assert!(text.parse::<GroupName>().is_err(), "group {text:?}");
        assert!(format!("native/{text}").parse::<InstanceName>().is_err(), "instance {text:?}");
    }
    for text in ["a", "A9", "my-disk", "a.b_c-d", "9"] {
        assert!(text.parse::<DiskName>().is_ok(), "{text}");
    }
    assert!("a".repeat(64).parse::<DiskName>().is_ok() && "a".repeat(65).parse::<DiskName>().is_err());
    assert!("_developer".parse::<GroupName>().is_ok() && "com.apple.access_ssh".parse::<GroupName>().is_ok());
    assert!("0".parse::<GroupName>().is_err() && "501".parse::<GroupName>().is_err());
    for (text, fine) in [
        ("fish-abcdef", true),
        ("fish-abcde", false),
        ("fish-abcdefg", false),
        ("fish-ABCDEF", false),
        ("fish-abcde1", false),
        ("xish-abcdef", false),
        ("fish-abcdef\n", false),
        ("fish-\u{e9}bcde", false),
        ("", false),
    ] {
        assert_eq!(text.parse::<EnvironmentId>().is_ok(), fine, "{text:?}");
    }
    for (text, fine) in [
        ("native", true),
        ("native/big", true),
        ("native/", false),
        ("native/a/b", false),
        ("nativebig", false),
        ("native/..", false),
        ("vmx", false),
        ("", false),
    ] {
        assert_eq!(text.parse::<InstanceName>().is_ok(), fine, "{text:?}");
    }
    let name: DiskName = "ws".parse().unwrap();
    assert_eq!(serde_json::to_string(&name).unwrap(), "\"ws\"");
    assert!(serde_json::from_str::<DiskName>("\"../x\"").is_err(), "no way round the alphabet");
}

#[test]
fn origins() {
    let origin: Origin = "https://Images.Example.com".parse().unwrap();
    assert_eq!(origin.to_string(), "https://images.example.com");
    assert_eq!("https://images.example.com:443/".parse(), Ok(origin.clone()));
    let matches = |url: &str| origin.matches(&Url::parse(url).unwrap());
    assert!(matches("https://images.example.com/a/b?c"));
    assert!(!matches("http://images.example.com/a"), "another scheme");
    assert!(!matches("https://images.example.com:8443/a"), "another port");
    assert!(!matches("https://images.example.com.evil.org/a"));
    assert!(!matches("https://evil.org/https://images.example.com"));
    for text in ["", "h", "https://", "https://h/x", "https://h?x", "https://u@h", "https://u:p@h", "ftp://h", "//h"] {
        assert!(text.parse::<Origin>().is_err(), "{text:?}");
    }
    let proxy: ProxyUrl = "http://user:secret@proxy:3128".parse().unwrap();
    assert!(!format!("{proxy} {proxy:?}").contains("secret"));
    assert_eq!(proxy.expose().password(), Some("secret"));
    assert!("proxy:3128".parse::<ProxyUrl>().is_err() && "ftp://h".parse::<ProxyUrl>().is_err());
}
