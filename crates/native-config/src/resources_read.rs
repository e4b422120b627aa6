//! The `resources` of a definition, with its disks.

use crate::Target;
use crate::label_read::LabelReader;
use crate::reader::{Field, Fields, Known};
use crate::tree::Yaml;
use crate::{Disk, DiskKind, DiskName, Lifetime, NodePattern, Resources};
use std::collections::BTreeMap;

pub(crate) const RESOURCES: Known<'static> = Known {
    fields: &[
        "node_filter",
        "cpu",
        "ram",
        "disks",
        "multitenancy",
        "cpu_overbook",
        "ram_overbook",
        "mem_overbook",
        "network",
        "lifetime",
    ],
    ignored: &[("slots", "used by other drivers, no effect for this one")],
    instead: &[
        ("memory", "did you mean `ram`, in GB?"),
        ("mem", "did you mean `ram`, in GB?"),
        ("ram_gb", "did you mean `ram`? It is in GB"),
        ("cpus", "did you mean `cpu`?"),
        ("cores", "did you mean `cpu`?"),
        ("threads", "did you mean `cpu`?"),
        ("tenancy", "did you mean `multitenancy`?"),
        ("timeout", "did you mean `lifetime`?"),
        ("disk", "write `disks`, a mapping of names to disks"),
        ("overbook", "write `cpu_overbook` and `ram_overbook`"),
        ("images", "it belongs into the definition, beside `resources`"),
    ],
};
pub(crate) const DISK: Known<'static> = Known {
    fields: &["size", "type", "label", "reuse", "clone"],
    ignored: &[],
    instead: &[
        ("size_gb", "did you mean `size`? It is in GB"),
        ("kind", "did you mean `type`?"),
        ("fs", "did you mean `type`?"),
        ("filesystem", "did you mean `type`?"),
    ],
};

/// What a file system on Linux keeps of a label.
const LINUX_LABEL: usize = 16;

/// The keys of node identifiers, for a hint about their case.
const IDENTIFIERS: [&str; 7] = ["FishName", "HostName", "OS", "OSVersion", "OSPlatform", "OSFamily", "Arch"];

