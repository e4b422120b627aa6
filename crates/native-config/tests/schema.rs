//! The JSON Schemas against the examples. The checker knows the words that the schemas use and fails for any other, so
//! that it can't pass what it did not look at.

use native_config::{Source, Target, json_schema_config, json_schema_label, parse_label};
use serde_json::{Value, json};

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    }
}

/// The few regular expressions of the schemas, by hand.
fn matches(pattern: &str, text: &str) -> bool {
    let name = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c))
    };
    match pattern {
        "^[A-Za-z0-9][A-Za-z0-9._-]*$" => name(text, ""),
        "^([A-Za-z0-9][A-Za-z0-9._+-]*)?$" => text.is_empty() || name(text, "+"),
        "^native(/[A-Za-z0-9][A-Za-z0-9._-]*)?$" => {
            text == "native" || text.strip_prefix("native/").is_some_and(|rest| name(rest, ""))
        }
        "^native(/|$)" => text == "native" || text.starts_with("native/"),
        "^[hH][tT][tT][pP][sS]?://" => text.starts_with("http://") || text.starts_with("https://"),
        "^(/.*)?$" => text.is_empty() || text.starts_with('/'),
        "[A-Za-z]$" => text.ends_with(|c: char| c.is_ascii_alphabetic()),
        sum if sum.starts_with("^(|md5:") => text.is_empty() || text.parse::<native_config::Checksum>().is_ok(),
        other => panic!("pattern {other}"),
    }
}

fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(words) = schema.as_object() else { return schema.as_bool().unwrap_or(true) };
    let all =
        |list: &Value, value: &Value| list.as_array().is_some_and(|list| list.iter().any(|s| valid(root, s, value)));
    words.iter().all(|(word, rule)| match word.as_str() {
        "$schema" | "$defs" | "title" | "description" | "then" | "else" => true,
        "$ref" => {
            let path = rule.as_str().and_then(|path| path.strip_prefix('#')).expect("a local reference");
            valid(root, root.pointer(path).expect(path), value)
        }
        "type" => match rule {
            Value::String(name) => is_type(value, name),
            Value::Array(names) => names.iter().any(|name| is_type(value, name.as_str().expect("a type"))),
            _ => panic!("type {rule}"),
        },
        "enum" => value.is_null() || rule.as_array().expect("a list").contains(value),
        "anyOf" => all(rule, value),
        "minimum" => value.as_i64().is_none_or(|value| value >= rule.as_i64().expect("a number")),
        "maximum" => value.as_u64().is_none_or(|value| value <= rule.as_u64().expect("a number")),
        "maxLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().expect("a number"))
        }
        "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().expect("a number")),
        "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().expect("a pattern"), text)),
        "items" => value.as_array().is_none_or(|list| list.iter().all(|item| valid(root, rule, item))),
        "required" => value.as_object().is_none_or(|map| {
            rule.as_array().expect("a list").iter().all(|key| map.contains_key(key.as_str().expect("a key")))
        }),
        "propertyNames" => {
            value.as_object().is_none_or(|map| map.keys().all(|key| valid(root, rule, &Value::String(key.clone()))))
        }
        "properties" => value
            .as_object()
            .is_none_or(|map| map.iter().all(|(key, value)| rule.get(key).is_none_or(|rule| valid(root, rule, value)))),
        "patternProperties" => value.as_object().is_none_or(|map| {
            let rules = rule.as_object().expect("a map");
            map.iter().all(|(key, value)| rules.iter().all(|(p, rule)| !matches(p, key) || valid(root, rule, value)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|map| {
            map.iter()
                .filter(|(key, _)| words.get("properties").and_then(|known| known.get(key.as_str())).is_none())
                .all(|(_, value)| valid(root, rule, value))
        }),
        "if" => {
            let branch = if valid(root, rule, value) { "then" } else { "else" };
            words.get(branch).is_none_or(|schema| valid(root, schema, value))
        }
        other => panic!("the schema uses {other:?}, which the checker does not know"),
    })
}

/// YAML to JSON through the well-known library: the schema sees what an editor sees.
fn read(text: &str) -> Value {
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).expect("YAML");
    if value.is_mapping() || value.is_sequence() {
        value.apply_merge().expect("merge keys");
    }
    // A merge at the second level of anchors.yml is applied by the library at every level.
    serde_json::to_value(value).expect("JSON")
}

#[test]
fn the_examples_are_valid() {
    let schema = json_schema_label();
    for text in [
        include_str!("fixtures/labels/older.yml"),
        include_str!("fixtures/labels/newer.yml"),
        include_str!("fixtures/labels/wrapped-definition.yml"),
        include_str!("fixtures/labels/wrapped-label.yml"),
        include_str!("fixtures/labels/newer.json"),
        include_str!("fixtures/labels/anchors.yml"),
    ] {
        assert!(valid(&schema, &schema, &read(text)), "{text}");
    }
    let schema = json_schema_config();
    for text in [
        include_str!("fixtures/configs/older.yml"),
        include_str!("fixtures/configs/newer.yml"),
        include_str!("fixtures/configs/own.yml"),
        include_str!("fixtures/configs/own.json"),
        include_str!("fixtures/configs/empty.yml"),
    ] {
        assert!(valid(&schema, &schema, &read(text)), "{text}");
    }
}

#[test]
fn what_is_wrong_is_invalid_for_the_schema_and_the_reader() {
    let schema = json_schema_label();
    let definition = |key: &str, value: Value| {
        let mut resources = json!({ "cpu": 1, "ram": 1 });
        resources[key] = value;
        json!({ "definitions": [{ "driver": "native", "resources": resources }] })
    };
    for (key, value) in [
        ("cpu", json!(0)),
        ("cpu", json!("4")),
        ("cpu", json!(1.5)),
        ("ram", json!(-1)),
        ("memory", json!(1)),
        ("multitenancy", json!("yes")),
        ("disks", json!({ "a/b": { "size": 1 } })),
        ("disks", json!({ "ws": { "size": -1 } })),
        ("disks", json!({ "ws": 10 })),
        ("node_filter", json!("OS:linux")),
        ("network", json!("bridge")),
    ] {
        let file = definition(key, value);
        assert!(!valid(&schema, &schema, &file), "{file}");
        assert!(parse_label(&Source::new("f", &file.to_string()), Target::Linux).value.is_none(), "{file}");
    }
    for file in [json!({}), json!([]), json!("x"), json!({ "definitions": [] }), json!({ "definitions": ["native"] })] {
        assert!(!valid(&schema, &schema, &file), "{file}");
        assert!(parse_label(&Source::new("f", &file.to_string()), Target::Linux).value.is_none(), "{file}");
    }
    let schema = json_schema_config();
    for file in [
        json!({ "image_path": "/x" }),
        json!({ "cpu_alter": "1" }),
        json!({ "home_size": "10" }),
        json!({ "drivers": { "native": {} } }),
        json!({ "drivers": [{ "name": "native", "config": {} }] }),
        json!({ "sudo_path": "sudo" }),
        json!([]),
    ] {
        assert!(!valid(&schema, &schema, &file), "{file}");
        let checked = native_config::parse_config(&Source::new("f", &file.to_string()), Target::Linux);
        assert!(checked.value.is_none(), "{file}");
    }
}
