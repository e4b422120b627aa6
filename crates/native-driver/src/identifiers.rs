//! Node identifiers: what a label's node filter is matched against.

use std::fs;

/// The host's identifiers, `Kind:value`, as Fish makes them.
///
/// `FishName` is the node's own name, which only its config knows: a config that needs it lists its identifiers
/// itself.
pub(crate) fn of_host() -> Vec<String> {
    let uname = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    let os = text(uname.sysname()).to_lowercase();
    let mut found = vec![("HostName", text(uname.nodename())), ("OS", os.clone()), ("Arch", text(uname.machine()))];
    if os == "darwin" {
        let plist = fs::read_to_string("/System/Library/CoreServices/SystemVersion.plist").unwrap_or_default();
        found.push(("OSPlatform", os));
        found.push(("OSVersion", plist_value(&plist, "ProductVersion").unwrap_or_default()));
    } else {
        let release = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let id = release_value(&release, "ID").unwrap_or_default();
        let like = release_value(&release, "ID_LIKE").unwrap_or_default();
        let family = like.split_whitespace().next().map_or_else(|| id.clone(), str::to_owned);
        found.push(("OSVersion", release_value(&release, "VERSION_ID").unwrap_or_default()));
        found.push(("OSPlatform", id));
        found.push(("OSFamily", family));
    }
    found.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}:{v}")).collect()
}

/// A value of an `os-release` file, without its quotes.
fn release_value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// A string value of a property list in its XML form.
fn plist_value(text: &str, key: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<key>{key}</key>"))?;
    let (_, rest) = rest.split_once("<string>")?;
    Some(rest.split_once("</string>")?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_os_release() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(release_value(text, "ID").as_deref(), Some("debian"));
        assert_eq!(release_value(text, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(release_value(text, "ID_LIKE"), None);
    }

    #[test]
    fn reads_a_property_list() {
        let text =
            "<dict>\n<key>ProductName</key>\n<string>macOS</string>\n<key>ProductVersion</key>\n<string>14.5</string>";
        assert_eq!(plist_value(text, "ProductVersion").as_deref(), Some("14.5"));
        assert_eq!(plist_value(text, "Nothing"), None);
    }

    #[test]
    fn this_host_has_a_name_and_an_architecture() {
        let found = of_host();
        for kind in ["HostName:", "OS:", "Arch:"] {
            assert!(found.iter().any(|i| i.starts_with(kind)), "{kind} in {found:?}");
        }
    }
}
