//! `dscl . COMMAND PATH ...`: texts and exit codes of DSTools (Apple's published source).

use std::collections::BTreeMap;

use crate::host::{Config, Host, Record, State, now_ms};
use crate::{Reply, UNSUPPORTED};

/// Directory-services errors: number and name. The exit code is the lowest byte of the negated number.
const PERMISSION: (i32, &str) = (-14120, "eDSPermissionError");
const UNKNOWN_NODE: (i32, &str) = (-14009, "eDSUnknownNodeName");
const RECORD_NOT_FOUND: (i32, &str) = (-14136, "eDSRecordNotFound");
const ATTRIBUTE_NOT_FOUND: (i32, &str) = (-14134, "eDSAttributeNotFound");

/// Runs dscl.
pub(super) fn run(host: &Host, args: &[&str]) -> Reply {
    let [node, command, rest @ ..] = args else { return Reply::said(usage()) };
    if *node != "." {
        return Reply::failed(69, format!("Data source ({node}) is not valid.\n"));
    }
    // PathManager accepts `..`, escapes and %xx in a path; none of it is ever right for us to send.
    if rest.iter().take(1).any(|p| p.contains("..") || p.contains('\\') || p.contains('%')) {
        return Reply::failed(UNSUPPORTED, format!("FAKE: unsupported path: dscl {}\n", args.join(" ")));
    }
    let euid = host.euid();
    match (command.trim_start_matches('-'), rest) {
        ("create" | "mk", [path]) => write(host, euid, path, None, |s, p| create(s, p, None)),
        ("create" | "mk", [path, key, values @ ..]) => {
            write(host, euid, path, Some(key), |s, p| create(s, p, Some((key, values))))
        }
        ("append" | "merge", [path, key, values @ ..]) if !values.is_empty() => {
            let merge = command.ends_with("merge");
            write(host, euid, path, Some(key), |s, p| add(s, p, key, values, merge))
        }
        ("delete" | "rm", [path]) => write(host, euid, path, Some(""), delete_record),
        ("delete" | "rm", [path, key, values @ ..]) => {
            write(host, euid, path, Some(key), |s, p| delete_key(s, p, key, values))
        }
        ("change", [path, key, old, new]) => write(host, euid, path, Some(key), |s, p| change(s, p, key, old, new)),
        ("read" | "cat", [path, keys @ ..]) => read(&host.state(), path, keys),
        ("list" | "ls", [path]) => list(&host.state(), path, None),
        ("list" | "ls", [path, key]) => list(&host.state(), path, Some(key)),
        ("search", [path, key, value]) => search(&host.state(), path, key, value),
        ("create" | "mk" | "append" | "merge" | "delete" | "rm" | "change" | "read" | "list" | "search", _) => {
            Reply::failed(64, format!("Too few parameters for {command} operation\n{}", usage()))
        }
        // An unknown command prints the usage and ends with 0.
        _ => Reply::said(usage()),
    }
}

fn usage() -> String {
    "dscl (v1.0)\nusage: dscl [options] [<datasource> [<command>]]\n".to_owned()
}

/// `<main> attribute status: X` for attributes, `<main> delete status: X` for records, then the number.
fn error(verb: &str, (number, name): (i32, &str)) -> Reply {
    Reply::failed(-number & 0xff, format!("<main> {verb} status: {name}\n<dscl_cmd> DS Error: {number} ({name})\n"))
}

fn bare(out: &str, (number, name): (i32, &str)) -> Reply {
    Reply { code: -number & 0xff, out: out.to_owned(), err: format!("<dscl_cmd> DS Error: {number} ({name})\n") }
}

/// Where a path leads: the kind of record and its name.
type Place<'a> = (&'a str, &'a str);

fn place(path: &str) -> Option<Place<'_>> {
    let (kind, name) = path.strip_prefix('/')?.split_once('/')?;
    (!name.is_empty() && !name.contains('/')).then_some((kind, name))
}

fn record<'s>(state: &'s mut State, (kind, name): Place<'_>) -> Option<&'s mut Record> {
    state.od.get_mut(kind)?.get_mut(name)
}

