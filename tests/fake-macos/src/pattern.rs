//! The two ways in which sudo compares arguments: shell patterns and POSIX extended regular expressions.
//!
//! Only what sudo rules use is here. A pattern that this matcher does not know matches nothing.

/// `fnmatch(3)` without flags, as sudo calls it for arguments: `*` and `?` match spaces and slashes too.
pub fn fnmatch(pattern: &str, text: &str) -> bool {
    glob(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

fn glob(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|n| glob(rest, &text[n..])),
        ['?', rest @ ..] => !text.is_empty() && glob(rest, &text[1..]),
        ['\\', c, rest @ ..] => text.first() == Some(c) && glob(rest, &text[1..]),
        ['[', rest @ ..] => match (class(rest), text) {
            (Some((set, after)), [c, text @ ..]) => set.admits(*c) && glob(after, text),
            _ => false,
        },
        [c, rest @ ..] => text.first() == Some(c) && glob(rest, &text[1..]),
    }
}

/// The characters of a bracket expression.
#[derive(Debug, Clone, Default)]
struct Set {
    ranges: Vec<(char, char)>,
    not: bool,
}

impl Set {
    fn admits(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.not
    }
}

/// Reads a bracket expression after its `[`; returns it and what follows.
fn class(pattern: &[char]) -> Option<(Set, &[char])> {
    let (not, mut rest) = match pattern {
        ['^' | '!', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut set = Set { not, ranges: Vec::new() };
    loop {
        match rest {
            [']', after @ ..] if !set.ranges.is_empty() => return Some((set, after)),
            [low, '-', high, after @ ..] if *high != ']' => {
                set.ranges.push((*low, *high));
                rest = after;
            }
            [c, after @ ..] => {
                set.ranges.push((*c, *c));
                rest = after;
            }
            [] => return None,
        }
    }
}

#[derive(Debug, Clone)]
enum Node {
    Char(char),
    Any,
    Set(Set),
    Group(Vec<Vec<Self>>),
    Repeat(Box<Self>, usize, usize),
}

/// Whether an anchored expression (`^...$`) matches the whole text.
pub fn regex(expression: &str, text: &str) -> bool {
    let inner: Option<Vec<char>> =
        expression.strip_prefix('^').and_then(|e| e.strip_suffix('$')).map(|e| e.chars().collect());
    let Some(inner) = inner else { return false };
    let text: Vec<char> = text.chars().collect();
    match alternatives(&inner) {
        Some((branches, [])) => branches.iter().any(|b| seq(b, &text, &mut |rest| rest.is_empty())),
        _ => false,
    }
}

fn alternatives(mut input: &[char]) -> Option<(Vec<Vec<Node>>, &[char])> {
    let mut branches = vec![Vec::new()];
    loop {
        let (node, after) = match input {
            [] | [')', ..] => return Some((branches, input)),
            ['|', after @ ..] => {
                branches.push(Vec::new());
                input = after;
                continue;
            }
            ['(', after @ ..] => match alternatives(after)? {
                (group, [')', after @ ..]) => (Node::Group(group), after),
                _ => return None,
            },
            ['[', after @ ..] => {
                let (set, after) = class(after)?;
                (Node::Set(set), after)
            }
            ['.', after @ ..] => (Node::Any, after),
            ['\\', c, after @ ..] => (Node::Char(*c), after),
            ['*' | '+' | '?' | '{' | '^' | '$', ..] => return None,
            [c, after @ ..] => (Node::Char(*c), after),
        };
        let (node, after) = quantified(node, after)?;
        branches.last_mut()?.push(node);
        input = after;
    }
}

fn quantified(node: Node, input: &[char]) -> Option<(Node, &[char])> {
    let (low, high, after) = match input {
        ['*', after @ ..] => (0, usize::MAX, after),
        ['+', after @ ..] => (1, usize::MAX, after),
        ['?', after @ ..] => (0, 1, after),
        ['{', rest @ ..] => {
            let end = rest.iter().position(|c| *c == '}')?;
            let body: String = rest[..end].iter().collect();
            let (low, high) = body.split_once(',').unwrap_or((&body, &body));
            let high = if high.is_empty() { usize::MAX } else { high.parse().ok()? };
            (low.parse().ok()?, high, &rest[end + 1..])
        }
        _ => return Some((node, input)),
    };
    Some((Node::Repeat(Box::new(node), low, high), after))
}

type Next<'n> = &'n mut dyn FnMut(&[char]) -> bool;

fn seq(nodes: &[Node], text: &[char], next: Next<'_>) -> bool {
    match nodes {
        [] => next(text),
        [first, rest @ ..] => one(first, text, &mut |text| seq(rest, text, next)),
    }
}

fn one(node: &Node, text: &[char], next: Next<'_>) -> bool {
    match node {
        Node::Char(c) => text.first() == Some(c) && next(&text[1..]),
        Node::Any => text.first().is_some_and(|c| *c != '\n') && next(&text[1..]),
        Node::Set(set) => text.first().is_some_and(|c| set.admits(*c)) && next(&text[1..]),
        Node::Group(branches) => branches.iter().any(|b| seq(b, text, next)),
        Node::Repeat(inner, low, high) => {
            if *low == 0 && next(text) {
                return true;
            }
            let after = Node::Repeat(inner.clone(), low.saturating_sub(1), high.saturating_sub(1));
            *high > 0 && one(inner, text, &mut |rest| rest.len() < text.len() && one(&after, rest, next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_the_whole_text() {
        for (expression, text, matches) in [
            (r"^\. delete /Users/fish-[a-z]{6}$", ". delete /Users/fish-aaaaaa", true),
            (r"^\. delete /Users/fish-[a-z]{6}$", ". delete /Users/fish-aaaaaa /Users/root", false),
            (r"^\. delete /Users/fish-[a-z]{6}$", "x delete /Users/fish-aaaaaa", false),
            (r"^-(INT|KILL) -U 7[0-9]{4}$", "-KILL -U 70001", true),
            (r"^-(INT|KILL) -U 7[0-9]{4}$", "-KILL -U 7", false),
            ("^a{2,3}b?c*$", "aaacc", true),
            ("^a{2,3}b?c*$", "aaaac", false),
            ("^[a-z$", "a", false),
            ("^[^ab]+$", "cd", true),
            ("^[^ab]+$", "ca", false),
        ] {
            assert_eq!(regex(expression, text), matches, "{expression} {text}");
        }
    }

    #[test]
    fn patterns_match_spaces_and_slashes() {
        assert!(fnmatch("a *", "a b/c d"));
        assert!(fnmatch("fish-[a-z][a-z]_*/", "fish-ab_x/../y/"));
        assert!(!fnmatch("fish-[a-z]", "fish-A"));
        assert!(fnmatch(r"\:x?", ":xy"));
    }
}
