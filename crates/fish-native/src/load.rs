//! Reads what people wrote: configurations, labels, metadata. The one place that opens these files.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use native_config::{
    Checked, Definition, DriverConfig, FileFacts, InstanceName, Label, Metadata, NodeConfig, Problem, Severity, Source,
    Target,
};
use serde_json::json;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::render;

/// The most that a file of ours may hold: far more than anybody writes, and far less than it takes to hurt.
const LARGEST: u64 = 16 << 20;

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// When it can't be read, is not text, or is absurdly large.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let name = name(path);
    let failed = |error: io::Error| {
        let failure = Failure::new(Exit::Usage, "read", format!("could not read {name}"));
        Failure { causes: vec![error.to_string()], ..failure }
    };
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        fs::File::open(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::new(Exit::Usage, "read", format!("{name} is larger than {LARGEST} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(Exit::Usage, "read", format!("{name} is not UTF-8 text")))
}

/// A file's name in messages.
pub(crate) fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// The failure that shows all problems of a file, drawn.
pub(crate) fn refused(what: &'static str, name: &str, text: &str, problems: &[Problem], printer: &Printer) -> Failure {
    let mut errors = problems.iter().filter(|p| p.severity == Severity::Error);
    let first = errors.next();
    let mut message = match first {
        Some(p) if p.field.is_empty() => format!("{name}:{}:{}: {}", p.line, p.column, p.message),
        Some(p) => format!("{name}:{}:{}: {}: {}", p.line, p.column, p.field, p.message),
        None => format!("{name} is refused"),
    };
    let more = errors.count();
    if more > 0 {
        message.push_str(&format!(" (and {more} more)"));
    }
    let mut drawn = render::problems(text, problems, printer.colours_stderr());
    drawn.push_str(&format!("the {what} {name} is refused\n"));
    let mut failure = Failure::new(Exit::Usage, what, message).with("problems", json!(problems));
    failure.hint = first.and_then(|p| p.hint.clone());
    failure.detail.rendered = Some(drawn);
    failure
}

/// A value without errors; its warnings are printed.
fn accept<T>(what: &'static str, source: &Source<'_>, checked: Checked<T>, printer: &Printer) -> Result<T, Failure> {
    match checked.into_result() {
        Ok((value, warnings)) => {
            if !warnings.is_empty() {
                printer.drawn_warning(&render::problems(source.text, &warnings, printer.colours_stderr()));
            }
            Ok(value)
        }
        Err(problems) => Err(refused(what, source.name, source.text, &problems.0, printer)),
    }
}

/// The configuration's file: as asked for, else the first of the usual places, else none.
pub(crate) fn config_file(asked: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = asked {
        return Some(path.to_owned());
    }
    if let Some(path) = env::var_os("FISH_NATIVE_CONFIG").filter(|p| !p.is_empty()) {
        return Some(PathBuf::from(path));
    }
    ["fish-native.yml", "/etc/fish-native/config.yml"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

/// One instance of the configuration.
///
/// # Errors
/// When the file is wrong or has no such instance.
pub(crate) fn config(
    target: Target,
    printer: &Printer,
    asked: Option<&Path>,
    instance: &str,
) -> Result<(InstanceName, DriverConfig), Failure> {
    let instance: InstanceName = instance.parse().map_err(|e| {
        Failure::usage("--instance").because_of(&e).hint("instances are called `native` or `native/NAME`")
    })?;
    let Some(path) = config_file(asked) else {
        return match instance == InstanceName::default() {
            true => Ok((instance, DriverConfig::default())),
            false => Err(Failure::usage(format!("there is no configuration, so there is no instance {instance}"))),
        };
    };
    let text = text(&path)?;
    let name = name(&path);
    let source = Source::new(&name, &text);
    let node = accept("config", &source, native_config::parse_config(&source, target), printer)?;
    let NodeConfig { mut instances } = node;
    let Some(config) = instances.remove(&instance) else {
        let known: Vec<_> = instances.keys().map(ToString::to_string).collect();
        return Err(Failure::new(Exit::Usage, "config", format!("{name} has no instance {instance}"))
            .hint(format!("it has {}", known.join(", "))));
    };
    let tools = config.check_tools(&source, &facts);
    if !tools.is_empty() {
        return Err(refused("config", &name, &text, &tools, printer));
    }
    Ok((instance, config))
}

/// What there is at a tool's path.
pub(crate) fn facts(path: &Path) -> FileFacts {
    let Ok(file) = fs::metadata(path) else {
        return FileFacts { exists: false, is_file: false, executable: false, writable_by_others: false };
    };
    let own = rustix::process::geteuid().as_raw();
    let safe = |m: &fs::Metadata| {
        let mode = m.permissions().mode();
        // A sticky directory (/tmp) lets others add, not replace.
        (m.uid() == 0 || m.uid() == own) && (mode & 0o022 == 0 || (m.is_dir() && mode & 0o1000 != 0))
    };
    // Links are followed first: what counts is where the file really is.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let others = real.ancestors().any(|p| fs::metadata(p).is_ok_and(|m| !safe(&m)));
    FileFacts {
        exists: true,
        is_file: file.is_file(),
        executable: file.permissions().mode() & 0o111 != 0,
        writable_by_others: others,
    }
}

/// A label.
///
/// # Errors
/// When it is wrong.
pub(crate) fn label(target: Target, printer: &Printer, path: &Path) -> Result<Label, Failure> {
    let text = text(path)?;
    let name = name(path);
    let source = Source::new(&name, &text);
    accept("label", &source, native_config::parse_label(&source, target), printer)
}

/// The definition to work with: the one that is asked for, else the first for this instance.
///
/// # Errors
/// When there is none.
pub(crate) fn definition(label: &Label, instance: &InstanceName, index: Option<usize>) -> Result<Definition, Failure> {
    let drivers = || label.definitions.iter().map(|d| d.driver.as_str()).collect::<Vec<_>>().join(", ");
    let fits = |d: &&Definition| d.driver == instance.as_str();
    match index {
        Some(index) => match label.definitions.get(index) {
            Some(definition) if fits(&definition) => Ok(definition.clone()),
            Some(definition) => Err(Failure::new(
                Exit::Usage,
                "label",
                format!("definition {index} is for the driver {}, not for {instance}", definition.driver),
            )
            .hint(format!("--instance {}, or another --definition", definition.driver))),
            None => Err(Failure::usage(format!(
                "there is no definition {index}: the label has {}, from 0",
                label.definitions.len()
            ))),
        },
        None => label.definitions.iter().find(fits).cloned().ok_or_else(|| {
            Failure::new(Exit::Usage, "label", format!("the label has no definition for {instance}"))
                .hint(format!("it has definitions for {}; `--instance` chooses among native ones", drivers()))
        }),
    }
}

/// The application's metadata: a file, and pairs over it.
///
/// # Errors
/// When the file or a pair is wrong.
pub(crate) fn metadata(printer: &Printer, file: Option<&Path>, pairs: &[String]) -> Result<Metadata, Failure> {
    let pairs = Metadata::from_pairs(pairs).map_err(|e| Failure::usage("-m").because_of(&e))?;
    let Some(path) = file else { return Ok(pairs) };
    let text = text(path)?;
    let name = name(path);
    let source = Source::new(&name, &text);
    Ok(accept("metadata", &source, Metadata::parse_file(&source), printer)?.merged_with(&pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Label {
        let source = Source::new("label.yml", text);
        native_config::parse_label(&source, Target::Linux).value.unwrap()
    }

    #[test]
    fn the_definition_of_the_instance_is_chosen() {
        let text = "definitions:\n- {driver: docker}\n- {driver: native/big, resources: {cpu: 8, ram: 8}}\n\
                    - {driver: native, resources: {cpu: 2, ram: 2}}\n";
        let label = parsed(text);
        let small = InstanceName::default();
        let big: InstanceName = "native/big".parse().unwrap();
        assert_eq!(definition(&label, &small, None).unwrap().resources.cpu, 2);
        assert_eq!(definition(&label, &big, None).unwrap().resources.cpu, 8);
        assert_eq!(definition(&label, &big, Some(1)).unwrap().resources.cpu, 8);
        let wrong = definition(&label, &small, Some(1)).unwrap_err();
        assert!(wrong.hint.unwrap().contains("--instance native/big"));
        assert!(definition(&label, &small, Some(0)).unwrap_err().message.contains("docker"));
        assert!(definition(&label, &small, Some(3)).unwrap_err().message.contains("has 3"));
        let other: InstanceName = "native/other".parse().unwrap();
        assert!(definition(&label, &other, None).unwrap_err().hint.unwrap().contains("docker, native/big, native"));
    }

    #[test]
    fn what_others_may_write_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool");
        fs::write(&file, "").unwrap();
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o755);
        let found = facts(&file);
        assert!(found.exists && found.is_file && found.executable && !found.writable_by_others, "{found:?}");
        mode(0o777);
        assert!(facts(&file).writable_by_others);
        mode(0o644);
        assert!(!facts(&file).executable);
        assert!(!facts(dir.path()).is_file);
        assert!(!facts(&dir.path().join("none")).exists);
    }
}
