//! The one place in this crate that starts programs.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, bail};

/// A program to run in the workspace's root.
#[derive(Debug)]
pub(crate) struct Run {
    program: String,
    args: Vec<String>,
    variables: Vec<(String, String)>,
}

/// Cargo, the one that runs us.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Run {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    Run { program: cargo, args: args.into_iter().map(str::to_owned).collect(), variables: Vec::new() }
}

/// Another program.
pub(crate) fn tool(program: &str, args: &[&str]) -> Run {
    Run { program: program.to_owned(), args: args.iter().map(|&a| a.to_owned()).collect(), variables: Vec::new() }
}

/// Whether `cargo NAME` is there.
pub(crate) fn has_subcommand(name: &str) -> bool {
    cargo([name, "--version"]).output().is_ok()
}

impl Run {
    /// Adds a variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self) -> Command {
        #[expect(clippy::disallowed_methods, reason = "chores run cargo and common tools at their user's request")]
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(crate::root()).envs(self.variables.iter().cloned());
        command
    }

    /// The command line, for messages.
    pub(crate) fn shown(&self) -> String {
        let name = self.program.rsplit('/').next().unwrap_or_default();
        format!("{name} {}", self.args.join(" "))
    }

    /// Starts it with nothing to read, and its standard output going nowhere.
    pub(crate) fn spawn_quietly(&self) -> anyhow::Result<Child> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().with_context(|| format!("could not start {}", self.program))
    }

    /// Runs it; both streams go where ours go.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        crate::report::say(&format!("$ {}", self.shown()));
        let status = self.command().status().with_context(|| format!("could not start {}", self.program))?;
        if !status.success() {
            bail!("{} ended with {status}", self.shown());
        }
        Ok(())
    }

    /// Runs it and returns its standard output; its standard error is kept back unless it fails.
    pub(crate) fn output(&self) -> anyhow::Result<String> {
        let out = self.command().output().with_context(|| format!("could not start {}", self.program))?;
        if !out.status.success() {
            bail!("{} ended with {}:\n{}", self.shown(), out.status, String::from_utf8_lossy(&out.stderr));
        }
        String::from_utf8(out.stdout).with_context(|| format!("the output of {} is not text", self.shown()))
    }

    /// Runs it with nothing to read and both streams kept back, and does not ask how it ended: `killall` of nothing is
    /// an error, too.
    pub(crate) fn quietly(&self) -> anyhow::Result<()> {
        let mut command = self.command();
        command.stdin(Stdio::null()).output().with_context(|| format!("could not start {}", self.program))?;
        Ok(())
    }

    /// Starts it, with its output in no one's way, and leaves it running.
    pub(crate) fn leave(&self) -> anyhow::Result<Child> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("could not start {}", self.program))
    }

    /// Runs it, passes both streams on line by line, and returns the lines that `keep` wants together with whether
    /// it succeeded.
    pub(crate) fn lines(&self, keep: fn(&str) -> bool) -> anyhow::Result<(Vec<String>, bool)> {
        crate::report::say(&format!("$ {}", self.shown()));
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", self.program))?;
        let (send, receive) = mpsc::channel::<String>();
        let mut readers = Vec::new();
        for pipe in [
            child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
            child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
        ]
        .into_iter()
        .flatten()
        {
            let send = send.clone();
            readers.push(thread::spawn(move || {
                let mut lines = BufReader::new(pipe);
                let mut line = Vec::new();
                while matches!(lines.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    line.clear();
                    if send.send(text).is_err() {
                        break;
                    }
                }
            }));
        }
        drop(send);
        let mut kept = Vec::new();
        for line in receive {
            drop(writeln!(std::io::stdout().lock(), "{line}"));
            if keep(&line) {
                kept.push(line.trim().to_owned());
            }
        }
        for reader in readers {
            drop(reader.join());
        }
        let status = child.wait().with_context(|| format!("could not wait for {}", self.program))?;
        Ok((kept, status.success()))
    }
}
