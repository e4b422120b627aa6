//! The root side: reads requests, executes them, answers.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use native_platform::{EnterIo, ErrorKind, Platform, Scope, Session, Step, StepError, StepKind};
use serde::Serialize;

use crate::host::{self, HELPER_ARGUMENT, Host, KEEPER_ARGUMENT, Settings};
use crate::protocol::{Answer, Request, receive, send};
use crate::rules::Rules;

/// What a program of ours does that was started by itself: as root's helper, or as the process beside a workload.
/// `args` come after the program's name. `None`: it was started by a person. To be asked first of all in `main`,
/// while there is one thread.
pub fn hidden_entry(host: &Host, args: &[OsString]) -> Option<ExitCode> {
    let args: Vec<&str> = args.iter().map(|a| a.to_str().unwrap_or_default()).collect();
    match args[..] {
        [HELPER_ARGUMENT, settings] => Some(serde_json::from_str(settings).map_or(ExitCode::FAILURE, |settings| {
            // Whoever may start it so is who it acts for: no right is gained by it.
            help(host, nix::unistd::getuid().as_raw(), Some(settings))
        })),
        [KEEPER_ARGUMENT, mode] => Some(host::keeper(mode)),
        _ => None,
    }
}

/// The stand-alone helper: serves one operation from standard input. It takes no arguments.
pub fn stand_alone(host: &Host) -> ExitCode {
    let by_sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    help(host, by_sudo.unwrap_or_else(|| nix::unistd::getuid().as_raw()), None)
}

fn help(host: &Host, caller: u32, settings: Option<Settings>) -> ExitCode {
    if let Err(e) = host::unload() {
        let error = StepError::failed(StepKind::Platform, format!("let go of what the caller handed down: {e}"));
        drop(send(&mut io::stdout(), &Answer::Failed { error }));
        return ExitCode::FAILURE;
    }
    // Root may ask for everything; for others it is written down.
    let rules = (caller != 0).then(|| Rules::load(&host.rules()));
    let by_root = || rules.as_ref().and_then(|r| r.as_ref().ok()).map(Settings::from);
    let settings = settings.or_else(by_root).unwrap_or_default();
    let platform = match host.as_root(&settings, caller) {
        Ok(platform) => platform,
        Err(error) => {
            drop(send(&mut io::stdout(), &Answer::Failed { error }));
            return ExitCode::FAILURE;
        }
    };
    let guard = Guard { rules, caller };
    match serve(platform.as_ref(), &guard, &mut next_request, &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer<T: Serialize>(to: &mut impl Write, result: Result<T, StepError>) -> io::Result<()> {
    let answer = match result {
        Ok(value) => Answer::Done { value: serde_json::to_value(value)? },
        Err(error) => Answer::Failed { error },
    };
    send(to, &answer)
}

/// What stands between a request and the platform.
struct Guard {
    /// `None` for root.
    rules: Option<Result<Rules, StepError>>,
    caller: u32,
}

impl Guard {
    fn rules(&self) -> Result<Option<&Rules>, StepError> {
        self.rules.as_ref().map(|r| r.as_ref().map_err(Clone::clone)).transpose()
    }

    fn open(&self, platform: &dyn Platform, scope: &Scope) -> Result<Box<dyn Session>, StepError> {
        if let Some(rules) = self.rules()? {
            rules.check_scope(scope, self.caller)?;
        }
        platform.open(scope)
    }

    fn check(&self, steps: &[Step]) -> Result<(), StepError> {
        self.rules()?.map_or(Ok(()), |rules| steps.iter().try_for_each(|step| rules.check_step(step)))
    }
}

/// The next request from standard input. It is locked anew each time, because the input of an entered command is read
/// on a thread of its own.
fn next_request() -> io::Result<Option<Request>> {
    receive(&mut io::stdin().lock())
}

/// Serves until the input ends. A session that was not finished reverts itself when it is dropped.
fn serve(
    platform: &dyn Platform,
    guard: &Guard,
    next: &mut dyn FnMut() -> io::Result<Option<Request>>,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut session: Option<Box<dyn Session>> = None;
    loop {
        let request = match next() {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(e) => {
                let error = StepError::new(StepKind::Platform, ErrorKind::Invalid, format!("not a request: {e}"));
                return send(output, &Answer::Failed { error });
            }
        };
        let Some(open) = session.as_mut() else {
            match request {
                Request::Facts {} => answer(output, platform.facts())?,
                Request::Checks {} => answer(output, platform.checks())?,
                Request::Known {} => answer(output, guard.rules().and_then(|_| platform.known()))?,
                Request::AuditHost { alive } => answer(output, guard.rules().and_then(|_| platform.audit(&alive)))?,
                // What has a record is spared whatever the caller says: root's own word decides.
                Request::Sweep {} => answer(output, guard.rules().and_then(|_| platform.sweep()))?,
                Request::Open { scope } => match guard.open(platform, &scope) {
                    Ok(opened) => {
                        session = Some(opened);
                        answer(output, Ok(()))?;
                    }
                    Err(error) => send(output, &Answer::Failed { error })?,
                },
                other => answer(output, Err::<(), _>(misplaced(&other)))?,
            }
            continue;
        };
        match request {
            Request::Probe { steps } => answer(output, open.probe_all(&steps))?,
            Request::Execute { steps } => answer(output, guard.check(&steps).map(|()| open.execute_all(&steps)))?,
            Request::Revert { steps } => answer(output, Ok(open.revert_all(&steps)))?,
            Request::Purge {} => answer(output, open.purge())?,
            Request::Observe {} => answer(output, open.observe())?,
            Request::Wait { at_most_ms } => answer(output, open.wait(Duration::from_millis(at_most_ms)))?,
            Request::Audit {} => answer(output, open.audit())?,
            Request::Enter { command } => {
                let mut broken = None;
                let mut write = |stream, data: &[u8]| {
                    let sent = send(output, &Answer::Output { stream, data: hex::encode(data) });
                    broken = sent.err().or(broken.take());
                };
                let io = EnterIo { input: Box::new(Frames { left: Vec::new() }), output: &mut write };
                let result = open.enter(&command, io);
                if let Some(error) = broken {
                    return Err(error);
                }
                answer(output, result)?;
                // Standard input belongs to the command's reader now: nothing else can be asked.
                if let Some(session) = session.take() {
                    drop(session.finish());
                }
                return Ok(());
            }
            Request::Finish {} => {
                let finished = session.take().map_or(Ok(()), Session::finish);
                answer(output, finished)?;
            }
            other => answer(output, Err::<(), _>(misplaced(&other)))?,
        }
    }
}

fn misplaced(request: &Request) -> StepError {
    StepError::new(StepKind::Platform, ErrorKind::Invalid, format!("{request:?} makes no sense here"))
}

/// The input of an entered command, unpacked from requests.
struct Frames {
    left: Vec<u8>,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            match next_request()? {
                Some(Request::Input { data }) => self.left = hex::decode(data).map_err(io::Error::other)?,
                _ => return Ok(0),
            }
        }
        let n = buffer.len().min(self.left.len());
        for (to, from) in buffer.iter_mut().zip(self.left.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }
}
