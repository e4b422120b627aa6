//! What people write: driver config and label definitions, from text to typed values or errors with a place and a hint.
//!
//! Both generations of Fish's files are read, as YAML or JSON, with the same meaning. A file is read to its end: all
//! problems are told at once, each a [`Problem`] with file, line, column, the field's path and, where it is known, the
//! way to mend it. What has no effect on the platform in question is a warning.
//!
//! What this crate does not do: it opens no file, reads no clock and no environment, and starts nothing. The caller
//! brings the text and, for paths of tools, the facts about the files ([`DriverConfig::check_tools`]).
//!
//! # Example
//!
//! ```
//! use native_config::{Source, Target, TemplateContext, environment, parse_label, Metadata};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"
//! name: lin-ci
//! version: 1
//! metadata: { WORKSPACE: "{{ .Disks.ws }}" }
//! definitions:
//!   - driver: native
//!     options: { entry: "{{ .Disks.ws }}/init.sh" }
//!     resources: { cpu: 4, ram: 8, disks: { ws: { size: 10 } } }
//! "#;
//! let (label, warnings) = parse_label(&Source::new("lin-ci.yml", text), Target::Linux).into_result()?;
//! assert!(warnings.is_empty());
//!
//! let mut context = TemplateContext { user: "fish-abcdef".into(), ..TemplateContext::default() };
//! context.disks.insert("ws".into(), "/home/fish-abcdef/ws".into());
//! let entry = label.definitions[0].render_entry(&context)?;
//! assert_eq!(entry.to_str(), Some("/home/fish-abcdef/ws/init.sh"));
//! let variables = environment(&Metadata::default(), &label.metadata, &context)?;
//! assert_eq!(variables, [("WORKSPACE".to_owned(), "/home/fish-abcdef/ws".to_owned())]);
//!
//! let wrong = parse_label(&Source::new("lin-ci.yml", &text.replace("cpu: 4", "cpus: 4")), Target::Linux);
//! assert_eq!(
//!     wrong.problems[1].to_string(),
//!     "lin-ci.yml:8:18: error: definitions[0].resources.cpus: unknown field `cpus` (hint: did you mean `cpu`?)"
//! );
//! # Ok(()) }
//! ```
//!
//! # Invariants
//!
//! - A [`Checked::value`] is there exactly when no problem is an error.
//! - Every name that becomes a path or an account is a newtype with an alphabet without `/`, `..` and control
//!   characters.
//! - No text, however long or deep, makes a reader panic, overflow its stack or take memory beyond a small multiple of
//!   the text.
//! - A password is never part of a problem or of `Debug`.
mod checksum;
mod config;
mod config_read;
mod driver_read;
mod duration;
mod image_name;
mod image_read;
mod label;
mod label_read;
mod metadata;
mod names;
mod origin;
mod pattern;
mod problem;
mod reader;
mod resources_read;
mod schema;
mod sniff;
mod template;
mod template_walk;
mod tools;
mod tree;

pub use checksum::{Checksum, ChecksumError, SumAlgo};
pub use config::{AccountKind, AlterError, DriverConfig, Isolation, LimitsMode, NodeConfig, Privilege, Tenancy};
pub use config_read::parse_config;
pub use duration::{DurationError, Lifetime, parse_fish_duration, parse_go_duration, parse_length};
pub use image_name::{ImageNameError, image_name, image_version};
pub use label::{Definition, Disk, DiskKind, EntryError, Image, Label, Resources};
pub use label_read::parse_label;
pub use metadata::{Metadata, MetadataError, environment};
pub use names::{DiskName, EnvironmentId, GroupName, ImageName, ImageVersion, InstanceName, NameError};
pub use origin::{Origin, OriginError, ProxyUrl};
pub use pattern::{NodePattern, PatternError, path_match};
pub use problem::{Checked, Problem, Problems, Severity, Source, Target};
pub use schema::{json_schema_config, json_schema_label};
pub use sniff::{Kind, sniff};
pub use template::{Template, TemplateContext, TemplateError};
pub use tools::{FileFacts, ToolKey};
