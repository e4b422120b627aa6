//! What goes through the pipe: one JSON document per line, a request and then its answer.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use native_config::EnvironmentId;
use native_platform::{Enter, Scope, Step, StepError, Stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest request that the helper reads, in bytes: a workload's variables are the largest part of one.
pub(crate) const MAX_LINE: u64 = 16 << 20;

/// What the driver asks. A request without fields has empty braces: serde would let a bare one have any fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// [`native_platform::Platform::facts`]. The driver needs no helper for it; whoever tries the helper by hand does.
    Facts {},
    /// [`native_platform::Platform::checks`].
    Checks {},
    /// [`native_platform::Platform::known`].
    Known {},
    /// [`native_platform::Platform::audit`].
    AuditHost {
        /// The environments that live.
        alive: Vec<EnvironmentId>,
    },
    /// [`native_platform::Platform::sweep`].
    Sweep {},
    /// [`native_platform::Platform::open`]. All that follows is about this environment.
    Open {
        /// The environment.
        scope: Scope,
    },
    /// [`native_platform::Session::probe_all`].
    Probe {
        /// The steps.
        steps: Vec<Step>,
    },
    /// [`native_platform::Session::execute_all`].
    Execute {
        /// The steps.
        steps: Vec<Step>,
    },
    /// [`native_platform::Session::revert_all`].
    Revert {
        /// The steps.
        steps: Vec<Step>,
    },
    /// [`native_platform::Session::purge`].
    Purge {},
    /// [`native_platform::Session::observe`].
    Observe {},
    /// [`native_platform::Session::wait`].
    Wait {
        /// How long at most, in ms.
        at_most_ms: u64,
    },
    /// [`native_platform::Session::enter`]. [`Request::Input`] follows until the end; nothing else may.
    Enter {
        /// The command.
        command: Enter,
    },
    /// What the entered command reads.
    Input {
        /// In hexadecimal; empty at the end.
        data: String,
    },
    /// [`native_platform::Session::audit`].
    Audit {},
    /// [`native_platform::Session::finish`].
    Finish {},
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It is done.
    Done {
        /// What the method returns.
        value: serde_json::Value,
    },
    /// It is not done.
    Failed {
        /// Why.
        error: StepError,
    },
    /// What the entered command wrote; more answers follow.
    Output {
        /// Where it wrote it.
        stream: Stream,
        /// In hexadecimal.
        data: String,
    },
}

/// Writes one document and its newline at once.
pub(crate) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one document; `None` at the end.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let read = io::Read::take(&mut *from, MAX_LINE).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        if u64::try_from(line.len()).is_ok_and(|n| n + 1 >= MAX_LINE) {
            let why = format!("a message of more than {} MB", MAX_LINE >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a message without its end"));
    }
    serde_json::from_slice(&line).map(Some).map_err(io::Error::from)
}

/// A duration as the protocol has it.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_and_a_torn_one_is_an_error() {
        let mut line = Vec::new();
        send(&mut line, &Request::Wait { at_most_ms: 5 }).unwrap();
        let mut reader = &line[..];
        assert!(matches!(receive(&mut reader).unwrap(), Some(Request::Wait { at_most_ms: 5 })));
        assert!(receive::<Request>(&mut reader).unwrap().is_none());
        assert!(receive::<Request>(&mut &line[..line.len() - 1]).is_err());
        assert!(
            receive::<Request>(&mut &b"{\"request\":\"wait\",\"at_most_ms\":1,\"path\":\"/etc\"}\n"[..]).is_err(),
            "unknown field"
        );
        assert!(receive::<Request>(&mut &b"{\"request\":\"finish\",\"path\":\"/etc\"}\n"[..]).is_err(), "of none");
    }
}
