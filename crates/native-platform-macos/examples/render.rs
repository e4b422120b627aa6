//! Prints what is rendered from the table of commands: the reference page, or the sudo rules in a style.

use std::io::Write;

use native_platform_macos::{Places, RenderError, Rules, Site, Style, render_reference, render_sudoers};

fn main() -> std::io::Result<()> {
    let what = std::env::args().nth(1).unwrap_or_default();
    let text = match what.as_str() {
        "reference" => render_reference(),
        "helper" => rules(Style::Helper),
        "regex" => rules(Style::Regex),
        "wildcard" => rules(Style::Wildcard),
        _ => return Err(std::io::Error::other("say reference, helper, regex or wildcard")),
    };
    std::io::stdout().write_all(text.map_err(std::io::Error::other)?.as_bytes())
}

fn rules(style: Style) -> Result<String, RenderError> {
    render_sudoers(&Rules::new(style, "_aquarium-fish", &Site::default(), &Places::default()))
}
