//! The driver's own mapping: every key of one instance.

use crate::config::{DriverConfig, Tenancy};
use crate::config_read::ConfigReader;
use crate::modes::{AccountKind, Isolation, LimitsMode};
use crate::reader::{Field, Fields, Known};
use crate::tree::Yaml;
use crate::{GroupName, Lifetime, ToolKey};
use crate::{Privilege, Target};
use bytesize::ByteSize;
use secrecy::SecretString;
use std::path::PathBuf;
use std::time::Duration;

/// Every key that is not the path of a tool.
pub(crate) const DRIVER_KEYS: &[&str] = &[
    "images_path",
    "workspace_path",
    "cpu_alter",
    "ram_alter",
    "cpu_overbook",
    "ram_overbook",
    "download_user",
    "download_password",
    "download_origins",
    "download_ca",
    "download_proxy",
    "privilege",
    "account",
    "isolation",
    "limits",
    "tenancy",
    "uid_min",
    "uid_max",
    "home_size",
    "tmp_size",
    "log_size",
    "stop_grace",
    "default_lifetime",
    "writable_paths",
    "allowed_groups",
    "allow_setuid",
    "images_max_size",
    "images_memory",
    "slots",
    "node_identifiers",
    "pids_max",
    "open_files",
];

const INSTEAD: &[(&str, &str)] = &[
    ("mem_alter", "did you mean `ram_alter`?"),
    ("mem_overbook", "did you mean `ram_overbook`?"),
    ("user", "did you mean `download_user`?"),
    ("password", "did you mean `download_password`?"),
    ("images", "did you mean `images_path`?"),
    ("workspace", "did you mean `workspace_path`?"),
    ("definitions", "this is a label, not a config"),
    ("driver", "did you mean `drivers`?"),
];

const SIZE_HINT: &str = "write a number with its unit: 500MB, 10GB (10^9), 10GiB (2^30)";
const GRACE_HINT: &str = "write it as `5s` or `1m30s`";
/// Nobody waits longer for a workload to stop; a greater value is a slip of the unit.
const MOST_GRACE: Duration = Duration::from_secs(3_600);

