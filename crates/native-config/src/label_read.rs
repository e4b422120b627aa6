//! From the tree of a file to a [`Label`]: both generations, with every problem on the way.

use crate::Target;
use crate::problem::{Checked, Source};
use crate::reader::{Field, Fields, Known, Reader};
use crate::tree::{self, Node, Pos, Yaml};
use crate::{Definition, DiskName, GroupName, Label, Metadata, MetadataError, Template, TemplateContext};
use std::collections::BTreeMap;

const NODE_ONLY: &str = "set by a node, no effect in a file";
pub(crate) const LABEL: Known<'static> = Known {
    fields: &["name", "version", "metadata", "definitions"],
    ignored: &[
        ("uid", NODE_ONLY),
        ("UID", NODE_ONLY),
        ("ID", NODE_ONLY),
        ("id", NODE_ONLY),
        ("created_at", NODE_ONLY),
        ("updated_at", NODE_ONLY),
        ("owner_name", NODE_ONLY),
        ("visible_for", NODE_ONLY),
        ("remove_at", NODE_ONLY),
    ],
    instead: &[
        ("driver", "one definition alone stands without `definitions`; here it belongs into an item of `definitions`"),
        ("resources", "it belongs into an item of `definitions`"),
        ("options", "it belongs into an item of `definitions`"),
        ("images", "it belongs into an item of `definitions`"),
    ],
};
pub(crate) const DEFINITION: Known<'static> = Known {
    fields: &["driver", "images", "options", "resources"],
    ignored: &[("authentication", "used by a node's gates, no effect for this driver")],
    instead: &[
        ("entry", "it belongs under `options`"),
        ("groups", "it belongs under `options`"),
        ("image", "write `images`, a list"),
        ("cpu", "it belongs under `resources`"),
        ("ram", "it belongs under `resources`"),
        ("disks", "it belongs under `resources`"),
        ("node_filter", "it belongs under `resources`"),
        ("lifetime", "it belongs under `resources`"),
        ("metadata", "it belongs to the label, beside `definitions`"),
    ],
};
pub(crate) const OPTIONS: Known<'static> = Known {
    fields: &["images", "entry", "groups"],
    ignored: &[],
    instead: &[
        ("image", "write `images`, a list"),
        ("entrypoint", "did you mean `entry`?"),
        ("command", "did you mean `entry`?"),
        ("group", "write `groups`, a list"),
        ("setup", "there is no setup step: do it in the entry"),
    ],
};
/// Reads a label, YAML or JSON, of either generation: a label, the same under `label:`, a single definition, or the
/// same under `definition:`.
pub fn parse_label(src: &Source<'_>, target: Target) -> Checked<Label> {
    let tree = tree::parse(src.text);
    let mut reader = LabelReader { reader: Reader::new(src, tree.faults), target };
    let label = match &tree.root {
        Some(root) => reader.root(root),
        None if reader.reader.problems.is_empty() => {
            reader.empty();
            None
        }
        None => None,
    };
    Checked::new(label, reader.reader.problems)
}

/// Reads a file of metadata: one mapping.
pub(crate) fn metadata_file(src: &Source<'_>) -> Checked<Metadata> {
    let tree = tree::parse(src.text);
    let mut reader = Reader::new(src, tree.faults);
    let metadata = match &tree.root {
        None => Some(Metadata::default()),
        Some(root) => match Metadata::from_node(root) {
            Some(metadata) => Some(metadata),
            None => {
                reader.error(root.pos, "", "metadata is a mapping of keys to values", Some("write `KEY: value`"));
                None
            }
        },
    };
    Checked::new(metadata, reader.problems)
}

pub(crate) struct LabelReader<'s> {
    pub(crate) reader: Reader<'s>,
    pub(crate) target: Target,
}

