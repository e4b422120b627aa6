//! YAML (and with it JSON) as a tree in which every value and every key knows its place.
//!
//! The parser is `granit-parser`, which gives events with places and has nesting limits of its own. The tree is built
//! without recursion, and aliases are copied against a budget, so that a small text can't become a large tree.
//! Duplicate keys are errors that name both places; `<<` merges as YAML 1.1 and Go's YAML do it.

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::collections::HashMap;

/// The largest text that is read.
const MAX_TEXT: usize = 16 * 1024 * 1024;
/// The most values in a tree, copies made for aliases included.
const MAX_NODES: usize = 400_000;
/// The deepest nesting.
const MAX_DEPTH: usize = 64;
/// After so many duplicate keys one more is not told.
const MAX_DUPLICATES: usize = 100;

/// A place: line and column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pos {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Pos {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) pos: Pos,
    pub(crate) value: Yaml,
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) pos: Pos,
    pub(crate) text: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Yaml {
    Null,
    Bool(bool),
    /// A whole number as it was written, and its value if it fits.
    Int(String, Option<i128>),
    /// Any other number as it was written.
    Float(String),
    Str(String),
    Seq(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// Something that is wrong with the text itself.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) pos: Pos,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// What could be read: the tree when there is one, and what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) root: Option<Node>,
    pub(crate) faults: Vec<Fault>,
    /// The keys of the outermost mapping, also when the text breaks off later.
    pub(crate) top_keys: Vec<String>,
}

pub(crate) fn parse(text: &str) -> Tree {
    let mut builder = Builder::default();
    if text.len() > MAX_TEXT {
        builder.fault(Pos::START, "the file is longer than 16 MB".to_owned(), None);
        return builder.tree;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for item in Parser::new_from_str(text) {
        let (event, span) = match item {
            Ok(item) => item,
            Err(error) => {
                let pos = place(error.marker().line(), error.marker().col());
                let hint = syntax_hint(text, pos);
                builder.fault(pos, format!("not valid YAML: {}", error.info()), hint);
                builder.tree.root = None;
                return builder.tree;
            }
        };
        if builder.event(event, &span).is_none() {
            builder.tree.root = None;
            return builder.tree;
        }
    }
    builder.tree
}

fn place(line: usize, column_from_0: usize) -> Pos {
    let clamp = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Pos { line: clamp(line.max(1)), column: clamp(column_from_0.saturating_add(1)) }
}

/// The two mistakes that nearly every broken YAML file has.
fn syntax_hint(text: &str, pos: Pos) -> Option<String> {
    let line = text.lines().nth(pos.line as usize - 1)?;
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    if indent.contains('\t') {
        return Some("YAML is indented with blanks, not with tabs".to_owned());
    }
    let value = line.split_once(": ").map_or("", |(_, value)| value.trim_start());
    if value.starts_with("{{") || value.starts_with('%') || value.starts_with('@') || value.starts_with('`') {
        return Some("put the value in quotes: \"{{ ... }}\"".to_owned());
    }
    None
}

/// A collection that is not closed yet.
enum Open {
    Seq(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, places: HashMap<String, Pos>, key: Option<Key>, merges: Vec<Node> },
}

#[derive(Default)]
struct Builder {
    tree: Tree,
    stack: Vec<(Open, Pos, usize)>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: usize,
    duplicates: usize,
}

impl Builder {
    fn fault(&mut self, pos: Pos, message: String, hint: Option<String>) {
        self.tree.faults.push(Fault { pos, message, hint });
    }

    /// `None` ends the reading: what follows would be noise or too much.
    fn event(&mut self, event: Event<'_>, span: &Span) -> Option<()> {
        let pos = place(span.start.line(), span.start.col());
        let tag_pos = span.tag_start().map_or(pos, |mark| place(mark.line(), mark.col()));
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let hint = "one file holds one document: remove what follows `---`".to_owned();
                    self.fault(pos, "a second document starts here".to_owned(), Some(hint));
                    return None;
                }
                Some(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(tag_pos, &text, style, tag.as_deref());
                self.value(Node { pos, value }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection_tag(tag_pos, tag.as_deref(), "seq");
                self.open(Open::Seq(Vec::new()), pos, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection_tag(tag_pos, tag.as_deref(), "map");
                let map = Open::Map { entries: Vec::new(), places: HashMap::new(), key: None, merges: Vec::new() };
                self.open(map, pos, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id) else {
                    let hint = "an alias can't stand inside the value that it names".to_owned();
                    self.fault(pos, "this alias names a value that is not complete".to_owned(), Some(hint));
                    return None;
                };
                let size = *size;
                // Counted before it is copied.
                if self.nodes.saturating_add(size) > MAX_NODES {
                    self.too_many(pos);
                    return None;
                }
                let copy = Node { pos, value: node.value.clone() };
                self.value(copy, 0, size)
            }
            _ => Some(()),
        }
    }

    fn too_many(&mut self, pos: Pos) {
        self.fault(pos, format!("the file holds more than {MAX_NODES} values, aliases expanded"), None);
    }

    fn open(&mut self, open: Open, pos: Pos, anchor: usize) -> Option<()> {
        if self.stack.len() >= MAX_DEPTH {
            self.fault(pos, format!("nested deeper than {MAX_DEPTH} levels"), None);
            return None;
        }
        if let Some((Open::Map { key: None, .. }, outer, _)) = self.stack.last() {
            // What `entry: {{ .Disks.ws }}` is to YAML.
            let twice = matches!(open, Open::Map { .. }) && outer.line == pos.line && outer.column + 1 == pos.column;
            let hint = twice.then(|| "a value that starts with `{{` must stand in quotes: \"{{ ... }}\"".to_owned());
            let place = if twice { *outer } else { pos };
            self.fault(place, "a key must be a plain text, not a list or a mapping".to_owned(), hint);
            return None;
        }
        self.stack.push((open, pos, anchor));
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        let (open, pos, anchor) = self.stack.pop()?;
        let value = match open {
            Open::Seq(items) => Yaml::Seq(items),
            Open::Map { mut entries, mut places, merges, .. } => {
                for merge in merges {
                    self.merge(merge, &mut entries, &mut places);
                }
                Yaml::Map(entries)
            }
        };
        let node = Node { pos, value };
        let size = if anchor == 0 { 0 } else { count(&node) };
        self.nodes += 1;
        self.attach(node, anchor, size)
    }

    fn value(&mut self, node: Node, anchor: usize, size: usize) -> Option<()> {
        self.nodes = self.nodes.saturating_add(size);
        if self.nodes > MAX_NODES {
            self.too_many(node.pos);
            return None;
        }
        self.attach(node, anchor, size)
    }

    fn attach(&mut self, node: Node, anchor: usize, size: usize) -> Option<()> {
        if anchor != 0 {
            // An anchor costs a copy, so it counts as one.
            self.nodes = self.nodes.saturating_add(size);
            if self.nodes > MAX_NODES {
                self.too_many(node.pos);
                return None;
            }
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let outermost = self.stack.len() == 1;
        match self.stack.last_mut() {
            None => {
                self.tree.root = Some(node);
                Some(())
            }
            Some((Open::Seq(items), ..)) => {
                items.push(node);
                Some(())
            }
            Some((Open::Map { key: slot @ None, .. }, ..)) => {
                let text = match node.value {
                    Yaml::Str(text) | Yaml::Int(text, _) | Yaml::Float(text) => text,
                    Yaml::Bool(value) => value.to_string(),
                    Yaml::Null => "null".to_owned(),
                    Yaml::Seq(_) | Yaml::Map(_) => {
                        self.fault(node.pos, "a key must be a plain text".to_owned(), None);
                        return None;
                    }
                };
                if outermost {
                    self.tree.top_keys.push(text.clone());
                }
                *slot = Some(Key { pos: node.pos, text });
                Some(())
            }
            Some((Open::Map { entries, places, key, merges }, ..)) => {
                let key = key.take()?;
                if key.text == "<<" && matches!(node.value, Yaml::Map(_) | Yaml::Seq(_)) {
                    merges.push(node);
                    return Some(());
                }
                if let Some(first) = places.get(&key.text) {
                    let shown = crate::names::shorten(&key.text);
                    let message =
                        format!("`{shown}` is given twice, first at line {} column {}", first.line, first.column);
                    self.duplicates += 1;
                    if self.duplicates <= MAX_DUPLICATES {
                        let hint = Some("keep one of the two".to_owned());
                        self.tree.faults.push(Fault { pos: key.pos, message, hint });
                    }
                    return Some(());
                }
                places.insert(key.text.clone(), key.pos);
                entries.push((key, node));
                Some(())
            }
        }
    }

    /// The keys of the merged mapping that the mapping does not have itself.
    fn merge(&mut self, from: Node, entries: &mut Vec<(Key, Node)>, places: &mut HashMap<String, Pos>) {
        let list = match from.value {
            Yaml::Seq(items) => items,
            value => vec![Node { pos: from.pos, value }],
        };
        for item in list {
            let Yaml::Map(merged) = item.value else {
                self.fault(item.pos, "`<<` merges mappings only".to_owned(), None);
                continue;
            };
            for (key, node) in merged {
                if !places.contains_key(&key.text) {
                    places.insert(key.text.clone(), key.pos);
                    entries.push((key, node));
                }
            }
        }
    }

    fn collection_tag(&mut self, pos: Pos, tag: Option<&Tag>, expected: &str) {
        if let Some(tag) = tag
            && !tag.is_yaml_core_schema_tag(expected)
        {
            self.fault(pos, format!("the tag `{}` has no meaning here", tag.original()), None);
        }
    }

    fn scalar(&mut self, pos: Pos, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Yaml {
        if let Some(tag) = tag {
            let known = ["int", "float", "bool", "null"].into_iter().any(|name| tag.is_yaml_core_schema_tag(name));
            if known {
                return plain(text);
            }
            // `!` alone makes a text, as `!!str` does.
            if !tag.is_yaml_core_schema_tag("str") && tag.original() != "!" {
                self.fault(pos, format!("the tag `{}` has no meaning here", tag.original()), None);
            }
            return Yaml::Str(text.to_owned());
        }
        match style {
            ScalarStyle::Plain => plain(text),
            _ => Yaml::Str(text.to_owned()),
        }
    }
}

fn count(node: &Node) -> usize {
    // Recursion is fine: the tree is at most MAX_DEPTH deep.
    match &node.value {
        Yaml::Seq(items) => items.iter().map(count).sum::<usize>() + 1,
        Yaml::Map(entries) => entries.iter().map(|(_, node)| count(node) + 1).sum::<usize>() + 1,
        _ => 1,
    }
}

/// The core schema of YAML 1.2.
fn plain(text: &str) -> Yaml {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Yaml::Null,
        "true" | "True" | "TRUE" => return Yaml::Bool(true),
        "false" | "False" | "FALSE" => return Yaml::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Yaml::Float(text.to_owned()),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_digits = |s: &str, radix: u32| !s.is_empty() && s.chars().all(|c| c.is_digit(radix));
    if is_digits(unsigned, 10) {
        return Yaml::Int(text.to_owned(), text.parse().ok());
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && is_digits(digits, radix)
        {
            return Yaml::Int(text.to_owned(), i128::from_str_radix(digits, radix).ok());
        }
    }
    if is_float(unsigned) { Yaml::Float(text.to_owned()) } else { Yaml::Str(text.to_owned()) }
}

fn is_float(unsigned: &str) -> bool {
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let mantissa = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return false;
            }
            mantissa
        }
        None => unsigned,
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    (!whole.is_empty() || !part.is_empty()) && whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit())
}
