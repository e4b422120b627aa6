//! JSON Schemas of both files, for editors. The parsers do not use them: they say less than a parser's message does.

use crate::driver_read::DRIVER_KEYS;
use crate::{ToolKey, label_read, resources_read};
use serde_json::{Map, Value, json};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

fn text(description: &str) -> Value {
    json!({ "type": ["string", "null"], "description": description })
}

fn flag(description: &str) -> Value {
    json!({ "type": ["boolean", "null"], "description": description })
}

fn whole(least: i64, most: i64, description: &str) -> Value {
    json!({ "type": ["integer", "null"], "minimum": least, "maximum": most, "description": description })
}

fn texts(description: &str) -> Value {
    json!({ "type": ["array", "null"], "items": { "type": "string" }, "description": description })
}

fn one_of(values: &[&str], description: &str) -> Value {
    json!({ "type": ["string", "null"], "enum": values, "description": description })
}

/// An object whose fields are all described and none else is allowed.
fn object(description: &str, properties: Map<String, Value>, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn map(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn ignored(properties: &mut Map<String, Value>, fields: &[(&str, &str)]) {
    for (field, why) in fields {
        properties.insert((*field).to_owned(), json!({ "description": why }));
    }
}

fn image() -> Value {
    let name = |what: &str| json!({ "type": ["string", "null"], "pattern": "^([A-Za-z0-9][A-Za-z0-9._+-]*)?$", "description": what });
    let properties = map([
        (
            "url",
            json!({ "type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://", "description": "Where the image is fetched from" }),
        ),
        (
            "sum",
            json!({
                "type": ["string", "null"],
                "pattern": "^(|md5:[0-9a-fA-F]{32}|sha1:[0-9a-fA-F]{40}|sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128})$",
                "description": "Checksum, `ALGO:HEX`; sha256 or sha512",
            }),
        ),
        ("name", name("Else the url's file name up to the last `-`, or up to the extension")),
        ("version", name("Else the url's file name after the last `-`, up to the extension")),
        ("tag", name("The disk to unpack to; the home directory without one")),
    ]);
    object("An archive that is unpacked into the environment", properties, &["url"])
}

fn images() -> Value {
    json!({ "type": ["array", "null"], "items": { "$ref": "#/$defs/image" }, "description": "Unpacked in this order" })
}

fn disk() -> Value {
    let properties = map([
        ("size", whole(0, i64::from(u32::MAX), "In GB, at least 1 unless `clone` is given")),
        ("type", text("`dir` is a plain directory of unlimited size; else a file system that the platform can make")),
        ("label", text("Label of the file system")),
        ("reuse", flag("Keep the disk for the next environment that asks for the same name and label")),
        ("clone", text("Start from a copy of this path")),
    ]);
    object("A disk of the environment", properties, &[])
}

fn resources() -> Value {
    let mut properties = map([
        ("node_filter", texts("Every pattern must match some node identifier, as in `OS:linux` (Go's path.Match)")),
        ("cpu", json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX, "description": "Threads" })),
        ("ram", json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX, "description": "Memory in GB" })),
        (
            "disks",
            json!({
                "type": ["object", "null"],
                "propertyNames": { "pattern": NAME, "maxLength": 64 },
                "additionalProperties": { "$ref": "#/$defs/disk" },
                "description": "Disks by name",
            }),
        ),
        ("multitenancy", flag("Tolerates others on the node")),
        ("cpu_overbook", flag("Tolerates shared threads")),
        ("ram_overbook", flag("Tolerates shared memory")),
        ("mem_overbook", flag("The older name of `ram_overbook`")),
        ("network", one_of(&["", "nat"], "No effect for this driver")),
        (
            "lifetime",
            json!({
                "type": ["string", "integer", "null"],
                "description": "As `1h30m`; units ns, us, ms, s, m, h, d, w, M and y. Empty or 0: the default. Negative: no limit",
            }),
        ),
    ]);
    ignored(&mut properties, resources_read::RESOURCES.ignored);
    object("What the environment needs, and whom it tolerates", properties, &["cpu", "ram"])
}

fn options() -> Value {
    let properties = map([
        ("images", images()),
        ("entry", text("The workload: one path, relative to the home directory; may be a template. Default ./init.sh")),
        ("groups", texts("Groups of the account, the first is primary")),
    ]);
    json!({ "anyOf": [{ "type": "null" }, object("Options of the native driver", properties, &[])] })
}

