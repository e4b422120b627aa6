//! [`Printer`]: the one owner of standard output and standard error.
//!
//! Results go to standard output, everything else to standard error. With `--json` standard output carries one
//! document and nothing else. Colours and bars are for terminals; `NO_COLOR` is honoured. A reader that goes away
//! (`fish-native list | head -1`) ends the printing, not the work: a workload is cleaned up all the same.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anstream::AutoStream;
use clap::builder::styling::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::{Global, LogFormat};
use crate::escape::Escape;

/// How much is said on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Quiet,
    Normal,
}

/// Owns standard output and standard error. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Printer(Arc<Inner>);

struct Inner {
    json: bool,
    level: Level,
    format: LogFormat,
    bars: MultiProgress,
    stdout_gone: AtomicBool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printer").field("json", &self.json).field("level", &self.level).finish_non_exhaustive()
    }
}

// The colours: few, and only for what the eye looks for.
const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
const FAINT: Style = Style::new().dimmed();

impl Printer {
    /// A printer as the command line asks for.
    pub(crate) fn new(global: &Global) -> Self {
        let level = if global.quiet { Level::Quiet } else { Level::Normal };
        let draw = level > Level::Quiet && global.log_format == LogFormat::Text && io::stderr().is_terminal();
        let target = if draw { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self(Arc::new(Inner {
            json: global.json,
            level,
            format: global.log_format,
            bars: MultiProgress::with_draw_target(target),
            stdout_gone: AtomicBool::new(false),
        }))
    }

    /// Whether results are one JSON document.
    pub(crate) fn is_json(&self) -> bool {
        self.0.json
    }

    /// Whether standard error can be coloured.
    pub(crate) fn colours_stderr(&self) -> bool {
        AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
    }

    /// The result for programs: printed with `--json`, and then alone.
    pub(crate) fn document(&self, document: &impl Serialize) {
        if self.0.json {
            // Our documents have string keys and no failing serialisers.
            let text = serde_json::to_string_pretty(document)
                .unwrap_or_else(|e| format!("{{\"error\": {{\"code\": 1, \"message\": {:?}}}}}", e.to_string()));
            self.out(text.as_bytes());
            self.out(b"\n");
        }
    }

    /// A line of the result for people; nothing with `--json`.
    pub(crate) fn line(&self, text: impl fmt::Display) {
        if !self.0.json {
            self.out(format!("{text}\n").as_bytes());
        }
    }

    /// What a workload wrote: to standard output as it is, or to standard error when that is taken by a document.
    pub(crate) fn workload(&self, bytes: &[u8]) {
        if self.0.json {
            self.err(bytes);
        } else {
            self.out(bytes);
        }
    }

    /// What a workload printed, from its log: as [`Self::workload`], and on a terminal as far as that is safe.
    pub(crate) fn log(&self, escape: &mut Escape, bytes: &[u8]) {
        let is_terminal = if self.0.json { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        if is_terminal { self.workload(&escape.piece(bytes)) } else { self.workload(bytes) }
    }

    /// What a command inside wrote to its standard error.
    pub(crate) fn workload_error(&self, bytes: &[u8]) {
        self.err(bytes);
    }

    /// A line on what goes on; nothing with `--quiet`.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if self.0.level == Level::Quiet {
            return;
        }
        match self.0.format {
            LogFormat::Text => self.err(format!("{text}\n").as_bytes()),
            LogFormat::Json => self.record("info", &text.to_string()),
        }
    }

    /// A part of the work that is done, with how long it took.
    pub(crate) fn phase(&self, name: impl fmt::Display, ms: u64, detail: &str) {
        if self.0.level == Level::Quiet || self.0.format == LogFormat::Json {
            return;
        }
        let name = name.to_string();
        let detail = if detail.is_empty() { String::new() } else { format!("  {FAINT}{detail}{FAINT:#}") };
        self.err_styled(&format!("  {name:<9} {ms:>6} ms{detail}"));
    }

