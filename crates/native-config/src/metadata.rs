//! Metadata: nested values as they were written, and the process environment that they become.

use crate::problem::{Checked, Source};
use crate::tree::{Node, Yaml};
use crate::{Template, TemplateContext, TemplateError};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Ordered nested values. Numbers are kept as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub(crate) entries: Vec<(String, Value)>,
}

/// One value of metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// Why metadata gives no process environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Not `KEY=VALUE`.
    #[error("{text:?} is not KEY=VALUE")]
    NotAPair {
        /// The text.
        text: String,
    },
    /// Nothing is left of a key without the characters that a variable can't have.
    #[error("the key {key:?} leaves no name for a variable (letters, digits and `_`, no digit first)")]
    EmptyName {
        /// The key with its parents, `a.b`.
        key: String,
    },
    /// Two keys that are the same variable.
    #[error("the keys {first:?} and {second:?} are both the variable {variable}")]
    Collision {
        /// The first key.
        first: String,
        /// The second key.
        second: String,
        /// The name they share.
        variable: String,
    },
    /// A variable ends at a NUL.
    #[error("the value of {key:?} has a NUL character, which a variable can't hold")]
    Nul {
        /// The key.
        key: String,
    },
    /// A variable that steers the loader or the shell instead of the workload.
    #[error("the key {key:?} would set {variable}, which changes how every program starts")]
    Forbidden {
        /// The key.
        key: String,
        /// The variable.
        variable: String,
    },
    /// The whole is more than a process can be given.
    #[error("all values together have more than 1 MB")]
    TooBig,
    /// A value's template.
    #[error("the value of {key:?}: {source}")]
    Template {
        /// The key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: TemplateError,
    },
}

impl MetadataError {
    /// The flattened key that the error is about.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::EmptyName { key } | Self::Nul { key } | Self::Forbidden { key, .. } | Self::Template { key, .. } => {
                Some(key)
            }
            Self::Collision { second, .. } => Some(second),
            Self::NotAPair { .. } | Self::TooBig => None,
        }
    }
}

impl Metadata {
    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads a file that holds one mapping, YAML or JSON.
    pub fn parse_file(src: &Source<'_>) -> Checked<Self> {
        crate::label_read::metadata_file(src)
    }

    /// Takes `KEY=VALUE` pairs; of two equal keys the later counts, as on any command line.
    ///
    /// # Errors
    ///
    /// For a text without `=`, or with nothing before it.
    pub fn from_pairs<I, S>(pairs: I) -> Result<Self, MetadataError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut entries: Vec<(String, Value)> = Vec::new();
        for pair in pairs {
            let pair = pair.as_ref();
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(MetadataError::NotAPair { text: crate::names::shorten(pair) });
            };
            entries.retain(|(earlier, _)| earlier != key);
            entries.push((key.to_owned(), Value::Text(value.to_owned())));
        }
        Ok(Self { entries })
    }

    /// This metadata with `over` laid on top: nested mappings merge key by key, everything else is replaced.
    #[must_use]
    pub fn merged_with(&self, over: &Self) -> Self {
        Self { entries: merge(&self.entries, &over.entries) }
    }

    pub(crate) fn from_node(node: &Node) -> Option<Self> {
        match value(node) {
            Value::Map(entries) => Some(Self { entries }),
            Value::Null => Some(Self::default()),
            _ => None,
        }
    }
}

fn value(node: &Node) -> Value {
    match &node.value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(*value),
        Yaml::Int(text, _) | Yaml::Float(text) => Value::Number(text.clone()),
        Yaml::Str(text) => Value::Text(text.clone()),
        Yaml::Seq(items) => Value::List(items.iter().map(value).collect()),
        Yaml::Map(entries) => Value::Map(entries.iter().map(|(k, v)| (k.text.clone(), value(v))).collect()),
    }
}

fn merge(under: &[(String, Value)], over: &[(String, Value)]) -> Vec<(String, Value)> {
    let mut merged = under.to_vec();
    let places: BTreeMap<&str, usize> = under.iter().enumerate().map(|(i, (key, _))| (key.as_str(), i)).collect();
    for (key, value) in over {
        match (places.get(key.as_str()), value) {
            (Some(&at), Value::Map(upper)) => {
                merged[at].1 = match &merged[at].1 {
                    Value::Map(lower) => Value::Map(merge(lower, upper)),
                    _ => value.clone(),
                };
            }
            (Some(&at), _) => merged[at].1 = value.clone(),
            (None, _) => merged.push((key.clone(), value.clone())),
        }
    }
    merged
}

/// All variables together. Linux takes 128 KB for each of them, and a quarter of the stack limit for all.
const MAX_ENVIRONMENT: usize = 1_000_000 + 4_096;

/// Variables that the loader, a shell or an interpreter obeys before the workload's first instruction.
const FORBIDDEN: &[&str] = &["BASH_ENV", "IFS", "SHELLOPTS", "BASHOPTS", "GLIBC_TUNABLES", "GCONV_PATH"];

/// The variable of a flattened key: `.` becomes `_`, what a name can't have drops out, digits at the front too.
fn variable_name(key: &str) -> String {
    let kept: String = key
        .chars()
        .map(|c| if c == '.' { '_' } else { c })
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    kept.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned()
}

fn is_forbidden(variable: &str) -> bool {
    variable.starts_with("LD_")
        || variable.starts_with("DYLD_")
        || variable.starts_with("BASH_FUNC_")
        || FORBIDDEN.contains(&variable)
}

