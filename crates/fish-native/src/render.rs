//! Draws problems of a file the way rustc does: the line, a mark below it, the advice.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use native_config::{Problem, Severity};

/// All problems of one text, one after another.
pub(crate) fn problems(text: &str, problems: &[Problem], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for problem in problems {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(problem.message.as_str());
        let mut sections = Vec::new();
        if text.is_empty() {
            // There is no line to mark in an empty file.
            let title = format!("{}: {}", problem.file, problem.message);
            let level = if problem.severity == Severity::Error { Level::ERROR } else { Level::WARNING };
            group = level.primary_title(title);
        } else {
            let mark = AnnotationKind::Primary.span(span(text, problem.line, problem.column));
            let mark = if problem.field.is_empty() { mark } else { mark.label(problem.field.as_str()) };
            sections.push(Snippet::source(text).path(problem.file.as_str()).annotation(mark));
        }
        let group = group.elements(sections);
        let report = match &problem.hint {
            Some(hint) => vec![group.element(Level::HELP.message(hint.as_str()))],
            None => vec![group],
        };
        out.push_str(&renderer.render(&report));
        out.push_str("\n\n");
    }
    out
}

/// The bytes of what stands at a place: a quoted string whole, else up to the next blank or bracket; one character
/// at least, nothing at the end of the text.
fn span(text: &str, line: u32, column: u32) -> Range<usize> {
    let line = usize::try_from(line.max(1)).unwrap_or(usize::MAX);
    let column = usize::try_from(column.max(1)).unwrap_or(usize::MAX);
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let row = text[start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let offset = row.char_indices().nth(column - 1).map_or(row.len(), |(at, _)| at);
    let rest = &row[offset..];
    let length = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        Some(_) => rest.find([' ', '\t', ',', ']', '}']).unwrap_or(rest.len()),
        None => 0,
    };
    let first = rest.chars().next().map_or(0, char::len_utf8);
    let begin = start + offset;
    begin..begin + length.max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(text: &str, line: u32, column: u32) -> &str {
        &text[span(text, line, column)]
    }

    #[test]
    fn what_stands_at_a_place_is_marked() {
        let text = "cpu: 4\nname: \"a b\" # x\nlist: [ä, öü]\r\n";
        assert_eq!(marked(text, 1, 6), "4");
        assert_eq!(marked(text, 2, 1), "name:");
        assert_eq!(marked(text, 2, 7), "\"a b\"");
        assert_eq!(marked(text, 3, 8), "ä");
        assert_eq!(marked(text, 3, 11), "öü");
    }

    #[test]
    fn a_place_outside_the_text_is_its_end() {
        for (line, column) in [(0, 0), (1, 99), (99, 1), (u32::MAX, u32::MAX)] {
            let range = span("ab\n", line, column);
            assert!(range.end <= 3, "{line}:{column}: {range:?}");
        }
        assert_eq!(span("", 1, 1), 0..0);
    }

    #[test]
    fn a_problem_is_drawn_with_its_line_and_its_hint() {
        let problem = Problem {
            file: "label.yml".to_owned(),
            line: 2,
            column: 3,
            field: "definitions[0].drivr".to_owned(),
            message: "unknown field `drivr`".to_owned(),
            hint: Some("did you mean `driver`?".to_owned()),
            severity: Severity::Error,
        };
        let drawn = problems("definitions:\n- drivr: native\n", std::slice::from_ref(&problem), false);
        for part in ["error: unknown field", "label.yml:2:3", "- drivr: native", "definitions[0].drivr", "did you mean"]
        {
            assert!(drawn.contains(part), "{part} in:\n{drawn}");
        }
        assert!(problems("", &[problem], false).contains("label.yml: unknown field"));
    }
}
