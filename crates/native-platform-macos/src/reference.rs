//! [`render_reference`]: the page on commands, from the table.

use minijinja::context;

use crate::config::default_path;
use crate::render::render;
use crate::row::{CommandRow, Input, Means, Piece, Place};
use crate::sudoers::RenderError;
use crate::table::COMMANDS;

/// The text of `docs/src/reference/privileged-commands.md`.
///
/// # Errors
/// [`RenderError::Template`].
pub fn render_reference() -> Result<String, RenderError> {
    let rows: Vec<_> = COMMANDS.iter().map(describe).collect();
    let text = render(include_str!("templates/reference.j2"), context! { rows }).map_err(RenderError::Template)?;
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

fn describe(row: &CommandRow) -> minijinja::Value {
    let again: Vec<String> = row
        .outcomes
        .iter()
        .filter(|o| matches!(o.means, Means::Again | Means::Busy))
        .map(|o| if o.text.is_empty() { o.ending.to_string() } else { format!("says `{}`", o.text) })
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
        line => line(row),
        limit_s => row.limit_s,
        retry,
        input => row.input == Input::Job,
        undo => row.undo,
        fenceable => row.fenceable,
        outcomes,
    }
}

/// The command with its slots named.
fn line(row: &CommandRow) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => (*text).to_owned(),
        Piece::At(Place::System) => String::new(),
        Piece::At(Place::State) => "<state>".to_owned(),
        Piece::At(Place::Shell) => "<shell>".to_owned(),
        Piece::Slot(slot) => format!("<{slot}>"),
    };
    let mut words = vec![default_path(row.tool).display().to_string()];
    for arg in row.args {
        let text: String = arg.iter().map(piece).collect();
        let blank = arg.iter().any(|p| matches!(p, Piece::Text(t) if t.contains(' ')));
        words.push(if blank { format!("\"{text}\"") } else { text });
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_on_the_page() {
        let page = render_reference().unwrap();
        for row in COMMANDS {
            assert!(page.contains(&format!("\n### {}\n", row.id)), "{}", row.id);
        }
        assert!(page.contains("/usr/bin/dscl . delete /Users/<environment name>"));
        assert!(!page.contains("\n\n\n") && page.ends_with("|\n") || page.ends_with(".\n"));
    }
}
