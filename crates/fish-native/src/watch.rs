//! Follows an operation of the driver: one line per phase, a bar per download, Ctrl-C.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use native_driver::{ImageProgress, Phase, Progress, Watch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::{Download, Printer};

/// What was asked for from outside while a command ran.
///
/// The first signal cancels what is being done, which then cleans up. Further ones change nothing: giving up
/// half way is what kill -9 is for, and the next command deals with what that leaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    cancel: CancellationToken,
    which: Arc<Mutex<Option<Exit>>>,
    listening: Arc<AtomicBool>,
}

impl Stop {
    /// Listens for Ctrl-C, SIGTERM and a terminal that goes away, from now on. Until then there is nothing to clean up,
    /// and signals end the program as they end any other, also while it waits for a label on standard input.
    ///
    /// # Errors
    /// When the kernel refuses handlers.
    pub(crate) fn listen(&self, printer: &Printer) -> Result<(), Failure> {
        if self.listening.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let handler = |kind: SignalKind| -> Result<Signal, Failure> {
            signal(kind).map_err(|e| Failure::new(Exit::Bug, "signals", "listen for signals").because_of(&e))
        };
        let mut interrupt = handler(SignalKind::interrupt())?;
        let mut terminate = handler(SignalKind::terminate())?;
        let mut hangup = handler(SignalKind::hangup())?;
        let (own, printer) = (self.clone(), printer.clone());
        tokio::spawn(async move {
            loop {
                let exit = tokio::select! {
                    _ = interrupt.recv() => Exit::Interrupted,
                    _ = terminate.recv() => Exit::Terminated,
                    _ = hangup.recv() => Exit::Terminated,
                };
                let first = {
                    let mut which = own.which.lock().unwrap_or_else(PoisonError::into_inner);
                    let first = which.is_none();
                    which.get_or_insert(exit);
                    first
                };
                printer.note(if first { "stopping; cleaning up" } else { "still cleaning up" });
                own.cancel.cancel();
            }
        });
        Ok(())
    }

    /// The token that the first signal cancels.
    pub(crate) fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// How the program ends because of a signal, if there was one.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.which.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The failure that says so.
    pub(crate) fn failure(&self, step: &'static str) -> Failure {
        match self.exit() {
            Some(Exit::Terminated) => Failure::new(Exit::Terminated, step, "terminated"),
            _ => Failure::new(Exit::Interrupted, step, "interrupted"),
        }
    }
}

/// A watch that prints what happens and that the signal stops.
pub(crate) fn watch(printer: &Printer, stop: &Stop) -> Watch {
    Watch::new(stop.token(), sink(printer))
}

/// A watch that prints what happens and that nothing stops: for cleaning up.
pub(crate) fn unstoppable(printer: &Printer) -> Watch {
    Watch::new(CancellationToken::new(), sink(printer))
}

fn sink(printer: &Printer) -> impl Fn(Progress) + Send + Sync + 'static {
    let screen =
        Mutex::new(Screen { printer: printer.clone(), bars: HashMap::new(), details: HashMap::new(), reverted: None });
    move |progress| screen.lock().unwrap_or_else(PoisonError::into_inner).show(progress)
}

struct Screen {
    printer: Printer,
    bars: HashMap<String, Download>,
    /// What to say beside a phase when it has ended.
    details: HashMap<Phase, String>,
    /// Each step is reverted by itself; people want to know how long all of it took.
    reverted: Option<u64>,
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end_of_revert();
    }
}

impl Screen {
    fn show(&mut self, progress: Progress) {
        self.printer.event(&progress);
        match progress {
            Progress::Claimed(id) => {
                self.details.insert(Phase::Account, id.to_string());
            }
            Progress::Started(phase) => {
                if phase != Phase::Revert {
                    self.end_of_revert();
                }
            }
            Progress::Finished { phase: Phase::Revert, ms } => *self.reverted.get_or_insert(0) += ms,
            Progress::Finished { phase, ms } => {
                let detail = self.details.remove(&phase).unwrap_or_default();
                self.printer.phase(phase, ms, &detail);
            }
            Progress::Warning(text) => self.printer.warning(text),
            Progress::Image { image, progress } => self.image(image, progress),
        }
    }

    fn end_of_revert(&mut self) {
        if let Some(ms) = self.reverted.take() {
            self.printer.phase(Phase::Revert, ms, "");
        }
    }

    fn image(&mut self, image: String, progress: ImageProgress) {
        match progress {
            ImageProgress::Waiting => self.printer.note(format_args!("  {image}: another environment fetches it")),
            ImageProgress::Downloading { bytes, total } => {
                let bar = self.bars.entry(image).or_insert_with_key(|name| self.printer.bar(name));
                bar.update(bytes, total);
            }
            ImageProgress::Retrying { why } => self.printer.warning(format_args!("{image}: trying again: {why}")),
            ImageProgress::Ready { from_cache } => {
                let bytes = self.bars.remove(&image).and_then(|bar| bar.bytes());
                let how = match (from_cache, bytes) {
                    (true, _) => "from the cache".to_owned(),
                    (false, Some(bytes)) => format!("{}, fetched", indicatif::HumanBytes(bytes)),
                    (false, None) => "fetched".to_owned(),
                };
                let line = self.details.entry(Phase::Images).or_default();
                if !line.is_empty() {
                    line.push_str("; ");
                }
                line.push_str(&format!("{image} {how}"));
            }
        }
    }
}