impl LabelReader<'_> {
    fn empty(&mut self) {
        let hint = "start with `definitions:`, a list whose items begin with `- driver: native`";
        self.reader.error(Pos::START, "", "the label is empty", Some(hint));
    }

    fn root(&mut self, root: &Node) -> Option<Label> {
        if matches!(root.value, Yaml::Null) {
            self.empty();
            return None;
        }
        let field = Field { path: String::new(), node: root };
        let fields = self.reader.mapping(&field, Some("a label is a mapping with `definitions`"))?;
        if let Some(label) = fields.get("label") {
            let alone = Known { fields: &["label"], ignored: &[], instead: &[] };
            self.reader.unknown(&fields, &alone);
            let fields = self.reader.mapping(&label, None)?;
            return self.label(&fields);
        }
        self.label(&fields)
    }

    fn label(&mut self, fields: &Fields<'_>) -> Option<Label> {
        let single = if fields.has("definition") && !fields.has("definitions") {
            let known = [LABEL.fields, &["definition"]].concat();
            self.reader.unknown(fields, &Known { fields: &known, ..LABEL });
            let field = fields.get("definition");
            if field.is_none() {
                self.reader.missing(fields, "definition", "begin with `driver: native`");
            }
            Some(field.and_then(|field| self.reader.mapping(&field, None)))
        } else if !fields.has("definitions") && ["driver", "options", "resources"].iter().any(|key| fields.has(key)) {
            // A definition alone; a label's own fields are welcome beside it.
            Some(Some(fields.clone()))
        } else {
            self.reader.unknown(fields, &LABEL);
            None
        };

        let name = fields.get("name").and_then(|field| self.reader.text(&field)).filter(|name| !name.is_empty());
        let version = fields.get("version").and_then(|field| {
            let value = self.reader.number(&field, "", 0, i128::from(u64::MAX))?;
            u64::try_from(value).ok()
        });
        let metadata_field = fields.get("metadata");
        let metadata = match &metadata_field {
            Some(field) => match Metadata::from_node(field.node) {
                Some(metadata) => metadata,
                None => {
                    self.reader.mapping(field, Some("write `KEY: value`"));
                    Metadata::default()
                }
            },
            None => Metadata::default(),
        };

        let mut definitions = Vec::new();
        match single {
            Some(Some(single)) => {
                let beside: &[&str] = if single.path == fields.path { &["name", "version", "metadata"] } else { &[] };
                definitions.push(self.definition(&single, beside));
            }
            Some(None) => {}
            None => self.definitions(fields, &mut definitions),
        }
        if let Some(field) = &metadata_field {
            self.check_metadata(field, &metadata, &definitions);
        }
        self.some_native(fields, &definitions);
        Some(Label { name, version, metadata, definitions })
    }

    fn definitions(&mut self, fields: &Fields<'_>, definitions: &mut Vec<Definition>) {
        let hint = "a list whose items begin with `- driver: native`";
        let Some(field) = fields.get("definitions") else {
            return self.reader.missing(fields, "definitions", hint);
        };
        let Some(items) = self.reader.list(&field, Some(hint)) else { return };
        if items.is_empty() {
            self.reader.error(field.pos(), &field.path, "the list is empty", Some("give at least one definition"));
        }
        for item in items {
            // An item that can't be read keeps its place with an empty definition; the problem stops the label.
            match self.reader.mapping(&item, Some("an item begins with `- driver: native`")) {
                Some(fields) => definitions.push(self.definition(&fields, &[])),
                None => definitions.push(foreign(String::new())),
            }
        }
    }

    fn some_native(&mut self, fields: &Fields<'_>, definitions: &[Definition]) {
        let readable = definitions.iter().all(|definition| !definition.driver.is_empty());
        if readable && !definitions.is_empty() && !definitions.iter().any(Definition::is_native) {
            let path = fields.path_of("definitions");
            let hint = "at least one definition needs `driver: native`";
            self.reader.error(fields.pos, &path, "no definition is for the native driver", Some(hint));
        }
    }

    /// `beside` are fields of the label that stand beside a definition's own.
    fn definition(&mut self, fields: &Fields<'_>, beside: &[&str]) -> Definition {
        let driver = match fields.get("driver") {
            Some(field) => self.reader.text(&field).map(|text| (field, text)),
            None => {
                self.reader.missing(fields, "driver", "write `driver: native`");
                None
            }
        };
        let driver = match driver {
            Some((field, driver)) if driver == "native" || driver.starts_with("native/") => {
                if let Err(error) = driver.parse::<crate::InstanceName>() {
                    self.reader.error(field.pos(), &field.path, error, None);
                }
                driver
            }
            Some((field, driver)) => {
                if crate::reader::nearest(&driver, ["native"].into_iter()).is_some() || driver.is_empty() {
                    let message = format!("unknown driver {:?}", crate::names::shorten(&driver));
                    self.reader.error(field.pos(), &field.path, message, Some("did you mean `native`?"));
                } else {
                    let message = format!("this definition is for the driver {:?}", crate::names::shorten(&driver));
                    self.reader.warn(field.pos(), &field.path, message, Some("only native definitions are checked"));
                    return foreign(driver);
                }
                driver
            }
            None => String::new(),
        };

        let known = [DEFINITION.fields, beside].concat();
        self.reader.unknown(fields, &Known { fields: &known, ..DEFINITION });
        let options = fields.get("options").and_then(|field| self.reader.mapping(&field, None));
        if let Some(options) = &options {
            self.reader.unknown(options, &OPTIONS);
        }
        let (resources, sized) = self.resources(fields);
        let images = self.images(fields, options.as_ref(), &sized);
        let disks: Vec<&str> = sized.iter().map(String::as_str).collect();
        let entry = options.as_ref().map_or_else(Template::default, |options| self.entry(options, &disks));
        let groups = options.as_ref().map_or_else(Vec::new, |options| self.groups(options));
        Definition { driver, images, entry, groups, resources }
    }

    fn entry(&mut self, options: &Fields<'_>, disks: &[&str]) -> Template {
        let Some(field) = options.get("entry") else { return Template::default() };
        let Some(text) = self.reader.text(&field) else { return Template::default() };
        if text.is_empty() {
            return Template::default();
        }
        let context = dummy_context(disks.iter().copied());
        let template = match Template::parse(&text).and_then(|t| t.render(&context).map(|path| (t, path))) {
            Ok((template, path)) => {
                if let Err(error) = crate::label::check_entry(&path) {
                    self.reader.error(field.pos(), &field.path, error, None);
                }
                template
            }
            Err(error) => {
                let hint = template_hint(&error, disks);
                self.reader.error(field.pos(), &field.path, error, hint.as_deref());
                return Template::default();
            }
        };
        if looks_like_shell(&text) {
            let hint = "put the command line into a script and name the script here";
            let message = "the entry is one path: blanks and shell characters are taken as part of it";
            self.reader.warn(field.pos(), &field.path, message, Some(hint));
        }
        template
    }

    fn groups(&mut self, options: &Fields<'_>) -> Vec<GroupName> {
        // What every system takes in one call; a label with more is a mistake.
        const MOST: usize = 64;
        let mut groups: Vec<GroupName> = Vec::new();
        for (field, text) in self.reader.texts(options, "groups") {
            let Some(group) = self.reader.parse_text::<GroupName>(&field, &text, None) else { continue };
            if groups.contains(&group) {
                self.reader.warn(field.pos(), &field.path, format!("the group `{group}` is listed twice"), None);
            } else if groups.len() == MOST {
                self.reader.error(field.pos(), &field.path, format!("more than {MOST} groups"), None);
                break;
            } else {
                groups.push(group);
            }
        }
        groups
    }

    /// Every value is filled in once for each definition that could use it.
    fn check_metadata(&mut self, field: &Field<'_>, metadata: &Metadata, definitions: &[Definition]) {
        let mut told: Vec<String> = Vec::new();
        for (n, definition) in definitions.iter().enumerate().filter(|(_, definition)| definition.is_native()) {
            let disks: Vec<&str> = definition.resources.disks.keys().map(DiskName::as_str).collect();
            let context = dummy_context(disks.iter().copied());
            let errors = crate::metadata::check(metadata, &context);
            for error in errors {
                let key = error.key().unwrap_or_default().to_owned();
                if told.contains(&key) {
                    continue;
                }
                let (pos, path) = find(field, &key);
                let hint = match &error {
                    MetadataError::Template { source, .. } => template_hint(source, &disks),
                    MetadataError::Collision { .. } => Some("rename one of the two".to_owned()),
                    _ => None,
                };
                // The metadata is the label's, the disks are a definition's: where there are several, say whose.
                let message = if definitions.len() > 1 && matches!(error, MetadataError::Template { .. }) {
                    format!("for definitions[{n}]: {error}")
                } else {
                    error.to_string()
                };
                self.reader.error(pos, &path, message, hint.as_deref());
                told.push(key);
            }
        }
    }
}

