//! [`render_reference`]: the page on commands, from the tables.

use minijinja::context;

use super::{RenderError, fill};
use crate::command::{By, CommandSpec, Input, Means, Piece, Place, Table};

/// The text of `docs/src/reference/privileged-commands.md`.
///
/// # Errors
/// [`RenderError::Template`].
pub fn render_reference(tables: &[&Table]) -> Result<String, RenderError> {
    let platforms: Vec<_> = tables
        .iter()
        .map(|table| {
            let rows: Vec<_> = table.commands.iter().map(|row| describe(table, row)).collect();
            context! { os => table.os, key => table.os.to_ascii_lowercase(), helper_only => table.helper_only, rows }
        })
        .collect();
    let text = fill(include_str!("templates/reference.j2"), context! { platforms }).map_err(RenderError::Template)?;
    // Parts that a row does not have leave blank lines.
    let mut page = String::new();
    for line in text.lines() {
        if !(line.is_empty() && page.ends_with("\n\n")) {
            page.push_str(line);
            page.push('\n');
        }
    }
    Ok(format!("{}\n", page.trim_end()))
}

fn describe(table: &Table, row: &CommandSpec) -> minijinja::Value {
    let again: Vec<String> = row
        .outcomes
        .iter()
        .filter(|o| matches!(o.means, Means::Again | Means::Busy))
        .map(|o| if o.text.is_empty() { format!("ends with {}", o.ending) } else { format!("says `{}`", o.text) })
        .collect();
    let when = if again.is_empty() { "did not do its work".to_owned() } else { again.join(" or ") };
    let outcomes: Vec<_> = row
        .outcomes
        .iter()
        .map(|o| context! { ending => o.ending.to_string(), text => o.text, means => o.means.to_string(), source => o.source })
        .collect();
    let retry =
        (row.retry.times > 0).then(|| context! { times => row.retry.times, pause_ms => row.retry.pause_ms, when });
    context! {
        id => row.id,
        what => row.what,
        why_root => row.why_root,
        line => line(table, row),
        limit_s => row.limit_s,
        retry,
        input => row.input == Input::Job,
        account => row.by == By::Account,
        undo => row.undo,
        fenceable => row.fenceable,
        outcomes,
    }
}

/// The command with its slots named.
fn line(table: &Table, row: &CommandSpec) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => (*text).to_owned(),
        Piece::At(Place::System) => String::new(),
        Piece::At(Place::State) => "<state>".to_owned(),
        Piece::At(Place::Shell) => "<shell>".to_owned(),
        Piece::Slot(slot) => format!("<{slot}>"),
    };
    let mut words = vec![(table.tool_path)(row.tool).display().to_string()];
    for arg in row.arguments() {
        let text: String = arg.iter().map(piece).collect();
        let blank = arg.iter().any(|p| matches!(p, Piece::Text(t) if t.contains(' ')));
        words.push(if blank { format!("\"{text}\"") } else { text });
    }
    words.join(" ")
}
