//! Go's `text/template` as labels use it, with everything bounded and nothing reachable but `.Disks` and `.User`.
//!
//! The language itself is the `gotmpl` crate. What this module adds:
//!
//! 1. A walk over the parsed tree before anything runs. It refuses names that don't exist (also in branches that a
//!    dummy run would not take), templates that call themselves, and trees that expand to more than a fixed number
//!    of steps, as a chain of `define`s does that each call the next one twice.
//! 2. Bounded functions: everything that makes text (`printf`, `print`, `html`, `slice`, ...) draws on one budget of bytes for
//!    the whole run, so that a variable that doubles itself ends early.
//! 3. A bounded number of `range` rounds and a bounded output.
//! 4. `index` of a key that is not there is an error, where Go gives an empty text.

use crate::template_walk::{self, WalkError};
use gotmpl::{MissingKey, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most that a template may write.
pub(crate) const MAX_OUTPUT: usize = 1_000_000;
/// The longest template; a plain text without `{{` may be as long as the output.
const MAX_SOURCE: usize = 64 * 1024;
/// All text that functions make in one run together.
const MAX_WORK: usize = 8 * MAX_OUTPUT;
/// The engine parses a chain of `else if` by recursion without a bound of its own.
const MAX_ELSE: usize = 100;
/// All rounds of all `range`s together.
const MAX_ROUNDS: u64 = 1_000;

/// Why a template can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not the language.
    #[error("bad template: {message} (at {line}:{column} of the template)")]
    Syntax {
        /// Line in the template, from 1.
        line: usize,
        /// Column in the template, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A function that does not exist.
    #[error("unknown function `{name}` in the template")]
    UnknownFunction {
        /// The function.
        name: String,
    },
    /// A disk that the definition does not have.
    #[error("unknown disk {name:?} in the template")]
    UnknownDisk {
        /// The name asked for.
        name: String,
    },
    /// A field that does not exist.
    #[error("unknown field `.{name}` in the template, there are only `.Disks` and `.User`")]
    UnknownField {
        /// The field asked for.
        name: String,
    },
    /// A named template that is not defined.
    #[error("the template calls {name:?}, which is not defined")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
    },
    /// A named template that calls itself.
    #[error("the template {name:?} calls itself")]
    Recursive {
        /// Its name.
        name: String,
    },
    /// Too much of something.
    #[error("the template is too big: {what}")]
    TooBig {
        /// Of what.
        what: &'static str,
    },
    /// It failed while it ran.
    #[error("the template failed: {message}")]
    Failed {
        /// What the language says.
        message: String,
    },
}

impl From<WalkError> for TemplateError {
    fn from(error: WalkError) -> Self {
        use crate::names::shorten;
        match error {
            WalkError::UnknownTemplate(name) => Self::UnknownTemplate { name: shorten(&name) },
            WalkError::Recursive(name) => Self::Recursive { name: shorten(&name) },
            WalkError::TooManySteps => Self::TooBig { what: "it would take too many steps" },
            WalkError::UnknownField(name) => Self::UnknownField { name: shorten(&name) },
            WalkError::UnknownDisk(name) => Self::UnknownDisk { name: shorten(&name) },
            WalkError::UnknownFunction(name) => Self::UnknownFunction { name: shorten(&name) },
        }
    }
}

/// All that a template can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateContext {
    /// `.Disks`: paths by the name of the disk.
    pub disks: BTreeMap<String, String>,
    /// `.User`: the name of the environment's account.
    pub user: String,
}

/// A checked template. Parsing proves the syntax and the functions; the names of disks need a context.
///
/// ```
/// use native_config::{Template, TemplateContext};
/// # fn main() -> Result<(), native_config::TemplateError> {
/// let entry = Template::parse("{{ .Disks.ws }}/init.sh")?;
/// let mut context = TemplateContext::default();
/// context.disks.insert("ws".into(), "/home/fish-abcdef/ws".into());
/// assert_eq!(entry.render(&context)?, "/home/fish-abcdef/ws/init.sh");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    source: String,
}

