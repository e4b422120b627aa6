//! [`Mac`]: the host as the steps see it: its tools, our store, and jobs that run as an account.

use std::time::Duration;

use native_platform::{Ended, ErrorKind, StepError, StepKind};
use serde::{Deserialize, Serialize};

use crate::keeper::{Command, JobSpec};
use crate::store::Store;
use crate::table as t;
use crate::tools::Tools;

/// How long a job may take that is done in a moment, and the entry's start.
pub(crate) const SHORT: Duration = Duration::from_secs(60);

/// The host as the steps see it.
#[derive(Debug, Clone)]
pub(crate) struct Mac {
    pub(crate) tools: Tools,
    pub(crate) store: Store,
}

/// What our keeper answers to a job.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It ended well, or it was started and has this process id.
    Done { pid: u32 },
    /// What was asked for is not there: the entry, a program.
    Missing,
    /// It failed.
    Failed { message: String },
}

impl Mac {
    /// The first error, and what undoing said beside it if that failed too.
    pub(crate) fn or_undo<T>(
        &self,
        result: Result<T, StepError>,
        undo: impl FnOnce() -> Result<(), StepError>,
    ) -> Result<T, StepError> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        match undo() {
            Ok(()) => Err(error),
            Err(second) => Err(StepError {
                step: error.step,
                kind: ErrorKind::Stuck,
                message: format!("{}; and undoing it failed too: {}", error.message, second.message),
                hint: second.hint.or(error.hint),
            }),
        }
    }

    /// The command that runs a job as an account.
    pub(crate) fn job_command(&self, user: &str, step: StepKind) -> Result<Command, StepError> {
        let argv =
            self.tools.argv(&t::JOB, &[user]).map_err(|e| StepError::new(step, ErrorKind::Invalid, e.to_string()))?;
        Ok(Command(argv))
    }

    /// Runs a job as an account that takes a moment. What the account's own `~/.profile` does comes before it, so
    /// it is not waited for longer than that.
    pub(crate) fn short_job(&self, user: &str, step: StepKind, job: String, token: &str) -> Result<(), StepError> {
        self.job(user, step, job, token, None, SHORT)
    }

    /// Runs a job as an account that takes as long as its data is big, with a tree as its input if there is one.
    pub(crate) fn long_job(
        &self,
        user: &str,
        step: StepKind,
        job: String,
        token: &str,
        tree: Option<std::path::PathBuf>,
    ) -> Result<(), StepError> {
        self.job(user, step, job, token, tree, Duration::from_secs(u64::from(t::JOB.limit_s)))
    }

    fn job(
        &self,
        user: &str,
        step: StepKind,
        job: String,
        token: &str,
        tree: Option<std::path::PathBuf>,
        limit: Duration,
    ) -> Result<(), StepError> {
        let command = self.job_command(user, step)?;
        let keeper = self.tools.config.keeper.clone();
        let spec = JobSpec { keeper, command, job, token: token.to_owned(), reader: self.tools.config.caller, tree };
        match self.ask_keeper("job", step, &spec, limit)? {
            Answer::Done { .. } => Ok(()),
            Answer::Missing => Err(StepError::failed(step, "the job did not find what it needs")),
            Answer::Failed { message } if message.contains("sudo: a password is required") => {
                let error = crate::tools::CommandError::NoRule { id: t::JOB.id, line: spec.command.0.join(" ") };
                Err(self.tools.step_error(step, ErrorKind::Failed, &error))
            }
            Answer::Failed { message } => Err(StepError::failed(step, message)),
        }
    }

    /// Runs our keeper in a mode and reads its answer.
    pub(crate) fn ask_keeper(
        &self,
        mode: &str,
        step: StepKind,
        spec: &impl Serialize,
        limit: Duration,
    ) -> Result<Answer, StepError> {
        let input = serde_json::to_vec(spec).map_err(|e| StepError::failed(step, e.to_string()))?;
        let output = self.tools.keeper(mode, input, limit).map_err(self.tools.failed(step))?;
        let answer = output.stdout.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        match (answer, output.ended) {
            (Some(answer), Ended::Code(0)) => Ok(answer),
            (_, ended) => {
                Err(StepError::failed(step, format!("the keeper ended with {ended}: {}", output.stderr.trim())))
            }
        }
    }
}