/// A definition of another driver: it keeps its place and its name.
fn foreign(driver: String) -> Definition {
    Definition {
        driver,
        images: Vec::new(),
        entry: Template::default(),
        groups: Vec::new(),
        resources: crate::Resources::default(),
    }
}

/// The place of a flattened key (`a.b.c`) below a field, and its path.
fn find(field: &Field<'_>, key: &str) -> (Pos, String) {
    if let Yaml::Map(entries) = &field.node.value {
        if let Some((own, node)) = entries.iter().find(|(own, _)| own.text == key) {
            return (node.pos, crate::reader::join(&field.path, &own.text));
        }
        for (own, node) in entries {
            let path = crate::reader::join(&field.path, &own.text);
            if let Some(rest) = key.strip_prefix(own.text.as_str()).and_then(|rest| rest.strip_prefix('.'))
                && matches!(node.value, Yaml::Map(_))
            {
                return find(&Field { path, node }, rest);
            }
        }
    }
    (field.pos(), field.path.clone())
}

fn dummy_context<'d>(disks: impl Iterator<Item = &'d str>) -> TemplateContext {
    let disks: BTreeMap<String, String> = disks.map(|name| (name.to_owned(), format!("/disks/{name}"))).collect();
    TemplateContext { disks, user: "fish-abcdef".to_owned() }
}

