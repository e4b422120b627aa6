//! From the tree of a file to a [`NodeConfig`]: a whole Fish node config of either generation, or the driver's own
//! mapping alone.

use crate::Target;
use crate::problem::{Checked, Severity, Source};
use crate::reader::{Field, Fields, Known, Reader, join, nearest};
use crate::tree::{self, Node, Pos, Yaml};
use crate::{DriverConfig, InstanceName, NodeConfig, ToolKey};
use std::collections::BTreeMap;
use std::path::Path;

const OLDER_ENTRY: Known<'static> = Known {
    fields: &["name", "cfg"],
    ignored: &[],
    instead: &[("config", "did you mean `cfg`?"), ("options", "did you mean `cfg`?")],
};

/// Keys of a Fish node's config, which a file for the driver alone does not need.
const NODE_KEYS: &[&str] = &[
    "directory",
    "api_address",
    "proxy_socks_address",
    "proxy_ssh_address",
    "node_address",
    "cluster_join",
    "db_path",
    "tls_key",
    "tls_crt",
    "tls_ca_crt",
    "node_name",
    "node_location",
    "default_resource_lifetime",
    "disable_auth",
    "monitoring",
    "log",
];

/// Reads a config, YAML or JSON: of a whole Fish node in either generation, or the driver's mapping alone.
/// An empty file is one instance `native` with all defaults.
pub fn parse_config(src: &Source<'_>, target: Target) -> Checked<NodeConfig> {
    let tree = tree::parse(src.text);
    let broken = !tree.faults.is_empty();
    let mut reader = ConfigReader { reader: Reader::new(src, tree.faults), target };
    let config = match &tree.root {
        None if broken => None,
        None | Some(Node { value: Yaml::Null, .. }) => Some(NodeConfig::default()),
        Some(root) => reader.root(root),
    };
    Checked::new(config, reader.reader.problems)
}

pub(crate) struct ConfigReader<'s> {
    pub(crate) reader: Reader<'s>,
    pub(crate) target: Target,
}

