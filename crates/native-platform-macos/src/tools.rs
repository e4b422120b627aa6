//! [`Tools`]: runs rows of the table, by way of sudo where the mode asks for it, and says what their endings
//! mean.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use native_platform::runner::sudo_permits;
use native_platform::{Ended, ErrorKind, Invocation, Output, RunError, Runner, StepError, StepKind};

use crate::config::{MacConfig, Privilege};
use crate::job::quote;
use native_platform::command::{BindError, CommandSpec, Means};

/// A command that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A value is not of its slot's form.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It could not be run to its end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It failed.
    #[error("{id}: {line} ended with {ended}: {said}")]
    Failed {
        /// The command's id.
        id: &'static str,
        /// The command.
        line: String,
        /// How it ended.
        ended: Ended,
        /// What it said.
        said: String,
        /// What that means, if the table knows.
        means: Option<Means>,
    },
    /// sudo has no rule for it.
    #[error("{id}: sudo has no rule for {line}")]
    NoRule {
        /// The command's id.
        id: &'static str,
        /// The command.
        line: String,
    },
}

impl CommandError {
    /// Whether sudo has no rule for it.
    pub fn no_rule(&self) -> bool {
        matches!(self, Self::NoRule { .. })
    }
}

/// What a command said, and what its ending means.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its standard output.
    pub out: String,
    /// [`Means::Done`] or [`Means::Absent`].
    pub means: Means,
}

impl Said {
    /// Whether what it was about is not there.
    pub fn absent(&self) -> bool {
        self.means == Means::Absent
    }
}

/// Runs rows of the table.
#[derive(Clone)]
pub struct Tools {
    /// How this host is used.
    pub config: Arc<MacConfig>,
    runner: Arc<dyn Runner>,
}

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Tools {
    /// Over this runner.
    pub fn new(config: Arc<MacConfig>, runner: Arc<dyn Runner>) -> Self {
        Self { config, runner }
    }

    /// The whole command line, sudo included where the mode asks for it.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn argv(&self, row: &CommandSpec, values: &[&str]) -> Result<Vec<String>, BindError> {
        let args = row.bind(&self.config.site, values)?;
        let mut argv = Vec::new();
        if row.privileged() && self.config.privilege == Privilege::SudoCommands {
            argv.push(self.config.tool("sudo").display().to_string());
            // Without -n sudo would wait for a password for ever.
            argv.push("-n".to_owned());
        }
        argv.push(self.config.tool(row.tool).display().to_string());
        argv.extend(args);
        Ok(argv)
    }

    /// The command as words of shell, for a job that runs as the account.
    ///
    /// # Errors
    /// When a value is not of its slot's form.
    pub fn shell(&self, step: StepKind, row: &CommandSpec, values: &[&str]) -> Result<String, StepError> {
        let argv = self.argv(row, values).map_err(|e| StepError::new(step, ErrorKind::Invalid, e.to_string()))?;
        Ok(argv.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "))
    }

    /// Runs a command, again where its row says so.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(&self, row: &CommandSpec, values: &[&str]) -> Result<Said, CommandError> {
        let mut left = row.retry.times;
        loop {
            let error = match self.once(row, values) {
                Ok(said) => return Ok(said),
                Err(error) => error,
            };
            let passes = match &error {
                CommandError::Failed { means, .. } => matches!(means, Some(Means::Again | Means::Busy)),
                // A tool that hangs once may not hang again (security software, a directory daemon that
                // restarts), but time is short: half of the tries.
                CommandError::Run(RunError::TimedOut { .. }) => left > row.retry.times / 2,
                _ => false,
            };
            if !passes || left == 0 {
                return Err(error);
            }
            left -= 1;
            thread::sleep(self.config.pause(row.retry.pause_ms));
        }
    }

    fn once(&self, row: &CommandSpec, values: &[&str]) -> Result<Said, CommandError> {
        let argv = self.argv(row, values)?;
        let output = self.start(row.id, &argv, None, self.config.limit(row))?;
        judge(row, &argv, output)
    }

    /// Asks sudo whether it would run the command; runs nothing.
    ///
    /// # Errors
    /// [`CommandError`] when sudo can't be asked.
    pub fn permitted(&self, row: &CommandSpec, values: &[&str]) -> Result<bool, CommandError> {
        let argv = self.argv(row, values)?;
        if !row.privileged() || self.config.privilege == Privilege::Root {
            return Ok(true);
        }
        // After `sudo -n`.
        let command = argv.get(2..).unwrap_or_default();
        Ok(sudo_permits(&*self.runner, &self.config.tool("sudo"), None, command, self.config.limit(row))?)
    }

    /// Runs our own keeper in a mode; it reads this.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn keeper(&self, mode: &str, input: Vec<u8>, limit: Duration) -> Result<Output, CommandError> {
        let mut argv = self.config.keeper.clone();
        argv.push(mode.to_owned());
        let limit = self.config.limit.map_or(limit, |most| most.min(limit));
        Ok(self.start("keeper", &argv, Some(input), limit)?)
    }

    /// The command of our own keeper in a mode, for a caller that holds its pipes.
    pub fn keeper_invocation(&self, mode: &str) -> Invocation {
        let mut argv = self.config.keeper.clone();
        argv.push(mode.to_owned());
        invocation("keeper", &argv)
    }

    /// The runner.
    pub fn runner(&self) -> &dyn Runner {
        &*self.runner
    }

    fn start(
        &self,
        id: &'static str,
        argv: &[String],
        stdin: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<Output, RunError> {
        self.runner.run(&Invocation { stdin, limit, ..invocation(id, argv) })
    }

    /// The error of a step from the error of a command, with the advice that fits.
    pub fn step_error(&self, step: StepKind, kind: ErrorKind, error: &CommandError) -> StepError {
        let message = chain(error);
        match error {
            CommandError::NoRule { line, .. } => StepError::new(step, kind, message).hint(format!(
                "render the rules again with `fish-native sudoers --platform macos --style regex` and install them; \
                 the rule that is missing is the one for `{line}`"
            )),
            CommandError::Failed { means: Some(Means::Denied), .. } => {
                StepError::new(step, kind, message).hint(full_disk_access(&self.config.program.display().to_string()))
            }
            CommandError::Run(RunError::Start { program, .. }) => StepError::new(step, ErrorKind::NotReady, message)
                .hint(format!("install {} or set its path in the driver's config", program.display())),
            CommandError::Bind(_) => StepError::new(step, ErrorKind::Invalid, message),
            _ => StepError::new(step, kind, message),
        }
    }

    /// A failure of the step.
    pub fn failed(&self, step: StepKind) -> impl Fn(CommandError) -> StepError + '_ {
        move |error| self.step_error(step, ErrorKind::Failed, &error)
    }

    /// A revert that could not be confirmed.
    pub fn stuck(&self, step: StepKind) -> impl Fn(CommandError) -> StepError + '_ {
        move |error| self.step_error(step, ErrorKind::Stuck, &error)
    }
}