pub(crate) fn unknown_disk_hint<'d>(name: &str, disks: impl Iterator<Item = &'d str> + Clone) -> String {
    if let Some(near) = crate::reader::nearest(name, disks.clone()) {
        return format!("did you mean `{near}`?");
    }
    let list: Vec<&str> = disks.take(10).collect();
    if list.is_empty() {
        "the definition has no disks: add it to `resources.disks`".to_owned()
    } else {
        format!("the definition's disks: {}", list.join(", "))
    }
}

fn template_hint(error: &crate::TemplateError, disks: &[&str]) -> Option<String> {
    use crate::TemplateError as E;
    match error {
        E::UnknownDisk { name } => Some(unknown_disk_hint(name, disks.iter().copied())),
        E::UnknownField { name } => Some(match crate::reader::nearest(name, ["Disks", "User"].into_iter()) {
            Some(near) => format!("did you mean `.{near}`?"),
            None => "disks are `{{ .Disks.NAME }}`, the account is `{{ .User }}`".to_owned(),
        }),
        E::Syntax { message, .. } if message.contains("unclosed") => Some("close it with `}}`".to_owned()),
        E::Syntax { .. } if disks.iter().any(|disk| disk.contains(['-', '.'])) => {
            Some("a disk with `-` or `.` in its name is written `{{ index .Disks \"my-disk\" }}`".to_owned())
        }
        E::UnknownFunction { .. } => Some(
            "fields begin with a dot, as in `{{ .Disks.ws }}`; functions are those of Go's text/template".to_owned(),
        ),
        _ => None,
    }
}

/// Blanks or shell characters outside of template actions.
fn looks_like_shell(text: &str) -> bool {
    let mut rest = text;
    loop {
        let (plain, action) = rest.split_once("{{").unwrap_or((rest, ""));
        if plain.contains([' ', '\t', ';', '|', '&', '<', '>', '`', '$', '"', '\'', '*']) {
            return true;
        }
        match action.split_once("}}") {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
}
