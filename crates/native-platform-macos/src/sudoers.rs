//! [`render_sudoers`]: the rules that the service's user needs, from the table.
//!
//! | style | what it is |
//! | --- | --- |
//! | helper | one rule for the root helper, without arguments: nothing to get round |
//! | regex | anchored expressions, for macOS 14 and later (sudo 1.9.10 and later) |
//! | wildcard | today's published rules and what the driver needs beyond them; says what they open |
//!
//! sudo joins the arguments by spaces and compares one string, so an expression can't see where one argument
//! ends. That is why no rule is for a tool with an option that takes attached text and does harm: no tar, no
//! chown, no mdutil.

use minijinja::context;

use crate::config::default_path;
use crate::render::render;
use crate::row::{CommandRow, Places};
use crate::slot::Site;
use crate::table::COMMANDS;

/// How the rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One rule for the helper.
    Helper,
    /// Anchored expressions.
    Regex,
    /// The published rules, and more.
    Wildcard,
}

/// Where the root helper is installed.
pub const HELPER: &str = "/usr/libexec/fish-native-helper";

/// The published rules for commands that the driver does not run any more: it unpacks as the account, sets
/// owners when a disk is made, and makes disks without an index. They stay in the wildcard style, which is a
/// host's rules as they are.
const PUBLISHED_UNUSED: &[&str] = &[
    "/usr/bin/tar -xf - --uname fish-[a-z][a-z][a-z][a-z][a-z][a-z] -C /Users/fish-[a-z][a-z][a-z][a-z][a-z][a-z]/",
    "/usr/bin/tar -xf - --uname fish-[a-z][a-z][a-z][a-z][a-z][a-z] -C /Volumes/fish-[a-z][a-z][a-z][a-z][a-z][a-z]_*/",
    "/usr/bin/mdutil -i off /Volumes/fish-[a-z][a-z][a-z][a-z][a-z][a-z]_*/",
];

/// What the rules are rendered for.
#[derive(Clone)]
pub struct Rules<'a> {
    /// How they are written.
    pub style: Style,
    /// The service's user.
    pub user: &'a str,
    /// uids and groups.
    pub site: &'a Site,
    /// Where the host keeps things.
    pub places: &'a Places,
    /// Where tools are: the path for a name. [`default_path`] on a real Mac.
    pub tool: &'a dyn Fn(&str) -> std::path::PathBuf,
}

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("style", &self.style).field("user", &self.user).finish_non_exhaustive()
    }
}

impl<'a> Rules<'a> {
    /// The rules of a real Mac.
    pub fn new(style: Style, user: &'a str, site: &'a Site, places: &'a Places) -> Self {
        Self { style, user, site, places, tool: &default_path }
    }
}

/// Rules that could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The user's name is no user's name.
    #[error("{0:?} is no user's name: letters, digits, `_`, `.` and `-`, not a dash first")]
    User(String),
    /// The template failed.
    #[error("render the template")]
    Template(#[source] minijinja::Error),
}

/// The rules, as the text of a file for `/etc/sudoers.d`.
///
/// # Errors
/// [`RenderError`].
pub fn render_sudoers(rules: &Rules<'_>) -> Result<String, RenderError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if rules.user.is_empty() || rules.user.starts_with('-') || !rules.user.chars().all(plain) {
        return Err(RenderError::User(rules.user.to_owned()));
    }
    let line = |row: &CommandRow, args: String| {
        let tool = (rules.tool)(row.tool);
        context! { what => row.what, command => format!("{} {args}", tool.display()) }
    };
    let privileged = COMMANDS.iter().filter(|row| row.privileged());
    let rows: Vec<_> = match rules.style {
        Style::Helper => Vec::new(),
        Style::Regex => {
            privileged.filter(|row| row.fenceable).map(|row| line(row, row.regex(rules.places, rules.site))).collect()
        }
        Style::Wildcard => privileged
            .filter(|row| row.published.is_none())
            .flat_map(|row| row.globs(rules.places, rules.site).into_iter().map(move |g| (row, g)))
            .map(|(row, args)| line(row, args))
            .collect(),
    };
    let mut published: Vec<&str> = Vec::new();
    for rule in COMMANDS.iter().filter_map(|row| row.published) {
        if !published.contains(&rule) {
            published.push(rule);
        }
    }
    published.extend(PUBLISHED_UNUSED);
    // As published: all but su are marked NOEXEC, which does nothing on macOS.
    let tag = |rule: &str| if rule.contains("/su -l") { "NOPASSWD:" } else { "NOPASSWD:NOEXEC:" };
    let published: Vec<_> = published.into_iter().map(|rule| context! { rule, tag => tag(rule) }).collect();
    let template = match rules.style {
        Style::Helper => include_str!("templates/sudoers-helper.j2"),
        Style::Regex => include_str!("templates/sudoers-regex.j2"),
        Style::Wildcard => include_str!("templates/sudoers-wildcard.j2"),
    };
    render(template, context! { user => rules.user, helper => HELPER, rows, published }).map_err(RenderError::Template)
}
