//! [`render_sudoers`]: the rules that the service's user needs, from the table.
//!
//! | style | what it is |
//! | --- | --- |
//! | helper | one rule for the root helper, without arguments: nothing to get round |
//! | regex | anchored expressions, for sudo 1.9.10 and later (macOS 14 and later) |
//! | wildcard | the published rules and what the driver needs beyond them; says what they open |
//!
//! sudo joins the arguments by spaces and compares one string, so an expression can't see where one argument
//! ends. That is why no rule is for a tool with an option that takes attached text and does harm: no tar, no
//! chown, no mdutil.

use std::path::PathBuf;

use minijinja::context;

use super::fill;
use crate::command::{CommandSpec, Site, Table};

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

/// What the rules are rendered for.
#[derive(Clone)]
pub struct Rules<'a> {
    /// How they are written.
    pub style: Style,
    /// The service's user.
    pub user: &'a str,
    /// The commands.
    pub table: &'a Table,
    /// uids, groups, places.
    pub site: &'a Site,
    /// Where tools are: the path for a name.
    pub tool: &'a dyn Fn(&str) -> PathBuf,
    /// Where the helper is.
    pub helper: PathBuf,
}

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("style", &self.style).field("user", &self.user).finish_non_exhaustive()
    }
}

impl<'a> Rules<'a> {
    /// The rules of a host whose tools are where its system has them.
    pub fn new(style: Style, user: &'a str, table: &'a Table, site: &'a Site) -> Self {
        Self { style, user, table, site, tool: &table.tool_path, helper: PathBuf::from(HELPER) }
    }

    /// The commands that this style has a rule for.
    pub fn commands(&self) -> Vec<&'static CommandSpec> {
        match self.style {
            Style::Helper => Vec::new(),
            Style::Regex => self.table.privileged().filter(|row| row.fenceable).collect(),
            Style::Wildcard => self.table.privileged().collect(),
        }
    }
}

/// Rules that could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The user's name is no user's name.
    #[error("{0:?} is no user's name: letters, digits, `_`, `.` and `-`, not a dash first")]
    User(String),
    /// The platform has no such rules.
    #[error("there is only the helper's rule on {os}: {why}")]
    HelperOnly {
        /// The platform.
        os: &'static str,
        /// Why.
        why: &'static str,
    },
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
    if let (Some(why), true) = (rules.table.helper_only, rules.style != Style::Helper) {
        return Err(RenderError::HelperOnly { os: rules.table.os, why });
    }
    let line = |row: &CommandSpec, args: String| {
        let tool = (rules.tool)(row.tool);
        context! { what => row.what, command => format!("{} {args}", tool.display()) }
    };
    let rows: Vec<_> = match rules.style {
        Style::Helper => Vec::new(),
        Style::Regex => rules.commands().into_iter().map(|row| line(row, row.regex(rules.site))).collect(),
        Style::Wildcard => rules
            .commands()
            .into_iter()
            .filter(|row| row.published.is_none())
            .flat_map(|row| row.globs(rules.site).into_iter().map(move |glob| (row, glob)))
            .map(|(row, args)| line(row, args))
            .collect(),
    };
    let mut published: Vec<&str> = Vec::new();
    for rule in rules.table.commands.iter().filter_map(|row| row.published).chain(rules.table.retired.iter().copied()) {
        if !published.contains(&rule) {
            published.push(rule);
        }
    }
    // As published: all but su are marked NOEXEC, which does nothing on macOS.
    let tag = |rule: &str| if rule.contains("/su -l") { "NOPASSWD:" } else { "NOPASSWD:NOEXEC:" };
    let published: Vec<_> = published.into_iter().map(|rule| context! { rule, tag => tag(rule) }).collect();
    let template = match rules.style {
        Style::Helper => include_str!("templates/sudoers-helper.j2"),
        Style::Regex => include_str!("templates/sudoers-regex.j2"),
        Style::Wildcard => include_str!("templates/sudoers-wildcard.j2"),
    };
    let helper = rules.helper.display().to_string();
    fill(template, context! { user => rules.user, helper, rows, published }).map_err(RenderError::Template)
}
