//! Typed access to a tree, collecting problems: every getter either gives a value or says what was expected, where.

use crate::problem::{Problem, Severity, Source};
use crate::tree::{Fault, Key, Node, Pos, Yaml};
use std::fmt::Display;
use std::str::FromStr;

/// More problems than anybody reads; bounds the memory that a hostile file can take.
const MAX_PROBLEMS: usize = 500;

#[derive(Debug)]
pub(crate) struct Reader<'s> {
    file: &'s str,
    pub(crate) problems: Vec<Problem>,
}

/// A mapping of the file and its path.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'n> {
    pub(crate) pos: Pos,
    pub(crate) path: String,
    pub(crate) entries: &'n [(Key, Node)],
}

/// A value of the file and its path.
#[derive(Debug, Clone)]
pub(crate) struct Field<'n> {
    pub(crate) path: String,
    pub(crate) node: &'n Node,
}

/// `a.b`, or `a["odd key"]` where a plain path could not be read back.
pub(crate) fn join(path: &str, key: &str) -> String {
    let simple = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/'));
    match (path.is_empty(), simple) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{:?}]", crate::names::shorten(key)),
    }
}

impl<'n> Fields<'n> {
    /// The value of a key. A null is the same as no key, as in Go.
    pub(crate) fn get(&self, key: &str) -> Option<Field<'n>> {
        let (_, node) = self.entries.iter().find(|(k, _)| k.text == key)?;
        match node.value {
            Yaml::Null => None,
            _ => Some(Field { path: join(&self.path, key), node }),
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(k, _)| k.text == key)
    }

    pub(crate) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

impl Field<'_> {
    pub(crate) fn pos(&self) -> Pos {
        self.node.pos
    }
}

/// What a mapping may hold.
pub(crate) struct Known<'a> {
    /// Fields that are read.
    pub(crate) fields: &'a [&'a str],
    /// Fields that are accepted without effect, and why.
    pub(crate) ignored: &'a [(&'a str, &'a str)],
    /// Wrong names that people write, and what to write instead.
    pub(crate) instead: &'a [(&'a str, &'a str)],
}

impl<'s> Reader<'s> {
    pub(crate) fn new(src: &Source<'s>, faults: Vec<Fault>) -> Self {
        let mut reader = Self { file: src.name, problems: Vec::new() };
        for fault in faults {
            reader.push(fault.pos, "", fault.message, fault.hint, Severity::Error);
        }
        reader
    }

    fn push(&mut self, pos: Pos, field: &str, message: String, hint: Option<String>, severity: Severity) {
        // Warnings stop earlier, so that they can never crowd out the error that makes the file unusable.
        let room = if severity == Severity::Error { MAX_PROBLEMS } else { MAX_PROBLEMS / 2 };
        if self.problems.len() < room {
            let file = self.file.to_owned();
            let field = field.to_owned();
            self.problems.push(Problem { file, line: pos.line, column: pos.column, field, message, hint, severity });
        }
    }

    pub(crate) fn error(&mut self, pos: Pos, field: &str, message: impl Display, hint: Option<&str>) {
        self.push(pos, field, message.to_string(), hint.map(str::to_owned), Severity::Error);
    }

    pub(crate) fn warn(&mut self, pos: Pos, field: &str, message: impl Display, hint: Option<&str>) {
        self.push(pos, field, message.to_string(), hint.map(str::to_owned), Severity::Warning);
    }

    /// The value was of another kind than expected.
    fn expected(&mut self, field: &Field<'_>, expected: &str, hint: Option<&str>) {
        let found = describe(&field.node.value);
        self.error(field.pos(), &field.path, format!("expected {expected}, found {found}"), hint);
    }