/// The process environment that metadata gives a workload: the label's over the application's, flattened, with every
/// text filled in as a template. In the order in which the keys were first written.
///
/// # Errors
///
/// For keys that leave no name or collide, for NUL, for variables that steer the loader or the shell, for templates
/// that fail, and when all of it together is more than 1 MB.
pub fn environment(
    application: &Metadata,
    label: &Metadata,
    context: &TemplateContext,
) -> Result<Vec<(String, String)>, MetadataError> {
    let merged = application.merged_with(label);
    let mut failed = None;
    let variables = variables(&merged, context, &mut |error| {
        failed = Some(error);
        false
    });
    failed.map_or(Ok(variables), Err)
}

/// Every error that [`environment`] could stop at, for one metadata alone.
pub(crate) fn check(metadata: &Metadata, context: &TemplateContext) -> Vec<MetadataError> {
    let mut errors = Vec::new();
    variables(metadata, context, &mut |error| {
        errors.push(error);
        errors.len() < 100
    });
    errors
}

/// Makes the variables; `on_error` says whether to go on with the next one.
fn variables(
    metadata: &Metadata,
    context: &TemplateContext,
    on_error: &mut dyn FnMut(MetadataError) -> bool,
) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    flatten("", &metadata.entries, &mut flat);
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let mut variables = Vec::with_capacity(flat.len());
    let mut size = 0usize;
    for (key, value) in flat {
        match variable(key, value, context, &mut keys) {
            Ok((name, text)) => {
                size = size.saturating_add(name.len()).saturating_add(text.len()).saturating_add(2);
                if size > MAX_ENVIRONMENT {
                    on_error(MetadataError::TooBig);
                    return variables;
                }
                variables.push((name, text));
            }
            Err(error) => {
                if !on_error(error) {
                    return variables;
                }
            }
        }
    }
    variables
}

fn variable(
    key: String,
    value: &Value,
    context: &TemplateContext,
    keys: &mut BTreeMap<String, String>,
) -> Result<(String, String), MetadataError> {
    let variable = variable_name(&key);
    if variable.is_empty() {
        return Err(MetadataError::EmptyName { key });
    }
    if is_forbidden(&variable) {
        return Err(MetadataError::Forbidden { key, variable });
    }
    if let Some(first) = keys.insert(variable.clone(), key.clone()) {
        return Err(MetadataError::Collision { first, second: key, variable });
    }
    let text = render(&key, value, context)?;
    if text.contains('\0') {
        return Err(MetadataError::Nul { key });
    }
    Ok((variable, text))
}

/// Mappings become keys with dots; an empty mapping gives nothing. A list is one value.
fn flatten<'m>(prefix: &str, entries: &'m [(String, Value)], flat: &mut Vec<(String, &'m Value)>) {
    for (key, value) in entries {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Map(inner) => flatten(&key, inner, flat),
            other => flat.push((key, other)),
        }
    }
}

fn render(key: &str, value: &Value, context: &TemplateContext) -> Result<String, MetadataError> {
    let fill = |text: &str| {
        Template::parse(text)
            .and_then(|template| template.render(context))
            .map_err(|source| MetadataError::Template { key: key.to_owned(), source })
    };
    Ok(match value {
        Value::Text(text) => fill(text)?,
        Value::List(items) => {
            let items = items.iter().map(|item| fill_list(item, &fill)).collect::<Result<Vec<_>, _>>()?;
            json(&Value::List(items))
        }
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(text) => text.clone(),
        Value::Map(_) => json(value),
    })
}

/// Texts inside a list are filled in before they are quoted, so that the result stays JSON.
fn fill_list(value: &Value, fill: &impl Fn(&str) -> Result<String, MetadataError>) -> Result<Value, MetadataError> {
    Ok(match value {
        Value::Text(text) => Value::Text(fill(text)?),
        Value::List(items) => Value::List(items.iter().map(|item| fill_list(item, fill)).collect::<Result<_, _>>()?),
        Value::Map(entries) => Value::Map(
            entries.iter().map(|(k, v)| Ok((k.clone(), fill_list(v, fill)?))).collect::<Result<_, MetadataError>>()?,
        ),
        other => other.clone(),
    })
}

/// JSON without blanks. Numbers stay as written where JSON can hold them, else they become texts.
fn json(value: &Value) -> String {
    let mut out = String::new();
    write_json(value, &mut out);
    out
}

fn write_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Number(text) if serde_json::from_str::<serde_json::Number>(text).is_ok() => out.push_str(text),
        Value::Number(text) | Value::Text(text) => write_json_text(text, out),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_json(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_json_text(key, out);
                out.push(':');
                write_json(item, out);
            }
            out.push('}');
        }
    }
}

fn write_json_text(text: &str, out: &mut String) {
    // A text always serialises; the fallback keeps this free of panics.
    out.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_map(&self.entries, serializer)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            // As a number only where no digit is lost.
            Self::Number(text) => match text.parse::<i64>() {
                Ok(value) if value.to_string() == *text => serializer.serialize_i64(value),
                _ => serializer.serialize_str(text),
            },
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Map(entries) => serialize_map(entries, serializer),
        }
    }
}

fn serialize_map<S: Serializer>(entries: &[(String, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (key, value) in entries {
        map.serialize_entry(key, value)?;
    }
    map.end()
}