impl ConfigReader<'_> {
    fn root(&mut self, root: &Node) -> Option<NodeConfig> {
        let field = Field { path: String::new(), node: root };
        let fields = self.reader.mapping(&field, Some("a config is a mapping of keys to values"))?;
        if !fields.has("drivers") {
            self.near_drivers(&fields);
            let config = self.driver(&fields, NODE_KEYS);
            return Some(NodeConfig { instances: BTreeMap::from([(InstanceName::default(), config)]) });
        }
        // A node's own identifiers are what the filters of labels are matched against.
        let identifiers = fields.get("node_identifiers").and_then(|field| plain_texts(field.node));

        let mut instances = BTreeMap::new();
        if let Some(drivers) = fields.get("drivers") {
            match &drivers.node.value {
                Yaml::Seq(_) => self.older(&drivers, &mut instances),
                Yaml::Map(_) => self.newer(&drivers, &mut instances),
                _ => {
                    let hint = "write a list of `- name: native` (older), or `providers:` with `native:` (newer)";
                    self.reader.mapping(&drivers, Some(hint));
                }
            }
        }
        let failed = self.reader.problems.iter().any(|p| p.severity == Severity::Error);
        if instances.is_empty() && !failed {
            let pos = fields.get("drivers").map_or(fields.pos, |field| field.pos());
            let hint = "add `native` to the drivers, if this node is to run it";
            self.reader.warn(pos, "drivers", "no native driver is configured: its defaults are used", Some(hint));
            instances = NodeConfig::default().instances;
        }
        for config in instances.values_mut() {
            if config.node_identifiers.is_none() {
                config.node_identifiers.clone_from(&identifiers);
            }
        }
        Some(NodeConfig { instances })
    }

    /// `driver:` or `providers:` at the top is a slip that would otherwise read as an unknown key of the driver.
    fn near_drivers(&mut self, fields: &Fields<'_>) {
        if let Some((key, _)) = fields.entries.iter().find(|(key, _)| key.text == "providers") {
            let hint = "put it below `drivers:`";
            self.reader.error(key.pos, "providers", "`providers` stands outside of `drivers`", Some(hint));
        }
    }

    /// A list of `{ name, cfg }`.
    fn older(&mut self, drivers: &Field<'_>, instances: &mut BTreeMap<InstanceName, DriverConfig>) {
        let Some(items) = self.reader.list(drivers, None) else { return };
        let mut places: BTreeMap<InstanceName, Pos> = BTreeMap::new();
        for item in items {
            let Some(fields) = self.reader.mapping(&item, Some("an item begins with `- name: native`")) else {
                continue;
            };
            let Some(field) = fields.get("name") else {
                self.reader.missing(&fields, "name", "write `name: native`");
                continue;
            };
            let Some(text) = self.reader.text(&field) else { continue };
            let Some(name) = self.instance(&text, field.pos(), &field.path) else { continue };
            self.reader.unknown(&fields, &OLDER_ENTRY);
            if let Some(first) = places.get(&name) {
                let message = format!("`{name}` is configured twice, first at line {}", first.line);
                let hint = "give the second instance a name of its own: native/NAME";
                self.reader.error(field.pos(), &field.path, message, Some(hint));
                continue;
            }
            places.insert(name.clone(), field.pos());
            let config = fields.get("cfg").and_then(|field| self.reader.mapping(&field, None));
            let config = config.map_or_else(DriverConfig::default, |fields| self.driver(&fields, &[]));
            instances.insert(name, config);
        }
    }

    /// `providers: { native: ... }`.
    fn newer(&mut self, drivers: &Field<'_>, instances: &mut BTreeMap<InstanceName, DriverConfig>) {
        let Some(fields) = self.reader.mapping(drivers, None) else { return };
        for (key, _) in fields.entries {
            let path = fields.path_of(&key.text);
            match key.text.as_str() {
                "providers" | "gates" => {}
                name if name == "native" || name.starts_with("native/") => {
                    let message = format!("`{}` stands outside of `providers`", crate::names::shorten(name));
                    self.reader.error(key.pos, &path, message, Some("put it below `providers:`"));
                }
                _ => {
                    let message = format!("unknown field `{}`", crate::names::shorten(&key.text));
                    let hint = nearest(&key.text, ["providers", "gates"].into_iter())
                        .map_or("known fields: providers, gates".to_owned(), |name| format!("did you mean `{name}`?"));
                    self.reader.error(key.pos, &path, message, Some(&hint));
                }
            }
        }
        let Some(field) = fields.get("providers") else { return };
        let hint = "write `native:` below it, without a `-`";
        let Some(providers) = self.reader.mapping(&field, Some(hint)) else { return };
        for (key, node) in providers.entries {
            let path = providers.path_of(&key.text);
            let Some(name) = self.instance(&key.text, key.pos, &path) else { continue };
            let config = match node.value {
                Yaml::Null => DriverConfig::default(),
                _ => match self.reader.mapping(&Field { path, node }, None) {
                    Some(fields) => self.driver(&fields, &[]),
                    None => continue,
                },
            };
            instances.insert(name, config);
        }
    }

    /// The instance, if the name is one of ours; other drivers are left alone.
    fn instance(&mut self, text: &str, pos: Pos, path: &str) -> Option<InstanceName> {
        if text == "native" || text.starts_with("native/") {
            return match text.parse() {
                Ok(name) => Some(name),
                Err(error) => {
                    self.reader.error(pos, path, error, Some("an instance is `native/NAME`"));
                    None
                }
            };
        }
        if nearest(text, ["native"].into_iter()).is_some() {
            let message = format!("the driver {:?} is not this one and is left alone", crate::names::shorten(text));
            self.reader.warn(pos, path, message, Some("did you mean `native`?"));
        }
        None
    }
}

/// A list of texts, or nothing if it is anything else: the node's part of the file is not ours to check.
fn plain_texts(node: &Node) -> Option<Vec<String>> {
    let Yaml::Seq(items) = &node.value else { return None };
    let text = |item: &Node| match &item.value {
        Yaml::Str(text) => Some(text.clone()),
        _ => None,
    };
    items.iter().map(text).collect::<Option<Vec<_>>>().filter(|list| !list.is_empty())
}

/// Line, column and path of a configured tool.
pub(crate) fn find_tool(src: &Source<'_>, tool: ToolKey, path: &Path) -> (u32, u32, String) {
    fn search(node: &Node, at: &str, key: &str, value: &str) -> Option<(Pos, String)> {
        match &node.value {
            Yaml::Map(entries) => entries.iter().find_map(|(own, node)| {
                let at = join(at, &own.text);
                match &node.value {
                    Yaml::Str(text) if own.text == key && text == value => Some((node.pos, at)),
                    _ => search(node, &at, key, value),
                }
            }),
            Yaml::Seq(items) => {
                items.iter().enumerate().find_map(|(i, node)| search(node, &format!("{at}[{i}]"), key, value))
            }
            _ => None,
        }
    }
    let value = path.to_string_lossy();
    let found = tree::parse(src.text).root.and_then(|root| search(&root, "", tool.key(), &value));
    let (pos, field) = found.unwrap_or_else(|| (Pos::START, tool.key().to_owned()));
    (pos.line, pos.column, field)
}