    pub(crate) fn mapping<'n>(&mut self, field: &Field<'n>, hint: Option<&str>) -> Option<Fields<'n>> {
        match &field.node.value {
            Yaml::Map(entries) => Some(Fields { pos: field.pos(), path: field.path.clone(), entries }),
            _ => {
                self.expected(field, "a mapping", hint);
                None
            }
        }
    }

    pub(crate) fn list<'n>(&mut self, field: &Field<'n>, hint: Option<&str>) -> Option<Vec<Field<'n>>> {
        let Yaml::Seq(items) = &field.node.value else {
            self.expected(field, "a list", hint);
            return None;
        };
        let name = |index| format!("{}[{index}]", field.path);
        Some(items.iter().enumerate().map(|(index, node)| Field { path: name(index), node }).collect())
    }

    pub(crate) fn text(&mut self, field: &Field<'_>) -> Option<String> {
        let text = match &field.node.value {
            Yaml::Str(text) => text,
            Yaml::Int(text, _) | Yaml::Float(text) => {
                let hint = format!("put it in quotes: \"{}\"", crate::names::shorten(text));
                self.expected(field, "a text", Some(&hint));
                return None;
            }
            Yaml::Bool(value) => {
                self.expected(field, "a text", Some(&format!("put it in quotes: \"{value}\"")));
                return None;
            }
            _ => {
                self.expected(field, "a text", None);
                return None;
            }
        };
        if text.contains('\0') {
            self.error(field.pos(), &field.path, "the text has a NUL character", Some("remove it"));
            return None;
        }
        Some(text.clone())
    }

    /// A text of a type of its own; an empty text counts as not given.
    pub(crate) fn parsed<T>(&mut self, field: Option<Field<'_>>, hint: Option<&str>) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let field = field?;
        let text = self.text(&field)?;
        if text.is_empty() { None } else { self.parse_text(&field, &text, hint) }
    }

    pub(crate) fn parse_text<T>(&mut self, field: &Field<'_>, text: &str, hint: Option<&str>) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(field.pos(), &field.path, error, hint);
                None
            }
        }
    }

    pub(crate) fn flag(&mut self, fields: &Fields<'_>, key: &str) -> bool {
        let Some(field) = fields.get(key) else { return false };
        match &field.node.value {
            Yaml::Bool(value) => return *value,
            Yaml::Str(text) => {
                let hint = match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "true" => Some("write `true`, without quotes"),
                    "no" | "off" | "n" | "false" => Some("write `false`, without quotes"),
                    _ => None,
                };
                self.expected(&field, "true or false", hint);
            }
            Yaml::Int(text, _) if text == "1" => self.expected(&field, "true or false", Some("write `true`")),
            Yaml::Int(text, _) if text == "0" => self.expected(&field, "true or false", Some("write `false`")),
            _ => self.expected(&field, "true or false", None),
        }
        false
    }

    /// A whole number in a range; `unit` is for the message (`GB`, `threads`).
    pub(crate) fn number(&mut self, field: &Field<'_>, unit: &str, least: i128, most: i128) -> Option<i128> {
        let kind = format!("a whole number{unit}");
        match &field.node.value {
            Yaml::Int(_, Some(value)) if (least..=most).contains(value) => Some(*value),
            Yaml::Int(text, value) => {
                let shown = crate::names::shorten(text);
                let below = value.map_or(text.starts_with('-'), |value| value < least);
                let message = if below && least == 0 {
                    format!("{shown} is negative")
                } else if below {
                    format!("{shown} is less than {least}, the least possible value")
                } else {
                    format!("{shown} is more than {most}, the greatest possible value")
                };
                self.error(field.pos(), &field.path, message, None);
                None
            }
            Yaml::Float(_) => {
                self.expected(field, &kind, Some("leave out the point and the exponent"));
                None
            }
            Yaml::Str(text) if text.parse::<i128>().is_ok() => {
                self.expected(field, &kind, Some(&format!("leave out the quotes: {}", crate::names::shorten(text))));
                None
            }
            Yaml::Str(text) => {
                let digits: String = text.chars().take_while(char::is_ascii_digit).take(10).collect();
                let hint = (!digits.is_empty()).then(|| format!("write the number alone: {digits}"));
                self.expected(field, &kind, hint.as_deref());
                None
            }
            _ => {
                self.expected(field, &kind, None);
                None
            }
        }
    }

    pub(crate) fn u32(&mut self, fields: &Fields<'_>, key: &str, unit: &str, least: u32) -> Option<u32> {
        let field = fields.get(key)?;
        let value = self.number(&field, unit, i128::from(least), i128::from(u32::MAX))?;
        u32::try_from(value).ok()
    }

    /// A list of texts; one text alone gets a hint.
    pub(crate) fn texts<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Vec<(Field<'n>, String)> {
        let Some(field) = fields.get(key) else { return Vec::new() };
        let hint = match &field.node.value {
            Yaml::Str(text) => Some(format!("write a list: [{:?}]", crate::names::shorten(text))),
            _ => None,
        };
        let Some(items) = self.list(&field, hint.as_deref()) else { return Vec::new() };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            if let Some(text) = self.text(&item) {
                texts.push((item, text));
            }
        }
        texts
    }

    /// Says what does not belong into a mapping.
    pub(crate) fn unknown(&mut self, fields: &Fields<'_>, known: &Known<'_>) {
        for (key, _) in fields.entries {
            if known.fields.contains(&key.text.as_str()) {
                continue;
            }
            if self.problems.len() >= MAX_PROBLEMS {
                return;
            }
            let path = fields.path_of(&key.text);
            if let Some((_, why)) = known.ignored.iter().find(|(name, _)| *name == key.text) {
                self.warn(key.pos, &path, why, None);
                continue;
            }
            let lower = key.text.to_ascii_lowercase();
            let instead = known.instead.iter().find(|(name, _)| *name == lower).map(|(_, hint)| (*hint).to_owned());
            let near =
                || nearest(&key.text, known.fields.iter().copied()).map(|name| format!("did you mean `{name}`?"));
            let hint = instead
                .or_else(near)
                .or_else(|| (known.fields.len() <= 12).then(|| format!("known fields: {}", known.fields.join(", "))));
            let message = format!("unknown field `{}`", crate::names::shorten(&key.text));
            self.error(key.pos, &path, message, hint.as_deref());
        }
    }

    pub(crate) fn missing(&mut self, fields: &Fields<'_>, key: &str, hint: &str) {
        let path = fields.path_of(key);
        self.error(fields.pos, &path, format!("`{key}` is missing"), Some(hint));
    }
}

fn describe(value: &Yaml) -> String {
    match value {
        Yaml::Null => "nothing".to_owned(),
        Yaml::Bool(value) => format!("{value}"),
        Yaml::Int(text, _) => format!("the number {}", crate::names::shorten(text)),
        Yaml::Float(text) => format!("the number {}", crate::names::shorten(text)),
        Yaml::Str(text) if text.is_empty() => "an empty text".to_owned(),
        Yaml::Str(text) => format!("the text {:?}", crate::names::shorten(text)),
        Yaml::Seq(_) => "a list".to_owned(),
        Yaml::Map(_) => "a mapping".to_owned(),
    }
}

/// The known name that `text` was most likely meant to be.
pub(crate) fn nearest<'k>(text: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if text.len() > 64 {
        return None;
    }
    let plain = |s: &str| s.to_ascii_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(text);
    let best = known
        .map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), name))
        .min_by_key(|(distance, _)| *distance)?;
    // One slip in three letters is a typing error, more is another word.
    (best.0 * 3 <= wanted.len().max(3)).then_some(best.1)
}
