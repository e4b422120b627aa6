//! What is made from a table of commands for people to install or to read: sudo rules, the reference page.

mod reference;
mod sudoers;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, Value};

pub use reference::render_reference;
pub use sudoers::{HELPER, RenderError, Rules, Style, render_sudoers};

/// Fills a template. Block tags stand on lines of their own, which are not part of the text.
fn fill(template: &str, context: Value) -> Result<String, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?;
    environment.set_syntax(syntax);
    environment.render_str(template, context)
}
