//! The driver's side: a [`Platform`] whose every operation is done by a helper process.

use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use native_config::{DiskName, EnvironmentId};
use native_platform::{
    Check, Connection, Enter, EnterIo, ErrorKind, Executed, HostFacts, Invocation, Leak, Observation, Platform,
    Presence, Runner, Scope, Session, Step, StepError, StepKind, SystemRunner,
};
use serde::de::DeserializeOwned;

use crate::host::Host;
#[cfg(feature = "driver")]
use crate::host::{HELPER_ARGUMENT, Settings};
use crate::protocol::{Answer, Request, milliseconds, receive, send};

/// The platform of a host, with the rights that the configuration asks for: this program as root's helper, the
/// installed helper through sudo, or (on a Mac) each command by itself through sudo.
///
/// # Errors
/// When the rights are not to be had, with how to get them.
#[cfg(feature = "driver")]
pub fn open(host: &Host, config: &native_config::DriverConfig) -> Result<Arc<dyn Platform>, StepError> {
    use native_config::Privilege;
    let (settings, is_root) = (Settings::from(config), nix::unistd::geteuid().is_root());
    Ok(match config.privilege {
        Privilege::Auto | Privilege::Root if is_root => Arc::new(HelperPlatform::as_child(host, &settings)?),
        Privilege::Root => {
            return Err(unreachable_helper("the configuration has `privilege: root`, and this is not root")
                .hint("run it as root (sudo fish-native ...), or set `privilege: helper`"));
        }
        Privilege::Auto | Privilege::Helper => Arc::new(HelperPlatform::through_sudo(host, &settings)?),
        Privilege::SudoCommands if host.table().helper_only.is_none() => host.by_sudo(&settings)?,
        Privilege::SudoCommands => {
            return Err(
                unreachable_helper("`privilege: sudo-commands` exists on macOS only").hint("set `privilege: helper`")
            );
        }
    })
}

/// A host whose steps are executed by a helper.
pub struct HelperPlatform {
    runner: Arc<dyn Runner>,
    program: PathBuf,
    args: Vec<String>,
    host: Host,
}

impl std::fmt::Debug for HelperPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HelperPlatform")
            .field("program", &self.program)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

pub(crate) fn unreachable_helper(what: impl std::fmt::Display) -> StepError {
    StepError::new(StepKind::Platform, ErrorKind::NotReady, format!("talk to the root helper: {what}"))
}

impl HelperPlatform {
    #[cfg(feature = "driver")]
    /// This program as a child process. To be called as root.
    fn as_child(host: &Host, settings: &Settings) -> Result<Self, StepError> {
        let mut args = host.again().map_err(|e| unreachable_helper(format!("find this program: {e}")))?;
        let program = PathBuf::from(args.remove(0));
        args.push(HELPER_ARGUMENT.to_owned());
        args.push(serde_json::to_string(settings).map_err(unreachable_helper)?);
        Ok(Self::new(program, args, host.clone()))
    }

    #[cfg(feature = "driver")]
    /// The installed helper, by the one rule in sudoers.
    fn through_sudo(host: &Host, settings: &Settings) -> Result<Self, StepError> {
        let helper = host.helper();
        if !helper.exists() {
            return Err(unreachable_helper(format!("not root, and there is no {}", helper.display()))
                .hint("run it as root (sudo fish-native ...), or install fish-native-helper and its sudo rule"));
        }
        let args = vec!["-n".to_owned(), helper.display().to_string()];
        Ok(Self::new(host.sudo(settings)?, args, host.clone()))
    }

    /// A helper at this path, started without sudo: for tests, and for root with a helper of its own.
    pub fn at(program: PathBuf) -> Self {
        Self::new(program, Vec::new(), Host::current())
    }

    fn new(program: PathBuf, args: Vec<String>, host: Host) -> Self {
        Self { runner: Arc::new(SystemRunner::real()), program, args, host }
    }

    fn connect(&self) -> Result<HelperSession, StepError> {
        let invocation = Invocation::new("helper", self.program.clone(), self.args.clone());
        let connection = self
            .runner
            .connect(&invocation)
            .map_err(|e| unreachable_helper(StepError::caused(StepKind::Platform, ErrorKind::NotReady, &e).message))?;
        let Connection { input, output, child } = connection;
        Ok(HelperSession {
            input: Arc::new(Mutex::new(Some(input))),
            output: BufReader::new(output),
            child,
            opening: Opening::Done,
            is_over: false,
        })
    }

    /// One question that needs no session.
    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, StepError> {
        self.connect()?.ask(request)
    }
}

impl Platform for HelperPlatform {
    fn name(&self) -> &'static str {
        self.host.name()
    }

    fn home(&self, id: &EnvironmentId) -> PathBuf {
        self.host.home(id)
    }

    fn disk(&self, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
        self.host.disk(id, disk)
    }

    fn sizes_homes(&self) -> bool {
        self.host.sizes_homes()
    }

    fn facts(&self) -> Result<HostFacts, StepError> {
        // Every answer about capacity begins here: no helper where nobody has to be root for it.
        self.host.facts().unwrap_or_else(|| self.ask(&Request::Facts {}))
    }

    fn checks(&self) -> Result<Vec<Check>, StepError> {
        self.ask(&Request::Checks {})
    }

    fn open(&self, scope: &Scope) -> Result<Box<dyn Session>, StepError> {
        let mut session = self.connect()?;
        // A program needs a while to start, and the caller may have something else to do.
        session.tell(&Request::Open { scope: scope.clone() })?;
        session.opening = Opening::Asked;
        Ok(Box::new(session))
    }

    fn known(&self) -> Result<Vec<Scope>, StepError> {
        self.ask(&Request::Known {})
    }

    fn audit(&self, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
        self.ask(&Request::AuditHost { alive: alive.to_vec() })
    }

    fn sweep(&self) -> Result<(), StepError> {
        self.ask(&Request::Sweep {})
    }
}

