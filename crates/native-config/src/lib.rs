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
//! # Features
//!
//! `files` (default) is the reading of files. Without it there are the names and modes alone, which cross the privilege
//! boundary: the root helper is built with no parser but that of its own rules.
//!
//! # Invariants
//!
//! - A [`Checked::value`] is there exactly when no problem is an error.
//! - Every name that becomes a path or an account is a newtype with an alphabet without `/`, `..` and control
//!   characters.
//! - No text, however long or deep, makes a reader panic, overflow its stack or take memory beyond a small multiple of
//!   the text.
//! - A password is never part of a problem or of `Debug`.
mod groups;
mod modes;
mod names;

pub use groups::GroupStanding;
pub use modes::{AccountKind, Isolation, LimitsMode, Privilege, Target};
pub use names::{DiskName, EnvironmentId, GroupName, ImageName, ImageVersion, InstanceName, NameError};

#[cfg(feature = "files")]
mod checksum;
#[cfg(feature = "files")]
mod config;
#[cfg(feature = "files")]
mod config_read;
#[cfg(feature = "files")]
mod driver_read;
#[cfg(feature = "files")]
mod duration;
#[cfg(feature = "files")]
mod image_name;
#[cfg(feature = "files")]
mod image_read;
#[cfg(feature = "files")]
mod label;
#[cfg(feature = "files")]
mod label_read;
#[cfg(feature = "files")]
mod metadata;
#[cfg(feature = "files")]
mod origin;
#[cfg(feature = "files")]
mod pattern;
#[cfg(feature = "files")]
mod problem;
#[cfg(feature = "files")]
mod reader;
#[cfg(feature = "files")]
mod resources_read;
#[cfg(feature = "files")]
mod schema;
#[cfg(feature = "files")]
mod sniff;
#[cfg(feature = "files")]
mod template;
#[cfg(feature = "files")]
mod template_walk;
#[cfg(feature = "files")]
mod tools;
#[cfg(feature = "files")]
mod tree;

#[cfg(feature = "files")]
pub use self::{
    checksum::{Checksum, ChecksumError, SumAlgo},
    config::{AlterError, DriverConfig, NodeConfig, Tenancy},
    config_read::parse_config,
    duration::{DurationError, Lifetime, parse_fish_duration, parse_go_duration, parse_length},
    image_name::{ImageNameError, image_name, image_version},
    label::{Definition, Disk, DiskKind, EntryError, Image, Label, Resources},
    label_read::parse_label,
    metadata::{Metadata, MetadataError, environment},
    origin::{Origin, OriginError, ProxyUrl},
    pattern::{NodePattern, PatternError, path_match},
    problem::{Checked, Problem, Problems, Severity, Source},
    schema::{json_schema_config, json_schema_label},
    sniff::{Kind, sniff},
    template::{Template, TemplateContext, TemplateError},
    tools::{FileFacts, ToolKey},
};