fn definition() -> Value {
    let mut properties = map([
        (
            "driver",
            json!({ "type": "string", "pattern": "^native(/[A-Za-z0-9][A-Za-z0-9._-]*)?$", "description": "The driver" }),
        ),
        ("images", images()),
        ("options", json!({ "$ref": "#/$defs/options" })),
        ("resources", json!({ "$ref": "#/$defs/resources" })),
    ]);
    ignored(&mut properties, label_read::DEFINITION.ignored);
    object("One way to make an environment", properties, &["driver", "resources"])
}

fn label_fields() -> Map<String, Value> {
    let mut properties = map([
        ("name", text("Name of the label")),
        ("version", whole(0, i64::MAX, "Version of the label")),
        (
            "metadata",
            json!({
                "type": ["object", "null"],
                "description": "Becomes the workload's process environment; texts may be templates",
            }),
        ),
    ]);
    ignored(&mut properties, label_read::LABEL.ignored);
    properties
}

fn label() -> Value {
    let mut properties = label_fields();
    // Definitions of other drivers are not described here, and not forbidden.
    let item = json!({
        "if": { "properties": { "driver": { "pattern": "^native(/|$)" } } },
        "then": { "$ref": "#/$defs/definition" },
        "else": { "type": "object", "required": ["driver"] },
    });
    let list = json!({ "type": "array", "minItems": 1, "items": item, "description": "In the order of preference" });
    properties.insert("definitions".to_owned(), list);
    object("A label", properties, &["definitions"])
}

/// The schema of a label file, in all of its forms.
pub fn json_schema_label() -> Value {
    let mut single = label_fields();
    single.insert("definition".to_owned(), json!({ "$ref": "#/$defs/definition" }));
    let mut bare = definition();
    if let Some(properties) = bare.get_mut("properties").and_then(Value::as_object_mut) {
        for field in ["name", "version", "metadata"] {
            properties.insert(field.to_owned(), label_fields().remove(field).unwrap_or_default());
        }
    }
    let wrapped = map([("label", json!({ "$ref": "#/$defs/label" }))]);
    json!({
        "$schema": DIALECT,
        "title": "A label for the native driver",
        "anyOf": [
            { "$ref": "#/$defs/label" },
            object("A label under `label:`", wrapped, &["label"]),
            object("One definition under `definition:`", single, &["definition"]),
            bare,
        ],
        "$defs": {
            "label": label(),
            "definition": definition(),
            "options": options(),
            "resources": resources(),
            "disk": disk(),
            "image": image(),
        },
    })
}