fn invocation(id: &'static str, argv: &[String]) -> Invocation {
    let program = argv.first().map(Into::into).unwrap_or_default();
    Invocation::new(id, program, argv.get(1..).unwrap_or_default().to_vec())
}

/// What an ending means by the row.
fn judge(row: &CommandSpec, argv: &[String], output: Output) -> Result<Said, CommandError> {
    let line = || argv.join(" ");
    // sudo's own refusal, before the tool's exit codes: 1 is also what many tools end with.
    if output.ended == Ended::Code(1) && row.privileged() && output.stderr.contains("sudo: a password is required") {
        return Err(CommandError::NoRule { id: row.id, line: line() });
    }
    match (row.meaning(&output), output.ended) {
        (Some(means @ (Means::Done | Means::Absent)), _) => Ok(Said { out: output.stdout, means }),
        (None, Ended::Code(0)) => Ok(Said { out: output.stdout, means: Means::Done }),
        (means, _) => Err(CommandError::Failed {
            id: row.id,
            line: line(),
            ended: output.ended,
            said: if output.stderr.trim().is_empty() { output.stdout } else { output.stderr }.trim().to_owned(),
            means,
        }),
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What to do when macOS denies what root may do everywhere else.
pub fn full_disk_access(program: &str) -> String {
    format!(
        "macOS refused to delete or alter a user (eDSPermissionError): {program} has no Full Disk Access. Do one of: \
         (1) System Settings > Privacy & Security > Full Disk Access > + {program}, then restart the service; \
         (2) when you started it over ssh: System Settings > General > Sharing > Remote Login > Allow full disk \
         access for remote users; (3) for a fleet: a PPPC profile, SystemPolicyAllFiles for {program}. After each \
         update of an unsigned binary, remove the entry and add it again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    fn said(code: i32, stdout: &str, stderr: &str) -> Output {
        Output { ended: Ended::Code(code), stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    #[test]
    fn endings_mean_what_the_table_says() {
        let absent = said(185, "delete: Invalid Path\n", "<dscl_cmd> DS Error: -14009 (eDSUnknownNodeName)\n");
        assert!(judge(&table::USER_DELETE, &[], absent).unwrap().absent());
        let denied = said(40, "", "<dscl_cmd> DS Error: -14120 (eDSPermissionError)\n");
        let error = judge(&table::USER_DELETE, &[], denied).unwrap_err();
        assert!(matches!(error, CommandError::Failed { means: Some(Means::Denied), .. }), "{error}");
        // killall ends with 1 when there is nothing to kill, and sudo when it refuses.
        assert!(judge(&table::INTERRUPT, &[], said(1, "", "No matching processes were found\n")).unwrap().absent());
        assert!(judge(&table::KILL, &[], said(1, "", "sudo: a password is required\n")).unwrap_err().no_rule());
    }
}
