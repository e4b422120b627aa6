//! The fixture table of wrong files: each gives exactly the problems that are written above it, with place, field,
//! message and hint.

use native_config::{Problem, Severity, Source, Target, parse_config, parse_label};
use std::collections::BTreeSet;

struct Expected {
    line: u32,
    column: u32,
    field: String,
    message: String,
    hint: String,
    severity: Severity,
}

struct Case {
    name: String,
    kind: String,
    expected: Vec<Expected>,
    text: String,
}

fn cases() -> Vec<Case> {
    let table = include_str!("fixtures/wrong.txt");
    let mut cases = Vec::new();
    for block in format!("\n{table}").split("\n### ").skip(1) {
        let (head, text) = block.split_once("\n~~~\n").expect("a case has a text");
        let mut lines = head.lines();
        let name = lines.next().expect("a case has a name").to_owned();
        let mut kind = String::new();
        let mut expected = Vec::new();
        for line in lines {
            let line = line.strip_prefix("expect:").expect("only expectations before the text");
            let parts: Vec<&str> = line.split(" | ").map(|part| part.trim_matches(' ')).collect();
            kind = parts[0].to_owned();
            let (line, column) = parts[1].split_once(':').expect("line:column");
            let part = |at: usize| parts.get(at).copied().unwrap_or("").trim_matches(['|', ' ']).to_owned();
            expected.push(Expected {
                line: line.parse().expect("line"),
                column: column.parse().expect("column"),
                field: part(2),
                message: part(3),
                hint: part(4),
                severity: if part(5) == "warning" { Severity::Warning } else { Severity::Error },
            });
        }
        cases.push(Case { name, kind, expected, text: format!("{}\n", text.trim_end_matches('\n')) });
    }
    cases
}

fn problems(case: &Case) -> (Vec<Problem>, bool) {
    let src = Source::new("file.yml", &case.text);
    if case.kind == "label" {
        let checked = parse_label(&src, Target::Linux);
        (checked.problems, checked.value.is_some())
    } else {
        let checked = parse_config(&src, Target::Linux);
        (checked.problems, checked.value.is_some())
    }
}

#[test]
fn each_wrong_file_gives_its_problems_and_no_others() {
    let mut failures = Vec::new();
    for case in cases() {
        let (found, usable) = problems(&case);
        let is = |p: &Problem, e: &Expected| {
            (p.line, p.column, p.field.as_str()) == (e.line, e.column, e.field.as_str())
                && p.message.contains(&e.message)
                && p.hint.as_deref().unwrap_or("").contains(&e.hint)
                && p.severity == e.severity
        };
        let fine = found.len() == case.expected.len()
            && case.expected.iter().all(|e| found.iter().any(|p| is(p, e)))
            && usable == case.expected.iter().all(|e| e.severity == Severity::Warning);
        if !fine {
            let found: Vec<String> = found.iter().map(|p| format!("    {p}")).collect();
            failures.push(format!("{} (usable: {usable})\n{}", case.name, found.join("\n")));
        }
    }
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_table_has_at_least_sixty_wrong_files() {
    let cases = cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    let wrong = cases.iter().filter(|case| case.expected.iter().any(|e| e.severity == Severity::Error)).count();
    assert!(wrong >= 60, "{wrong} wrong files");
}

#[test]
fn problems_are_sorted_and_bounded() {
    let mut text = String::from("driver: native\nresources: {cpu: 1, ram: 1}\n");
    for i in 0..5_000 {
        text.push_str(&format!("unknown{i}: 1\n"));
    }
    let problems = parse_label(&Source::new("f", &text), Target::Linux).problems;
    assert!(problems.len() <= 500, "{}", problems.len());
    assert!(problems.is_sorted_by_key(|p| (p.line, p.column)));
}