/// The driver's own keys.
fn driver() -> Value {
    let i32_range = (i64::from(i32::MIN), i64::from(i32::MAX));
    let u32_max = i64::from(u32::MAX);
    let size = |what: &str| json!({ "type": ["string", "null"], "pattern": "[A-Za-z]$", "description": format!("{what}; as 500MB, 10GB (10^9) or 10GiB (2^30)") });
    let mut properties = Map::new();
    for key in DRIVER_KEYS {
        let schema = match *key {
            "images_path" => text("Cache of images, default $CWD/fish_native_images"),
            "workspace_path" => text("Disks and state, default $CWD/fish_native_workspace"),
            "cpu_alter" => {
                whole(i32_range.0, i32_range.1, "Added to the threads of the host; negative keeps some for it")
            }
            "ram_alter" => whole(i32_range.0, i32_range.1, "Added to the memory of the host, in GB"),
            "cpu_overbook" => whole(0, u32_max, "Threads that tolerant tenants may share"),
            "ram_overbook" => whole(0, u32_max, "Memory that tolerant tenants may share, in GB"),
            "download_user" => text("User of HTTP basic authentication for images"),
            "download_password" => text("Password of HTTP basic authentication"),
            "download_origins" => texts(
                "The only origins that the credentials are sent to, as https://host:port; default: the origin of the image's own url, if it is https or this host itself",
            ),
            "download_ca" => text("PEM file with more certificate authorities"),
            "download_proxy" => text("Proxy for downloads, as http://host:port"),
            "privilege" => one_of(
                &["auto", "root", "helper", "sudo-commands", "sudo_commands"],
                "How the driver gets its rights: `root` when it is root already, `helper` by the root helper and its one sudo rule, `sudo-commands` each command by sudo (macOS); default auto: root for root, else helper",
            ),
            "account" => one_of(
                &["real", "ephemeral"],
                "Where the account lives: in the host's user database, or inside the environment alone; default real",
            ),
            "isolation" => one_of(
                &["private", "basic"],
                "How far the workload is kept apart: by namespaces of its own, or by its user alone where there are none to be had; default private",
            ),
            "limits" => {
                json!({
                    "enum": ["hard", "soft", "off", false, null],
                    "description": "Whether the limits of CPU and memory are ceilings, apply only when others want the same, or are left out; default hard",
                })
            }
            "tenancy" => one_of(
                &["strict", "lenient"],
                "Whether a label without `multitenancy` runs alone (`strict`), or the flag keeps nobody out, as in the Go driver (`lenient`); default strict",
            ),
            "uid_min" => whole(1_000, u32_max - 1, "First uid for environments, default 70000"),
            "uid_max" => whole(1_000, u32_max - 1, "Last uid for environments, default 79999"),
            "home_size" => size("Size of the home directory's disk, default 10GiB"),
            "tmp_size" => size("Size of the disk for `/tmp` and `/var/tmp`, default 2GiB"),
            "log_size" => size("How much of the workload's output is kept, default 64MB"),
            "images_max_size" => size(
                "The most that the image cache may hold; what was not used for longest goes first; default no limit",
            ),
            "images_memory" => size(
                "Memory that the decoders of one image may take: one needs the dictionary that the image was packed with, and as many blocks of an xz file as fit are decoded side by side; default 132MiB, two dictionaries of `xz -9`",
            ),
            "stop_grace" => {
                json!({ "type": ["string", "integer", "null"], "description": "Time between SIGINT and SIGKILL when a workload is stopped, default 5s" })
            }
            "default_lifetime" => {
                json!({ "type": ["string", "integer", "null"], "description": "Lifetime where a label leaves it to the default; default: no limit" })
            }
            "writable_paths" => {
                texts("Directories of the host that environments may write besides their own; default none")
            }
            "allowed_groups" => {
                texts("The groups that labels may ask for; default: all but those whose members are as good as root")
            }
            "allow_setuid" => flag("Setuid programs of the host, such as sudo, work inside; default false"),
            "slots" => whole(1, u32_max, "How many environments may run at once; default: no limit but the resources"),
            "node_identifiers" => texts(
                "Replaces the identifiers that the host gives itself, as `OS:linux`, which `node_filter` of labels is compared with",
            ),
            "pids_max" => whole(1, u32_max, "Processes of an environment, default 4096"),
            "open_files" => whole(16, i64::MAX, "Open files of each process, default 65536"),
            // A test keeps this from being reached.
            _ => json!({}),
        };
        properties.insert((*key).to_owned(), schema);
    }
    for tool in ToolKey::ALL {
        let mut what = format!("Path of `{}`, absolute; found in PATH without one", tool.program());
        if tool.is_macos_only() {
            what.push_str(" (macOS)");
        }
        properties.insert(
            tool.key().to_owned(),
            json!({ "type": ["string", "null"], "pattern": "^(/.*)?$", "description": what }),
        );
    }
    object("The native driver", properties, &[])
}

/// The schema of a config file: of a Fish node in either generation, or of the driver alone.
pub fn json_schema_config() -> Value {
    let ours = json!({ "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/driver" }] });
    let native = "^native(/[A-Za-z0-9][A-Za-z0-9._-]*)?$";
    let older = json!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "if": { "properties": { "name": { "pattern": native } } },
            "then": { "properties": { "name": {}, "cfg": ours }, "additionalProperties": false },
        },
        "description": "The older shape: a list of drivers",
    });
    let newer = json!({
        "type": "object",
        "properties": {
            "providers": { "type": ["object", "null"], "patternProperties": { native: ours } },
            "gates": {},
        },
        "additionalProperties": false,
        "description": "The newer shape: providers and gates",
    });
    json!({
        "$schema": DIALECT,
        "title": "Config of the native driver, alone or in a Fish node's config",
        "anyOf": [
            { "type": "null" },
            { "$ref": "#/$defs/driver" },
            {
                "type": "object",
                "required": ["drivers"],
                "properties": { "drivers": { "anyOf": [older, newer, { "type": "null" }] } },
            },
        ],
        "$defs": { "driver": driver() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_read;

    #[test]
    fn every_key_of_the_readers_is_described() {
        let config = json_schema_config();
        let described = &config["$defs"]["driver"]["properties"];
        for key in DRIVER_KEYS.iter().copied().chain(ToolKey::ALL.map(ToolKey::key)) {
            assert!(described[key].get("description").is_some(), "{key} has no description");
        }
        let label = json_schema_label();
        for (name, fields) in [
            ("label", label_read::LABEL.fields),
            ("definition", label_read::DEFINITION.fields),
            ("resources", resources_read::RESOURCES.fields),
            ("disk", resources_read::DISK.fields),
            ("image", image_read::IMAGE.fields),
        ] {
            let known = label["$defs"][name]["properties"].as_object().expect(name);
            for field in fields {
                assert!(known.contains_key(*field), "{name}.{field}");
            }
        }
    }
}
