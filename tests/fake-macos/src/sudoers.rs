//! sudo's matching of a command with the rules of a file, as `sudoers(5)` describes it: arguments are joined
//! by spaces and compared as one string, with an anchored regular expression if the rule has one, else as a
//! shell pattern. `!` rules, aliases and hosts are not here; our rules have none.

use crate::pattern;

/// Whether a rule of the text allows the command.
pub fn allows(rules: &str, program: &str, args: &[&str], regular_expressions: bool) -> bool {
    let joined = args.join(" ");
    // The character class that sudo's expressions are built from never admits a newline; nor does fnmatch see
    // one in our rules' text.
    !joined.contains('\n')
        && rules
            .lines()
            .filter_map(command)
            .any(|(path, wanted)| path == program && matches(wanted, args, &joined, regular_expressions))
}

/// The command of a rule: what follows its last tag.
fn command(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (_, rest) = line.split_once("(root)")?;
    let mut rest = rest.trim_start();
    for tag in ["NOPASSWD:", "NOEXEC:"] {
        rest = rest.strip_prefix(tag).unwrap_or(rest).trim_start();
    }
    Some(rest.split_once(' ').unwrap_or((rest, "")))
}

fn matches(wanted: &str, args: &[&str], joined: &str, regular_expressions: bool) -> bool {
    match wanted.trim() {
        // No arguments in the rule: any are allowed. `""`: none are.
        "" => true,
        "\"\"" => args.is_empty(),
        expression if expression.starts_with('^') && expression.ends_with('$') => {
            regular_expressions && pattern::regex(expression, joined)
        }
        glob => pattern::fnmatch(glob, joined),
    }
}