fn write(
    host: &Host,
    euid: u32,
    path: &str,
    key: Option<&str>,
    change: impl FnOnce(&mut State, Place<'_>) -> Reply,
) -> Reply {
    let Some(place) = place(path) else {
        return bare("", UNKNOWN_NODE);
    };
    if euid != 0 || denied_by_tcc(&host.config, &host.state(), place, key) {
        return error(if key == Some("") { "delete" } else { "attribute" }, PERMISSION);
    }
    host.change(|state| {
        let reply = change(state, place);
        born(state, place);
        reply
    })
}

/// Without Full Disk Access, users can't be deleted and homes can't be changed, even by root. The home of
/// a record that has none yet can be set: upstream creates users without the grant.
fn denied_by_tcc(config: &Config, state: &State, (kind, name): Place<'_>, key: Option<&str>) -> bool {
    let record = || state.od.get(kind).and_then(|k| k.get(name));
    let protected = match key {
        Some("") => record().is_some(),
        Some("NFSHomeDirectory") => record().is_some_and(|r| r.contains_key("NFSHomeDirectory")),
        _ => false,
    };
    !config.tcc && kind == "Users" && protected
}

/// A user can be found once it has both ids.
fn born(state: &mut State, (kind, name): Place<'_>) {
    let complete = kind == "Users"
        && record(state, (kind, name)).is_some_and(|r| r.contains_key("UniqueID") && r.contains_key("PrimaryGroupID"));
    if complete {
        state.born.entry(name.to_owned()).or_insert_with(now_ms);
    } else if kind == "Users" {
        state.born.remove(name);
    }
}

fn create(state: &mut State, (kind, name): Place<'_>, attribute: Option<(&str, &[&str])>) -> Reply {
    let Some(records) = state.od.get_mut(kind) else { return bare("", UNKNOWN_NODE) };
    let count = records.len();
    let record = records.entry(name.to_owned()).or_insert_with(|| {
        let guid = format!("F15A0000-0000-4000-8000-{count:012X}");
        Record::from([("GeneratedUID".to_owned(), vec![guid]), ("RecordName".to_owned(), vec![name.to_owned()])])
    });
    if let Some((key, values)) = attribute {
        record.insert(key.to_owned(), values.iter().map(|v| (*v).to_owned()).collect());
    }
    Reply::default()
}

fn invalid_path(verb: &str) -> Reply {
    bare(&format!("{verb}: Invalid Path\n"), UNKNOWN_NODE)
}

fn add(state: &mut State, place: Place<'_>, key: &str, values: &[&str], merge: bool) -> Reply {
    // The text says `delete` for append and merge too: one function of the source serves them all.
    let Some(record) = record(state, place) else { return invalid_path("delete") };
    let list = record.entry(key.to_owned()).or_default();
    for value in values {
        if !merge || !list.iter().any(|v| v == value) {
            list.push((*value).to_owned());
        }
    }
    Reply::default()
}

fn delete_record(state: &mut State, (kind, name): Place<'_>) -> Reply {
    match state.od.get_mut(kind).and_then(|records| records.remove(name)) {
        // The groups' lists of members keep the name: macOS leaves them alone.
        Some(_) => Reply::default(),
        None => invalid_path("delete"),
    }
}

fn delete_key(state: &mut State, place: Place<'_>, key: &str, values: &[&str]) -> Reply {
    let Some(record) = record(state, place) else { return invalid_path("delete") };
    let Some(list) = record.get_mut(key) else { return error("attribute", ATTRIBUTE_NOT_FOUND) };
    if values.is_empty() {
        record.remove(key);
        return Reply::default();
    }
    let before = list.len();
    list.retain(|v| !values.contains(&v.as_str()));
    if list.len() == before {
        return error("attribute", ATTRIBUTE_NOT_FOUND);
    }
    if list.is_empty() {
        record.remove(key);
    }
    Reply::default()
}

fn change(state: &mut State, place: Place<'_>, key: &str, old: &str, new: &str) -> Reply {
    let Some(record) = record(state, place) else { return invalid_path("change") };
    match record.get_mut(key).and_then(|list| list.iter_mut().find(|v| *v == old)) {
        Some(value) => {
            new.clone_into(value);
            Reply::default()
        }
        None => error("attribute", ATTRIBUTE_NOT_FOUND),
    }
}

fn read(state: &State, path: &str, keys: &[&str]) -> Reply {
    let found = place(path).and_then(|(kind, name)| state.od.get(kind)?.get(name));
    let Some(record) = found else { return bare("", RECORD_NOT_FOUND) };
    let mut reply = Reply::default();
    let mut show = |key: &str, values: &[String]| {
        let name = if known(key) { key.to_owned() } else { format!("dsAttrTypeNative:{key}") };
        if values.iter().any(|v| v.contains(' ')) {
            let lines: Vec<_> = values.iter().map(|v| format!(" {v}\n")).collect();
            reply.out.push_str(&format!("{name}:\n{}", lines.concat()));
        } else {
            reply.out.push_str(&format!("{name}: {}\n", values.join(" ")));
        }
    };
    if keys.is_empty() {
        record.iter().for_each(|(k, v)| show(k, v));
        return reply;
    }
    let mut missing = String::new();
    for key in keys {
        match record.get(*key) {
            Some(values) => show(key, values),
            // A missing key is no error to the exit code.
            None => missing.push_str(&format!("No such key: {key}\n")),
        }
    }
    reply.err = missing;
    reply
}

fn known(key: &str) -> bool {
    [
        "GeneratedUID",
        "GroupMembership",
        "NFSHomeDirectory",
        "Password",
        "PrimaryGroupID",
        "RealName",
        "RecordName",
        "UniqueID",
        "UserShell",
    ]
    .contains(&key)
}

fn list(state: &State, path: &str, key: Option<&str>) -> Reply {
    let Some(records) = path.strip_prefix('/').and_then(|kind| state.od.get(kind)) else {
        return bare("", UNKNOWN_NODE);
    };
    let sorted: BTreeMap<_, _> = records.iter().map(|(name, r)| ((name.to_lowercase(), name), r)).collect();
    let Some(key) = key else {
        return Reply::said(sorted.keys().map(|(_, name)| format!("{name}\n")).collect::<String>());
    };
    let width = sorted.keys().map(|(_, n)| n.len()).max().unwrap_or(0) + 2;
    let rows = sorted.iter().filter_map(|((_, name), r)| Some((name, r.get(key)?)));
    Reply::said(rows.map(|(name, v)| format!("{name:width$}{}\n", v.join(" "))).collect::<String>())
}

fn search(state: &State, path: &str, key: &str, value: &str) -> Reply {
    let Some(records) = path.strip_prefix('/').and_then(|kind| state.od.get(kind)) else {
        return bare("", UNKNOWN_NODE);
    };
    let hits = records.iter().filter(|(_, r)| r.get(key).is_some_and(|v| v.iter().any(|v| v == value)));
    Reply::said(hits.map(|(name, _)| format!("{name}\t\t{key} = (\n    {value}\n)\n")).collect::<String>())
}
