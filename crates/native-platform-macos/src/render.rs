//! Templates: block tags stand on lines of their own, which are not part of the text.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, Value};

pub(crate) fn render(template: &str, context: Value) -> Result<String, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?;
    environment.set_syntax(syntax);
    environment.render_str(template, context)
}