/// A helper's standard input; `None` when it is closed. Shared with the thread that passes on what an entered command
/// reads.
type Input = Arc<Mutex<Option<ChildStdin>>>;

/// One helper process.
struct HelperSession {
    input: Input,
    output: BufReader<ChildStdout>,
    child: Child,
    opening: Opening,
    /// Entering a command is the last thing that a helper does.
    is_over: bool,
}

/// How far a session is with the environment that it is for.
enum Opening {
    /// There is none, or the helper has it.
    Done,
    /// The helper has not answered yet.
    Asked,
    /// The helper refused it.
    Refused(StepError),
}

impl HelperSession {
    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, StepError> {
        self.ready()?;
        self.tell(request)?;
        self.answer(&mut |_, _| {})
    }

    fn tell(&mut self, request: &Request) -> Result<(), StepError> {
        tell(&self.input, request).map_err(unreachable_helper)
    }

    fn answer<T: DeserializeOwned>(
        &mut self,
        output: &mut dyn FnMut(native_platform::Stream, &[u8]),
    ) -> Result<T, StepError> {
        loop {
            match receive(&mut self.output).map_err(unreachable_helper)? {
                Some(Answer::Done { value }) => return serde_json::from_value(value).map_err(unreachable_helper),
                Some(Answer::Failed { error }) => return Err(error),
                Some(Answer::Output { stream, data }) => {
                    output(stream, &hex::decode(data).map_err(unreachable_helper)?);
                }
                None => {
                    return Err(unreachable_helper("it ended without an answer")
                        .hint("its own words are above; with sudo, ask `sudo -n -l`"));
                }
            }
        }
    }
}

impl Session for HelperSession {
    fn ready(&mut self) -> Result<(), StepError> {
        if matches!(self.opening, Opening::Asked) {
            self.opening = self.answer(&mut |_, _| {}).map_or_else(Opening::Refused, |()| Opening::Done);
        }
        match &self.opening {
            Opening::Refused(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn probe_all(&mut self, steps: &[Step]) -> Result<Vec<Presence>, StepError> {
        self.ask(&Request::Probe { steps: steps.to_vec() })
    }

    fn execute_all(&mut self, steps: &[Step]) -> Vec<Executed> {
        // Without an answer any of them may have been begun.
        let unknown = |error: StepError| steps.iter().map(|_| Executed { result: Err(error.clone()), ms: 0 }).collect();
        self.ask(&Request::Execute { steps: steps.to_vec() }).unwrap_or_else(unknown)
    }

    fn revert_all(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let unknown = |error: StepError| steps.iter().map(|_| Err(error.clone())).collect();
        self.ask(&Request::Revert { steps: steps.to_vec() }).unwrap_or_else(unknown)
    }

    fn purge(&mut self) -> Result<(), StepError> {
        self.ask(&Request::Purge {})
    }

    fn observe(&mut self) -> Result<Observation, StepError> {
        self.ask(&Request::Observe {})
    }

    fn wait(&mut self, at_most: Duration) -> Result<Observation, StepError> {
        self.ask(&Request::Wait { at_most_ms: milliseconds(at_most) })
    }

    fn enter(&mut self, command: &Enter, io: EnterIo<'_>) -> Result<i32, StepError> {
        self.ready()?;
        self.tell(&Request::Enter { command: command.clone() })?;
        let (helper, mut from) = (Arc::clone(&self.input), io.input);
        // Left behind when the command ends first: it waits for a caller that has nothing more to say.
        let started = thread::Builder::new().spawn(move || pass_on(&mut *from, &helper));
        started.map_err(|e| unreachable_helper(format!("start a thread: {e}")))?;
        self.is_over = true;
        self.answer(io.output)
    }

    fn audit(&mut self) -> Result<Vec<Leak>, StepError> {
        self.ask(&Request::Audit {})
    }

    fn finish(mut self: Box<Self>) -> Result<(), StepError> {
        if self.is_over { Ok(()) } else { self.ask(&Request::Finish {}) }
    }
}

/// Sends what is read to the helper, and an empty message at the end.
fn pass_on(from: &mut dyn Read, helper: &Input) {
    let mut chunk = [0; 16 << 10];
    loop {
        let n = match from.read(&mut chunk) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let sent = tell(helper, &Request::Input { data: hex::encode(&chunk[..n]) });
        if n == 0 || sent.is_err() {
            return;
        }
    }
}

fn tell(input: &Input, request: &Request) -> io::Result<()> {
    match &mut *input.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(input) => send(input, request),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

impl Drop for HelperSession {
    fn drop(&mut self) {
        // The end of its input makes the helper revert what was not finished, and end.
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(self.child.wait());
    }
}
