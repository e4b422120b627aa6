//! What a reader says about a text: the source, one problem with its place, and all problems of a file together.

use serde::Serialize;
use std::fmt;

/// A text and the name it is called by in messages.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The file name as the user wrote it (`-` for standard input).
    pub name: &'a str,
    /// The whole text.
    pub text: &'a str,
}

impl<'a> Source<'a> {
    /// Pairs a name with a text.
    pub fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text }
    }
}

/// Whether a problem stops the file from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file can't be used.
    Error,
    /// The file can be used; something in it has no effect or is unwise.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing wrong with a file: where, what, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The name of the source.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Path of the field, as in `definitions[0].resources.disks.ws.size`; empty for the file as a whole.
    pub field: String,
    /// What was expected and what was found.
    pub message: String,
    /// How to mend it, where that is known.
    pub hint: Option<String>,
    /// Error or warning.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: ", self.file, self.line, self.column, self.severity)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// A value, if there was no error, and everything that was found on the way.
#[derive(Debug, Clone)]
pub struct Checked<T> {
    /// Is there exactly when no problem is an error.
    pub value: Option<T>,
    /// All problems of the file in the order of their places.
    pub problems: Vec<Problem>,
}

impl<T> Checked<T> {
    /// Keeps the value only when no problem is an error, and sorts the problems by place.
    pub(crate) fn new(value: Option<T>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.line, problem.column, problem.severity));
        let failed = problems.iter().any(|p| p.severity == Severity::Error);
        Self { value: if failed { None } else { value }, problems }
    }

    /// The value and the warnings, or every problem as one error.
    ///
    /// # Errors
    ///
    /// When there is at least one problem of [`Severity::Error`].
    pub fn into_result(self) -> Result<(T, Vec<Problem>), Problems> {
        match self.value {
            Some(value) => Ok((value, self.problems)),
            None => Err(Problems(self.problems)),
        }
    }
}

/// All problems of a file as one error; displays one line for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