impl LabelReader<'_> {
    /// The resources, and the names of all disks that the text has, also of those with a mistake inside: a tag that
    /// names such a disk is not wrong.
    pub(crate) fn resources(&mut self, definition: &Fields<'_>) -> (Resources, Vec<String>) {
        let Some(field) = definition.get("resources") else {
            self.reader.missing(definition, "resources", "give at least `cpu` and `ram`");
            return (Resources::default(), Vec::new());
        };
        let Some(fields) = self.reader.mapping(&field, Some("write `cpu: 2` and `ram: 4` below it")) else {
            return (Resources::default(), Vec::new());
        };
        self.reader.unknown(&fields, &RESOURCES);
        let cpu = self.amount(&fields, "cpu", " of threads", "write `cpu: 2`, the number of threads");
        let ram_gb = self.amount(&fields, "ram", " of GB", "write `ram: 4`, in GB");
        let (disks, names) = self.disks(&fields);
        let resources = Resources {
            node_filter: self.node_filter(&fields),
            cpu,
            ram_gb,
            disks,
            multitenancy: self.reader.flag(&fields, "multitenancy"),
            cpu_overbook: self.reader.flag(&fields, "cpu_overbook"),
            ram_overbook: self.ram_overbook(&fields),
            lifetime: self.lifetime(&fields),
        };
        self.network(&fields);
        (resources, names)
    }

    fn amount(&mut self, fields: &Fields<'_>, key: &str, unit: &str, hint: &str) -> u32 {
        if fields.get(key).is_none() {
            self.reader.missing(fields, key, hint);
            return 1;
        }
        self.reader.u32(fields, key, unit, 1).unwrap_or(1)
    }

    /// `mem_overbook` is what the older shape calls it.
    fn ram_overbook(&mut self, fields: &Fields<'_>) -> bool {
        let newer = self.reader.flag(fields, "ram_overbook");
        let older = self.reader.flag(fields, "mem_overbook");
        if let (Some(field), Some(other)) = (fields.get("mem_overbook"), fields.get("ram_overbook"))
            && newer != older
        {
            let message = format!(
                "`mem_overbook` is `ram_overbook` by its older name, which line {} sets otherwise",
                other.pos().line
            );
            self.reader.error(field.pos(), &field.path, message, Some("keep `ram_overbook` only"));
        }
        newer || older
    }

    fn lifetime(&mut self, fields: &Fields<'_>) -> Lifetime {
        let Some(field) = fields.get("lifetime") else { return Lifetime::Default };
        // Fish takes a number as nanoseconds. Zero and negative mean what they say; nobody means the others.
        if let Yaml::Int(text, Some(value)) = &field.node.value {
            match value {
                0 => return Lifetime::Default,
                i128::MIN..0 => return Lifetime::Unlimited,
                _ => {
                    let shown = crate::names::shorten(text);
                    let hint = format!("add the unit: {shown}s, {shown}m or {shown}h");
                    self.reader.error(
                        field.pos(),
                        &field.path,
                        format!("missing unit in duration {shown}"),
                        Some(&hint),
                    );
                    return Lifetime::Default;
                }
            }
        }
        let hint = "write it as `1h30m`; units are ns, us, ms, s, m, h, d, w, M (30 days) and y; negative is no limit";
        self.reader.parsed(Some(field), Some(hint)).unwrap_or_default()
    }

    fn network(&mut self, fields: &Fields<'_>) {
        let Some(field) = fields.get("network") else { return };
        let Some(text) = self.reader.text(&field) else { return };
        match text.as_str() {
            "" => {}
            "nat" => self.reader.warn(
                field.pos(),
                &field.path,
                "no effect for this driver: environments use the host's network",
                None,
            ),
            other => {
                let message =
                    format!("unknown network {:?}, expected an empty text or `nat`", crate::names::shorten(other));
                self.reader.error(field.pos(), &field.path, message, Some("leave it out: this driver has no networks"));
            }
        }
    }

    fn node_filter(&mut self, fields: &Fields<'_>) -> Vec<NodePattern> {
        let hint = "patterns are those of Go's path.Match: `*`, `?`, `[a-z]`, and `\\` before a literal character";
        let mut patterns = Vec::new();
        for (field, text) in self.reader.texts(fields, "node_filter") {
            let Some(pattern) = self.reader.parse_text::<NodePattern>(&field, &text, Some(hint)) else { continue };
            if let Some((key, _)) = text.split_once(':')
                && !IDENTIFIERS.contains(&key)
                && let Some(meant) = IDENTIFIERS.into_iter().find(|known| known.eq_ignore_ascii_case(key))
            {
                let message = format!("a node's identifiers are case-sensitive, and `{key}:` is spelled `{meant}:`");
                self.reader.warn(field.pos(), &field.path, message, None);
            }
            patterns.push(pattern);
        }
        patterns
    }

    fn disks(&mut self, fields: &Fields<'_>) -> (BTreeMap<DiskName, Disk>, Vec<String>) {
        // Enough for any workload; more is a mistake that would cost a loop device each.
        const MOST: usize = 64;
        let (mut disks, mut names) = (BTreeMap::new(), Vec::new());
        let Some(field) = fields.get("disks") else { return (disks, names) };
        let hint = "write `NAME: { size: 10 }` below it";
        let Some(fields) = self.reader.mapping(&field, Some(hint)) else { return (disks, names) };
        if fields.entries.len() > MOST {
            let message = format!("{} disks, at most {MOST} are possible", fields.entries.len());
            self.reader.error(field.pos(), &field.path, message, None);
            return (disks, names);
        }
        for (key, node) in fields.entries {
            names.push(key.text.clone());
            let path = fields.path_of(&key.text);
            let name = match key.text.parse::<DiskName>() {
                Ok(name) => Some(name),
                Err(error) => {
                    self.reader.error(key.pos, &path, error, Some("the name becomes a directory and a template field"));
                    None
                }
            };
            let disk = self.disk(&Field { path, node });
            if let (Some(name), Some(disk)) = (name, disk) {
                disks.insert(name, disk);
            }
        }
        (disks, names)
    }

    fn disk(&mut self, field: &Field<'_>) -> Option<Disk> {
        let hint = match &field.node.value {
            Yaml::Int(text, _) => Some(format!("write `{{ size: {} }}`", crate::names::shorten(text))),
            Yaml::Null => Some("give at least `size`, in GB".to_owned()),
            _ => None,
        };
        let fields = self.reader.mapping(field, hint.as_deref())?;
        self.reader.unknown(&fields, &DISK);
        let clone = self.clone_path(&fields);
        let least = u32::from(clone.is_none());
        let size_gb = match fields.get("size") {
            Some(_) => self.reader.u32(&fields, "size", " of GB", least),
            None if clone.is_some() => Some(0),
            None => {
                self.reader.missing(&fields, "size", "give it in GB, at least 1 (a clone may leave it out)");
                None
            }
        };
        let kind = self.kind(&fields);
        let label = self.disk_label(&fields);
        let reuse = self.reader.flag(&fields, "reuse");
        Some(Disk { size_gb: size_gb?, kind, label, reuse, clone })
    }

    fn clone_path(&mut self, fields: &Fields<'_>) -> Option<String> {
        let field = fields.get("clone")?;
        let text = self.reader.text(&field).filter(|text| !text.is_empty())?;
        let bad = if text.chars().any(char::is_control) {
            Some("the path has a control character")
        } else if text.split('/').any(|part| part == "..") {
            Some("the path contains `..`")
        } else if text.len() > 4095 {
            Some("the path is longer than 4095 bytes")
        } else {
            None
        };
        if let Some(message) = bad {
            self.reader.error(
                field.pos(),
                &field.path,
                message,
                Some("give the path of what the disk starts as a copy of"),
            );
            return None;
        }
        Some(text)
    }

    fn kind(&mut self, fields: &Fields<'_>) -> DiskKind {
        let Some(field) = fields.get("type") else { return DiskKind::Default };
        let Some(text) = self.reader.text(&field) else { return DiskKind::Default };
        match text.as_str() {
            "" => return DiskKind::Default,
            "dir" => return DiskKind::Dir,
            _ => {}
        }
        let fine = text.len() <= 32
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_' | '.' | ' '));
        if !fine {
            let message = format!("{:?} is not the name of a file system", crate::names::shorten(&text));
            self.reader.error(
                field.pos(),
                &field.path,
                message,
                Some("write `dir`, a file system like `ext4`, or leave it out"),
            );
            return DiskKind::Default;
        }
        let lower = text.to_ascii_lowercase();
        if self.target == Target::Linux && (lower.contains("apfs") || lower.contains("hfs")) {
            let message = format!("a Linux host can't make the file system `{text}`");
            self.reader.warn(
                field.pos(),
                &field.path,
                message,
                Some("leave `type` out to take what the platform prefers"),
            );
        }
        DiskKind::Fs(text)
    }

    fn disk_label(&mut self, fields: &Fields<'_>) -> Option<String> {
        let field = fields.get("label")?;
        let text = self.reader.text(&field).filter(|text| !text.is_empty())?;
        let fine = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' '))
            && !text.contains("..");
        if !fine {
            let message = format!("the disk label {:?} is not allowed", crate::names::shorten(&text));
            let hint = "use up to 64 letters, digits, blanks, `.`, `_` and `-`, with a letter or digit first";
            self.reader.error(field.pos(), &field.path, message, Some(hint));
            return None;
        }
        if self.target == Target::Linux && text.len() > LINUX_LABEL {
            let message = format!("file systems on Linux keep {LINUX_LABEL} characters of a label");
            self.reader.warn(field.pos(), &field.path, message, None);
        }
        Some(text)
    }
}