impl Template {
    /// Checks the syntax.
    ///
    /// # Errors
    ///
    /// For what is not the language, for unknown functions, and for templates that would take too long.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if has_actions(text) {
            compile(text, &Arc::new(AtomicUsize::new(0)))?;
        } else if text.len() > MAX_OUTPUT {
            return Err(TemplateError::TooBig { what: "more than 1 MB of text" });
        }
        Ok(Self { source: text.to_owned() })
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Fills the template in.
    ///
    /// # Errors
    ///
    /// For an unknown disk or field (also where this run would not have come to it), and when a bound is reached.
    pub fn render(&self, context: &TemplateContext) -> Result<String, TemplateError> {
        if !has_actions(&self.source) {
            return Ok(self.source.clone());
        }
        let work = Arc::new(AtomicUsize::new(0));
        let template = compile(&self.source, &work)?;
        template_walk::check_names(&template, |disk| context.disks.contains_key(disk))?;

        let disks = context.disks.iter().map(|(k, v)| (Arc::from(k.as_str()), Value::String(v.as_str().into())));
        let data = Value::Map(Arc::new(BTreeMap::from([
            (Arc::from("Disks"), Value::Map(Arc::new(disks.collect()))),
            (Arc::from("User"), Value::String(context.user.as_str().into())),
        ])));
        let mut output = Bounded { text: String::new(), full: false };
        let result = template.execute_fmt(&mut output, &data);
        if output.full {
            return Err(TemplateError::TooBig { what: "more than 1 MB of output" });
        }
        match result {
            Ok(()) => Ok(output.text),
            Err(error) => Err(from_engine(error)),
        }
    }
}

impl Default for Template {
    /// The workload of a label that names none.
    fn default() -> Self {
        Self { source: "./init.sh".to_owned() }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.source)
    }
}