impl ConfigReader<'_> {
    /// Reads one instance. Keys in `beside` belong to somebody else and are told as having no effect.
    pub(crate) fn driver(&mut self, fields: &Fields<'_>, beside: &[&str]) -> DriverConfig {
        let tools: Vec<&str> = ToolKey::ALL.into_iter().map(ToolKey::key).collect();
        let known = [DRIVER_KEYS, &tools].concat();
        let ignored: Vec<(&str, &str)> =
            beside.iter().map(|key| (*key, "a key of a Fish node, no effect in the driver's own config")).collect();
        self.reader.unknown(fields, &Known { fields: &known, ignored: &ignored, instead: INSTEAD });

        let defaults = DriverConfig::default();
        let mut config = DriverConfig {
            images_path: self.path(fields, "images_path"),
            workspace_path: self.path(fields, "workspace_path"),
            cpu_alter: self.signed(fields, "cpu_alter"),
            ram_alter: self.signed(fields, "ram_alter"),
            cpu_overbook: self.reader.u32(fields, "cpu_overbook", " of threads", 0).unwrap_or(0),
            ram_overbook: self.reader.u32(fields, "ram_overbook", " of GB", 0).unwrap_or(0),
            download_ca: self.absolute(fields, "download_ca"),
            download_proxy: self.reader.parsed(fields.get("download_proxy"), Some("write it as `http://host:port`")),
            privilege: self.choice(
                fields,
                "privilege",
                &[
                    ("auto", Privilege::Auto),
                    ("root", Privilege::Root),
                    ("helper", Privilege::Helper),
                    ("sudo-commands", Privilege::SudoCommands),
                ],
            ),
            account: self.choice(
                fields,
                "account",
                &[("real", AccountKind::Real), ("ephemeral", AccountKind::Ephemeral)],
            ),
            isolation: self.choice(
                fields,
                "isolation",
                &[("private", Isolation::Private), ("basic", Isolation::Basic)],
            ),
            limits: self.choice(
                fields,
                "limits",
                &[("hard", LimitsMode::Hard), ("soft", LimitsMode::Soft), ("off", LimitsMode::Off)],
            ),
            tenancy: self.choice(fields, "tenancy", &[("strict", Tenancy::Strict), ("lenient", Tenancy::Lenient)]),
            home_size: self.size(fields, "home_size"),
            tmp_size: self.size(fields, "tmp_size"),
            log_size: self.size(fields, "log_size").unwrap_or(defaults.log_size),
            stop_grace: self.grace(fields).unwrap_or(defaults.stop_grace),
            default_lifetime: self.lifetime(fields),
            allowed_groups: self.groups(fields),
            allow_setuid: self.reader.flag(fields, "allow_setuid"),
            images_max_size: self.size(fields, "images_max_size"),
            images_memory: self.size(fields, "images_memory"),
            slots: self.reader.u32(fields, "slots", "", 1),
            pids_max: self.reader.u32(fields, "pids_max", "", 1).unwrap_or(defaults.pids_max),
            open_files: self.open_files(fields).unwrap_or(defaults.open_files),
            ..defaults
        };
        self.download(fields, &mut config);
        self.uids(fields, &mut config);
        self.paths(fields, &mut config);
        self.node_identifiers(fields, &mut config);
        self.tools(fields, &mut config);
        self.no_effect(fields, &config);
        config
    }

    fn signed(&mut self, fields: &Fields<'_>, key: &str) -> i32 {
        let value = fields
            .get(key)
            .and_then(|field| self.reader.number(&field, "", i128::from(i32::MIN), i128::from(i32::MAX)));
        value.and_then(|value| i32::try_from(value).ok()).unwrap_or(0)
    }

    fn open_files(&mut self, fields: &Fields<'_>) -> Option<u64> {
        // Fewer than this and a shell can't start.
        let value = self.reader.number(&fields.get("open_files")?, "", 16, i128::from(i64::MAX))?;
        u64::try_from(value).ok()
    }

    fn choice<T: Copy + Default>(&mut self, fields: &Fields<'_>, key: &str, choices: &[(&str, T)]) -> T {
        let Some(field) = fields.get(key) else { return T::default() };
        // `limits: off` is a text in YAML 1.2, but writers for YAML 1.1 turn it into false.
        if let (Yaml::Bool(false), Some((_, value))) =
            (&field.node.value, choices.iter().find(|(name, _)| *name == "off"))
        {
            return *value;
        }
        let Some(text) = self.reader.text(&field) else { return T::default() };
        let spelled = text.replace('_', "-");
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == spelled) {
            return *value;
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let message = format!("unknown value {:?}, expected {}", crate::names::shorten(&text), names.join(", "));
        let hint = crate::reader::nearest(&text, names.iter().copied()).map(|name| format!("did you mean `{name}`?"));
        self.reader.error(field.pos(), &field.path, message, hint.as_deref());
        T::default()
    }

    fn size(&mut self, fields: &Fields<'_>, key: &str) -> Option<u64> {
        let field = fields.get(key)?;
        if let Yaml::Int(text, _) | Yaml::Float(text) = &field.node.value {
            let message = format!("missing unit in size {}", crate::names::shorten(text));
            self.reader.error(field.pos(), &field.path, message, Some(SIZE_HINT));
            return None;
        }
        let text = self.reader.text(&field)?;
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim();
        let message = match text.parse::<ByteSize>() {
            _ if unit.is_empty() => format!("missing unit in size {:?}", crate::names::shorten(&text)),
            // The library stops at the greatest value instead of failing.
            Ok(ByteSize(u64::MAX)) => format!("the size {:?} is too big", crate::names::shorten(&text)),
            Ok(ByteSize(0)) => "the size is zero".to_owned(),
            Ok(size) => return Some(size.as_u64()),
            Err(_) => format!("invalid size {:?}", crate::names::shorten(&text)),
        };
        self.reader.error(field.pos(), &field.path, message, Some(SIZE_HINT));
        None
    }

    fn grace(&mut self, fields: &Fields<'_>) -> Option<Duration> {
        let field = fields.get("stop_grace")?;
        if let Yaml::Int(text, value) = &field.node.value {
            if *value == Some(0) {
                return Some(Duration::ZERO);
            }
            let message = format!("missing unit in duration {}", crate::names::shorten(text));
            self.reader.error(field.pos(), &field.path, message, Some(GRACE_HINT));
            return None;
        }
        let text = self.reader.text(&field)?;
        match crate::parse_length(&text) {
            Ok(length) if length > MOST_GRACE => {
                self.reader.error(
                    field.pos(),
                    &field.path,
                    "more than 1h, the greatest possible value",
                    Some(GRACE_HINT),
                );
                None
            }
            Ok(length) => Some(length),
            Err(error) => {
                self.reader.error(field.pos(), &field.path, error, Some(GRACE_HINT));
                None
            }
        }
    }

    fn lifetime(&mut self, fields: &Fields<'_>) -> Lifetime {
        let Some(field) = fields.get("default_lifetime") else { return Lifetime::Default };
        match &field.node.value {
            Yaml::Int(_, Some(0)) => return Lifetime::Default,
            Yaml::Int(_, Some(i128::MIN..0)) => return Lifetime::Unlimited,
            Yaml::Int(text, _) => {
                let message = format!("missing unit in duration {}", crate::names::shorten(text));
                self.reader.error(field.pos(), &field.path, message, Some("write it as `1h30m`"));
                return Lifetime::Default;
            }
            _ => {}
        }
        self.reader.parsed(Some(field), Some("write it as `1h30m`; negative is no limit")).unwrap_or_default()
    }

    /// A path as written; an empty text is the same as no key, as in Go.
    fn path(&mut self, fields: &Fields<'_>, key: &str) -> Option<PathBuf> {
        let field = fields.get(key)?;
        let text = self.reader.text(&field).filter(|text| !text.is_empty())?;
        if text.chars().any(char::is_control) {
            self.reader.error(field.pos(), &field.path, "the path has a control character", Some("remove it"));
            return None;
        }
        Some(PathBuf::from(text))
    }

    fn absolute(&mut self, fields: &Fields<'_>, key: &str) -> Option<PathBuf> {
        let path = self.path(fields, key)?;
        if path.is_absolute() {
            return Some(path);
        }
        let field = fields.get(key)?;
        let message = format!("{} is not absolute", crate::names::shorten(&path.to_string_lossy()));
        self.reader.error(field.pos(), &field.path, message, Some("write the path from `/` on"));
        None
    }

    fn download(&mut self, fields: &Fields<'_>, config: &mut DriverConfig) {
        config.download_user =
            fields.get("download_user").and_then(|field| self.reader.text(&field)).filter(|user| !user.is_empty());
        config.download_password = fields.get("download_password").and_then(|field| self.password(&field));
        for (field, text) in self.reader.texts(fields, "download_origins") {
            let hint = "write it as `https://host` or `https://host:port`";
            if let Some(origin) = self.reader.parse_text(&field, &text, Some(hint)) {
                config.download_origins.push(origin);
            }
        }
        for (key, other, set) in [
            (
                "download_user",
                "download_password",
                config.download_user.is_some() && config.download_password.is_none(),
            ),
            (
                "download_password",
                "download_user",
                config.download_password.is_some() && config.download_user.is_none(),
            ),
        ] {
            if let (true, Some(field)) = (set, fields.get(key)) {
                let message = format!("no effect without `{other}`");
                self.reader.warn(field.pos(), &field.path, message, None);
            }
        }
        if let Some(user) = &config.download_user
            && user.contains(':')
            && let Some(field) = fields.get("download_user")
        {
            self.reader.error(field.pos(), &field.path, "a user of HTTP basic authentication can't have a `:`", None);
        }
    }

    /// The general message for a wrong type shows the value, which must not happen here.
    fn password(&mut self, field: &Field<'_>) -> Option<SecretString> {
        match &field.node.value {
            Yaml::Str(text) if text.is_empty() => None,
            Yaml::Str(text) => Some(SecretString::from(text.as_str())),
            _ => {
                self.reader.error(field.pos(), &field.path, "expected a text", Some("put the password in quotes"));
                None
            }
        }
    }

    fn uids(&mut self, fields: &Fields<'_>, config: &mut DriverConfig) {
        // Below are the system's and people's accounts; 65534 and 65535 are nobody and the old -1; the last one is -1.
        const LEAST: u32 = 1_000;
        let most = i128::from(u32::MAX - 1);
        for (key, slot) in [("uid_min", &mut config.uid_min), ("uid_max", &mut config.uid_max)] {
            if let Some(field) = fields.get(key)
                && let Some(value) = self.reader.number(&field, "", i128::from(LEAST), most)
            {
                *slot = u32::try_from(value).unwrap_or(*slot);
            }
        }
        let place = fields.get("uid_max").or_else(|| fields.get("uid_min"));
        let Some(field) = place else { return };
        if config.uid_min > config.uid_max {
            let message = format!("the range of uids is empty: {} to {}", config.uid_min, config.uid_max);
            self.reader.error(field.pos(), &field.path, message, Some("`uid_min` must not be more than `uid_max`"));
        } else if config.uid_min <= 65_535 && config.uid_max >= 65_534 {
            let message = "the range of uids includes 65534 or 65535, which systems give a meaning of their own";
            self.reader.error(field.pos(), &field.path, message, Some("the default is 70000 to 79999"));
        }
    }

    fn paths(&mut self, fields: &Fields<'_>, config: &mut DriverConfig) {
        for (field, text) in self.reader.texts(fields, "writable_paths") {
            let path = PathBuf::from(&text);
            let bad = if !path.is_absolute() {
                Some("the path is not absolute")
            } else if text.chars().any(char::is_control) {
                Some("the path has a control character")
            } else if text.split('/').any(|part| part == "..") {
                Some("the path contains `..`")
            } else if path.parent().is_none() {
                Some("`/` would make the whole host writable")
            } else {
                None
            };
            match bad {
                Some(message) => {
                    self.reader.error(field.pos(), &field.path, message, Some("give a directory from `/` on"))
                }
                None => config.writable_paths.push(path),
            }
        }
    }

    fn groups(&mut self, fields: &Fields<'_>) -> Vec<GroupName> {
        let texts = self.reader.texts(fields, "allowed_groups");
        texts.iter().filter_map(|(field, text)| self.reader.parse_text(field, text, None)).collect()
    }

    fn node_identifiers(&mut self, fields: &Fields<'_>, config: &mut DriverConfig) {
        if fields.get("node_identifiers").is_none() {
            return;
        }
        let texts = self.reader.texts(fields, "node_identifiers");
        config.node_identifiers = Some(texts.into_iter().map(|(_, text)| text).collect());
    }

    fn tools(&mut self, fields: &Fields<'_>, config: &mut DriverConfig) {
        for tool in ToolKey::ALL {
            let Some(path) = self.absolute(fields, tool.key()) else { continue };
            if tool.is_macos_only() && self.target == Target::Linux {
                if let Some(field) = fields.get(tool.key()) {
                    self.reader.warn(field.pos(), &field.path, "no effect on Linux", None);
                }
                continue;
            }
            config.tools.insert(tool, path);
        }
    }

    /// Values that this platform can't act on.
    fn no_effect(&mut self, fields: &Fields<'_>, config: &DriverConfig) {
        if self.target == Target::Linux
            && config.privilege == Privilege::SudoCommands
            && let Some(field) = fields.get("privilege")
        {
            let hint = "use `auto` or `helper`";
            self.reader.error(field.pos(), &field.path, "`sudo-commands` exists on macOS only", Some(hint));
        }
        if self.target == Target::Macos
            && config.account == AccountKind::Ephemeral
            && let Some(field) = fields.get("account")
        {
            self.reader.error(field.pos(), &field.path, "`ephemeral` exists on Linux only", Some("use `real`"));
        }
    }
}
