//! A JSON Schema as a page for people: one table for each thing that has fields.

use std::fmt::Write as _;

use anyhow::Context;
use serde_json::{Map, Value};

/// A heading, and the name of the definition whose fields are listed below it.
pub(crate) type Section = (&'static str, &'static str);

/// The page. Its text comes before the tables.
pub(crate) fn page(text: &str, schema: &str, sections: &[Section]) -> anyhow::Result<String> {
    let schema: Value = serde_json::from_str(schema).context("the schema is no JSON")?;
    let mut page = text.to_owned();
    for (heading, name) in sections {
        let definition = &schema["$defs"][name];
        // Something that may also be null is the other of its two alternatives.
        let definition = definition["anyOf"].get(1).unwrap_or(definition);
        let fields = definition["properties"].as_object().with_context(|| format!("{name} has no fields"))?;
        let required: Vec<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !heading.is_empty() {
            // A string takes every write.
            let _ = write!(page, "\n## {heading}\n");
        }
        page.push_str("\n| field | value | meaning |\n| --- | --- | --- |\n");
        for (field, about) in fields {
            let must = if required.contains(&field.as_str()) { ", required" } else { "" };
            let meaning = meaning(about);
            let _ = writeln!(page, "| `{field}` | {}{must} | {meaning} |", value(about));
        }
    }
    Ok(page)
}

fn meaning(about: &Value) -> String {
    let text = about["description"].as_str().unwrap_or_default();
    let text = match about["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        Some(name) if text.is_empty() => format!("See [{name}](#{name})"),
        _ => text.to_owned(),
    };
    text.replace('|', "\\|")
}

/// What may stand there, in a word or as the list of words.
fn value(about: &Value) -> String {
    if let Some(words) = about["enum"].as_array() {
        let words = words.iter().filter(|w| !w.is_null());
        let shown = words.map(|w| w.as_str().map_or_else(|| w.to_string(), quoted));
        return shown.map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" ");
    }
    let one = |name: &str| -> String {
        match name {
            "string" => "text".to_owned(),
            "integer" => range(about).map_or_else(|| "number".to_owned(), |range| format!("number{range}")),
            "boolean" => "`true` `false`".to_owned(),
            "array" => "list".to_owned(),
            "object" => "mapping".to_owned(),
            other => other.to_owned(),
        }
    };
    let words: Vec<String> = match &about["type"] {
        Value::String(name) => vec![one(name)],
        Value::Array(names) => names.iter().filter_map(Value::as_str).filter(|n| *n != "null").map(one).collect(),
        _ if about.get("$ref").is_some() => vec!["mapping".to_owned()],
        _ => vec!["anything".to_owned()],
    };
    words.join(" or ")
}

fn quoted(word: &str) -> String {
    if word.is_empty() { "\"\"".to_owned() } else { word.to_owned() }
}

/// The least value, where it says something: a type's own bounds do not.
fn range(about: &Value) -> Option<String> {
    let about: &Map<String, Value> = about.as_object()?;
    let least = about.get("minimum")?.as_i64()?;
    (least > i64::from(i32::MIN)).then(|| format!(" from {least}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_a_row() {
        let schema = r##"{"$defs": {
            "a": {"properties": {"b": {"$ref": "#/$defs/b"}, "n": {"type": ["integer", "null"], "minimum": 1,
                "description": "How many"}}, "required": ["b"]},
            "b": {"anyOf": [{"type": "null"}, {"properties": {"w": {"enum": ["x", "", false, null],
                "description": "x|y"}}}]}
        }}"##;
        let page = page("# T\n", schema, &[("", "a"), ("b", "b")]).unwrap();
        assert!(page.starts_with("# T\n\n| field | value | meaning |\n"), "{page}");
        assert!(page.contains("| `b` | mapping, required | See [b](#b) |\n"), "{page}");
        assert!(page.contains("| `n` | number from 1 | How many |\n"), "{page}");
        assert!(page.contains("\n## b\n"), "{page}");
        assert!(page.contains("| `w` | `x` `\"\"` `false` | x\\|y |\n"), "{page}");
        assert!(super::page("", schema, &[("", "none")]).is_err());
    }
}