impl FromStr for Template {
    type Err = TemplateError;
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;
    fn try_from(text: String) -> Result<Self, TemplateError> {
        Self::parse(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.source
    }
}

fn has_actions(text: &str) -> bool {
    text.contains("{{")
}

/// Takes what it is given up to the bound, then refuses.
struct Bounded {
    text: String,
    full: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.text.len() + part.len() > MAX_OUTPUT {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

fn compile(text: &str, work: &Arc<AtomicUsize>) -> Result<gotmpl::Template, TemplateError> {
    if text.len() > MAX_SOURCE {
        return Err(TemplateError::TooBig { what: "more than 64 KB of template" });
    }
    if text.matches("else").nth(MAX_ELSE).is_some() {
        return Err(TemplateError::TooBig { what: "more than 100 times `else`" });
    }
    let mut template =
        gotmpl::Template::new(template_walk::ROOT).missing_key(MissingKey::Error).max_range_iters(MAX_ROUNDS);
    for name in ["print", "printf", "println", "html", "js", "urlquery", "slice"] {
        let work = Arc::clone(work);
        template = template.func(name, move |args| bounded_builtin(name, args, &work));
    }
    template = template.func("index", strict_index);
    let template = template.parse(text).map_err(from_engine)?;
    template_walk::check_steps(&template)?;
    ends_where_the_text_does(text)?;
    Ok(template)
}

/// The engine takes an `{{end}}` too many for the end of the template and drops what follows. So the text is parsed
/// once more with a mark behind it, which must come out as the last piece.
fn ends_where_the_text_does(text: &str) -> Result<(), TemplateError> {
    const MARK: &str = "\u{1}end of template\u{1}";
    let marked = gotmpl::Template::new(template_walk::ROOT).parse(&format!("{text}{MARK}")).map_err(from_engine)?;
    if template_walk::ends_with(&marked, MARK) {
        return Ok(());
    }
    Err(TemplateError::Syntax {
        line: 1,
        column: 1,
        message: "an {{end}} or {{else}} without its beginning".to_owned(),
    })
}

fn from_engine(error: gotmpl::TemplateError) -> TemplateError {
    use gotmpl::TemplateError as Engine;
    match error {
        Engine::Parse { line, col, message, .. } | Engine::Lex { line, col, message, .. } => {
            TemplateError::Syntax { line, column: col, message: crate::names::shorten(&message) }
        }
        Engine::MissingKey { key } => TemplateError::UnknownDisk { name: crate::names::shorten(&key) },
        Engine::RangeIterLimit => TemplateError::TooBig { what: "more than 1000 rounds of `range`" },
        Engine::RecursionLimit => TemplateError::TooBig { what: "nested too deep" },
        other => match other.to_string() {
            message if message.contains(OVER_BUDGET) => TemplateError::TooBig { what: OVER_BUDGET },
            message => TemplateError::Failed { message: crate::names::shorten(&message) },
        },
    }
}

const OVER_BUDGET: &str = "its functions make more than 8 MB of text";

/// Runs the engine's own function inside a template of its own, after a check of how much it could make.
///
/// The engine does not give out its functions, but a one-line template that calls one with the arguments as data
/// is the same call.
fn bounded_builtin(name: &str, args: &[Value], work: &AtomicUsize) -> gotmpl::Result<Value> {
    let over = || gotmpl::TemplateError::Exec(OVER_BUDGET.to_owned());
    if name == "slice" {
        spend(work, args.first().map_or(0, text_size)).ok_or_else(over)?;
        let bound = |at: usize| match args.get(at) {
            None => Ok(None),
            Some(value) => value
                .as_int()
                .map(Some)
                .ok_or_else(|| gotmpl::TemplateError::Exec("slice: an index must be a number".to_owned())),
        };
        return match args.first() {
            Some(value) if args.len() <= 3 => value.slice(bound(1)?, bound(2)?),
            _ => Err(gotmpl::TemplateError::Exec("slice: expected a text or list and up to two indexes".to_owned())),
        };
    }
    let size = args.iter().map(text_size).fold(0usize, usize::saturating_add);
    // The engine cuts widths off at 65535, so each verb can make at most that much more than its argument has.
    let verbs = match (name, args.first().and_then(Value::as_str)) {
        ("printf", Some(format)) => format.matches('%').count(),
        _ => 0,
    };
    // The worst growth is `js`, six for one; 100 of such verbs is what fits.
    let worst = size.saturating_mul(6).saturating_add(verbs.saturating_mul(65_536));
    if worst > MAX_WORK || args.len() > 64 {
        return Err(over());
    }
    let list: String = (0..args.len()).map(|i| format!(" (index . {i})")).collect();
    let call = gotmpl::Template::new(name).parse(&format!("{{{{{name}{list}}}}}"))?;
    let text = call.execute_to_string(&Value::List(args.to_vec().into()))?;
    spend(work, text.len()).ok_or_else(over)?;
    Ok(Value::String(text.into()))
}

fn spend(work: &AtomicUsize, amount: usize) -> Option<()> {
    // A call costs something even when it makes nothing.
    let amount = amount.saturating_add(64);
    (work.fetch_add(amount, Ordering::Relaxed).saturating_add(amount) <= MAX_WORK).then_some(())
}

fn text_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::List(items) => items.iter().map(text_size).fold(2, usize::saturating_add),
        Value::Map(map) => map.iter().map(|(k, v)| k.len() + 1 + text_size(v)).fold(5, usize::saturating_add),
        _ => 32,
    }
}

fn strict_index(args: &[Value]) -> gotmpl::Result<Value> {
    let Some((value, keys)) = args.split_first() else {
        return Err(gotmpl::TemplateError::Exec("index: expected a value".to_owned()));
    };
    let mut found = value.clone();
    for key in keys {
        if let (Value::Map(map), Some(name)) = (&found, key.as_str()) {
            let next = map.get(name).cloned();
            found = next.ok_or_else(|| gotmpl::TemplateError::MissingKey { key: name.to_owned() })?;
        } else {
            found = found.index(key)?;
        }
    }
    Ok(found)
}
