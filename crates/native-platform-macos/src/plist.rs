//! The little of Apple's property lists that `hdiutil` writes: dictionaries, arrays, strings, numbers and
//! booleans in XML. Anything else is skipped, nothing panics, and depth is bounded.

use std::collections::BTreeMap;

/// A value of a property list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `<dict>`.
    Dict(BTreeMap<String, Self>),
    /// `<array>`.
    Array(Vec<Self>),
    /// `<string>`, `<integer>`, `<real>`, `<data>`, `<date>`, as text.
    Text(String),
    /// `<true/>` and `<false/>`.
    Bool(bool),
}

impl Value {
    /// A dictionary's value.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Dict(map) => map.get(key),
            _ => None,
        }
    }

    /// A text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An array's values; none for anything else.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }
}

const DEEPEST: usize = 32;

/// Reads a document; `None` when it is none.
pub fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    loop {
        match reader.tag()? {
            Tag::Open("plist") => break,
            Tag::Open("dict" | "array" | "string") => return None,
            _ => {}
        }
    }
    let tag = reader.tag()?;
    reader.value(tag, 0)
}

enum Tag<'a> {
    Open(&'a str),
    Close(&'a str),
    Empty(&'a str),
    Other,
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn tag(&mut self) -> Option<Tag<'a>> {
        let (_, after) = self.rest.split_once('<')?;
        let (inside, rest) = after.split_once('>')?;
        self.rest = rest;
        let name = |text: &'a str| text.split_whitespace().next().unwrap_or_default();
        Some(match inside.as_bytes().first()? {
            b'?' | b'!' => Tag::Other,
            b'/' => Tag::Close(name(&inside[1..])),
            _ if inside.ends_with('/') => Tag::Empty(name(inside.trim_end_matches('/'))),
            _ => Tag::Open(name(inside)),
        })
    }

    fn value(&mut self, tag: Tag<'a>, depth: usize) -> Option<Value> {
        if depth > DEEPEST {
            return None;
        }
        match tag {
            Tag::Empty("true") => Some(Value::Bool(true)),
            Tag::Empty("false") => Some(Value::Bool(false)),
            Tag::Empty("dict") => Some(Value::Dict(BTreeMap::new())),
            Tag::Empty("array") => Some(Value::Array(Vec::new())),
            Tag::Empty(_) => Some(Value::Text(String::new())),
            Tag::Open("dict") => {
                let mut map = BTreeMap::new();
                loop {
                    match self.tag()? {
                        Tag::Close("dict") => return Some(Value::Dict(map)),
                        Tag::Open("key") => {
                            let key = self.text("key")?;
                            let tag = self.tag()?;
                            map.insert(key, self.value(tag, depth + 1)?);
                        }
                        _ => return None,
                    }
                }
            }
            Tag::Open("array") => {
                let mut items = Vec::new();
                loop {
                    match self.tag()? {
                        Tag::Close("array") => return Some(Value::Array(items)),
                        tag => items.push(self.value(tag, depth + 1)?),
                    }
                }
            }
            Tag::Open(name) => self.text(name).map(Value::Text),
            Tag::Close(_) | Tag::Other => None,
        }
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let (text, rest) = self.rest.split_once('<')?;
        let rest = rest.strip_prefix('/')?.strip_prefix(name)?.strip_prefix('>')?;
        self.rest = rest;
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
        Some(text.replace("&amp;", "&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_hdiutil_writes() {
        let text = "<?xml version=\"1.0\"?>\n<!DOCTYPE plist PUBLIC \"x\" \"y\">\n<plist version=\"1.0\">\n<dict>\
            <key>images</key><array><dict><key>image-path</key><string>/a &amp; b</string><key>removable</key><true/>\
            <key>system-entities</key><array/><key>n</key><integer>4</integer></dict></array></dict></plist>";
        let value = parse(text).unwrap();
        let image = &value.get("images").unwrap().items()[0];
        assert_eq!(image.get("image-path").and_then(Value::text), Some("/a & b"));
        assert_eq!(image.get("removable"), Some(&Value::Bool(true)));
        assert_eq!(image.get("n").and_then(Value::text), Some("4"));
    }

    #[test]
    fn refuses_what_is_none() {
        for bad in
            ["", "plist", "<plist>", "<plist><dict>", "<plist><dict><key>a</key></dict></plist>", "<dict></dict>"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let deep = format!("<plist>{}", "<array>".repeat(100_000));
        assert_eq!(parse(&deep), None);
    }
}