    /// Something that happened, for programs that read standard error: only with `--log-format json`.
    pub(crate) fn event(&self, event: &impl Serialize) {
        if self.0.format == LogFormat::Json && self.0.level > Level::Quiet {
            let line = serde_json::json!({ "level": "info", "event": event });
            self.err(format!("{line}\n").as_bytes());
        }
    }

    /// Something that stops nothing and that a person should know.
    pub(crate) fn warning(&self, text: impl fmt::Display) {
        self.message("warning", WARNING, &text.to_string());
    }

    /// What went wrong.
    pub(crate) fn error(&self, text: impl fmt::Display) {
        self.message("error", ERROR, &text.to_string());
    }

    /// What to do about it.
    pub(crate) fn hint(&self, text: impl fmt::Display) {
        self.message("hint", HINT, &text.to_string());
    }

    /// Text that is rendered already, colours and all.
    pub(crate) fn rendered(&self, text: &str) {
        match self.0.format {
            LogFormat::Text => self.err(format!("{}\n", text.trim_end()).as_bytes()),
            LogFormat::Json => self.record("error", text.trim_end()),
        }
    }

    /// Warnings about a file that are drawn already.
    pub(crate) fn drawn_warning(&self, text: &str) {
        if self.0.level > Level::Quiet {
            match self.0.format {
                LogFormat::Text => self.err(format!("{}\n", text.trim_end()).as_bytes()),
                LogFormat::Json => self.record("warning", text.trim_end()),
            }
        }
    }

    /// A bar for a download, drawn on a terminal only.
    pub(crate) fn bar(&self, name: &str) -> Download {
        Download { printer: self.clone(), name: name.to_owned(), bar: Mutex::new(None) }
    }

    fn message(&self, word: &str, style: Style, text: &str) {
        match self.0.format {
            LogFormat::Text => self.err_styled(&format!("{style}{word}{style:#}: {text}")),
            LogFormat::Json => self.record(word, text),
        }
    }

    fn record(&self, level: &str, text: &str) {
        let line = serde_json::json!({ "level": level, "message": text });
        self.err(format!("{line}\n").as_bytes());
    }

    fn err_styled(&self, text: &str) {
        if self.colours_stderr() {
            self.err(format!("{text}\n").as_bytes());
        } else {
            self.err(format!("{}\n", anstream::adapter::strip_str(text)).as_bytes());
        }
    }

    fn out(&self, bytes: &[u8]) {
        if self.0.stdout_gone.load(Ordering::Relaxed) {
            return;
        }
        let wrote = self.0.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        });
        if wrote.is_err() {
            self.0.stdout_gone.store(true, Ordering::Relaxed);
        }
    }

    fn err(&self, bytes: &[u8]) {
        // When standard error is gone there is nobody to tell.
        self.0.bars.suspend(|| drop(io::stderr().lock().write_all(bytes)));
    }

    /// Where log lines go: standard error, without tearing a bar that is being drawn.
    pub(crate) fn log_writer(&self) -> LogWriter {
        LogWriter(self.clone())
    }
}

/// A download as it goes on. Its bar vanishes when this is dropped.
#[derive(Debug)]
pub(crate) struct Download {
    printer: Printer,
    name: String,
    bar: Mutex<Option<ProgressBar>>,
}

impl Download {
    /// So many bytes of so many, if that is known, have come.
    pub(crate) fn update(&self, bytes: u64, total: Option<u64>) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bar.get_or_insert_with(|| {
            let template = if total.is_some() {
                "  {msg:24!} {bar:30} {bytes:>10} of {total_bytes}  {bytes_per_sec}  {eta}"
            } else {
                "  {msg:24!} {spinner} {bytes:>10}  {bytes_per_sec}"
            };
            let bar = self.printer.0.bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
            // The templates are constants; the usual bar is better than none if one is ever wrong.
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.with_message(self.name.clone())
        });
        bar.set_position(bytes);
    }

    /// How many bytes have come.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ProgressBar::position)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

/// Writes log lines to standard error through the printer.
#[derive(Debug)]
pub(crate) struct LogWriter(Printer);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.err(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
