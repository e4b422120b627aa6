//! What a Mac has before anything is done to it.

use std::collections::BTreeMap;

use crate::host::{Record, State};

/// Its directories, with their modes.
pub const DIRECTORIES: &[(&str, u32)] = &[
    ("Users", 0o755),
    ("Users/Shared", 0o1777),
    ("Volumes", 0o755),
    ("private", 0o755),
    ("private/tmp", 0o1777),
    ("private/var", 0o755),
    ("private/var/tmp", 0o1777),
    ("private/var/empty", 0o755),
    ("private/var/folders", 0o755),
    ("private/var/folders/zz", 0o755),
    ("private/var/mail", 0o1777),
    ("private/var/at", 0o755),
    // crontab is set-uid root on a Mac. Here it runs as the user, who may write but not list.
    ("private/var/at/tabs", 0o733),
    ("private/var/at/jobs", 0o755),
    ("private/var/db", 0o755),
    ("private/var/db/com.apple.xpc.launchd", 0o755),
];

fn record(pairs: &[(&str, &str)]) -> Record {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()])).collect()
}

/// The users, groups and other records of a fresh Mac: about 130 users, one of them with a negative id and one
/// from a directory service with a huge one.
pub fn state(service: u32) -> State {
    let mut users = BTreeMap::new();
    let mut user = |name: &str, uid: i64, gid: i64, home: &str| {
        let (uid, gid) = (uid.to_string(), gid.to_string());
        users.insert(
            name.to_owned(),
            record(&[
                ("UniqueID", uid.as_str()),
                ("PrimaryGroupID", gid.as_str()),
                ("NFSHomeDirectory", home),
                ("UserShell", "/usr/bin/false"),
                ("RecordName", name),
            ]),
        );
    };
    for n in 0..120 {
        user(&format!("_service{n:03}"), 200 + n, 200 + n, "/var/empty");
    }
    user("root", 0, 0, "/var/root");
    user("daemon", 1, 1, "/var/root");
    user("nobody", -2, -2, "/var/empty");
    user("admin", 502, 20, "/Users/admin");
    user("j.doe", 1_846_203_115, 20, "/Users/j.doe");
    if service != 0 {
        user("_aquarium-fish", i64::from(service), 20, "/var/empty");
    }
    let mut groups = BTreeMap::new();
    for (name, gid, members) in [
        ("wheel", 0, vec!["root"]),
        ("daemon", 1, vec!["root"]),
        ("staff", 20, vec!["root"]),
        ("everyone", 12, vec![]),
        ("admin", 80, vec!["root", "admin"]),
        ("_developer", 204, vec![]),
        ("nobody", -2, vec![]),
        ("com.apple.sharepoint.group.1", 701, vec!["admin"]),
    ] {
        let mut group = record(&[("PrimaryGroupID", &gid.to_string()), ("RecordName", name)]);
        if !members.is_empty() {
            group.insert("GroupMembership".to_owned(), members.into_iter().map(str::to_owned).collect());
        }
        groups.insert(name.to_owned(), group);
    }
    let od = [("Users", users), ("Groups", groups), ("SharePoints", BTreeMap::new())];
    let od = od.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    State { od, next_image: 1, domains: vec![0], ..State::default() }
}
