//! `enter`: a command inside an environment, with its three streams.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;

use super::{EnterSpec, Frame, Report};

/// Reads its document as one line, then the command's input.
pub(super) fn run() -> ExitCode {
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    let out = Mutex::new(io::stdout());
    let write = |frame: Frame| match out.lock() {
        Ok(mut out) => frame.write(&mut *out).is_ok(),
        Err(_) => false,
    };
    let spec = input.read_line(&mut line).map_err(|e| e.to_string());
    let spec = spec.and_then(|_| serde_json::from_str::<EnterSpec>(&line).map_err(|e| e.to_string()));
    let done = spec.and_then(|spec| serve(&spec, input, &write));
    write(done.map_or_else(Frame::Failed, Frame::Exit));
    ExitCode::SUCCESS
}

fn serve(
    spec: &EnterSpec,
    mut input: BufReader<io::Stdin>,
    write: &(impl Fn(Frame) -> bool + Sync),
) -> Result<i32, String> {
    let mut process = spec.command.process();
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process.spawn().map_err(|e| format!("{}: {e}", spec.command.0.join(" ")))?;
    if let Some(mut pipe) = child.stdin.take() {
        writeln!(pipe, "{}", spec.job).map_err(|e| format!("su: {e}"))?;
        // Not waited for: a terminal's input has no end, and this process ends when the command does.
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = input.read(&mut chunk) {
                if pipe.write_all(&chunk[..n]).and_then(|()| pipe.flush()).is_err() {
                    break;
                }
            }
        });
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let tail = thread::scope(|scope| {
        let out = scope.spawn(|| stdout.map(|p| pass(p, 0, |bytes| write(Frame::Out(bytes)))));
        let held = spec.token.len() + 16;
        let tail = stderr.map(|p| pass(p, held, |bytes| write(Frame::Err(bytes)))).unwrap_or_default();
        drop(out.join());
        tail
    });
    drop(child.wait());
    // The last line of standard error is the job's report, and nobody else's business.
    let text = String::from_utf8_lossy(&tail);
    let report = text.rfind(&spec.token).and_then(|at| Some((at, Report::parse(text[at..].trim_end(), &spec.token)?)));
    let (rest, code) = match report {
        Some((at, Report::Ended(code))) => (text[..at].strip_suffix('\n').unwrap_or(&text[..at]), Some(code)),
        _ => (text.as_ref(), None),
    };
    if !rest.is_empty() {
        write(Frame::Err(rest.as_bytes().to_vec()));
    }
    // No report: the shell was killed, or su refused.
    code.ok_or_else(|| format!("the command did not say how it ended: {}", rest.trim()))
}

/// Passes a stream on, holding back its last bytes; returns those.
fn pass(mut pipe: impl Read, held: usize, mut to: impl FnMut(Vec<u8>) -> bool) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), [0; 16 << 10]);
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return kept,
            Ok(n) => {
                kept.extend_from_slice(&chunk[..n]);
                let ready = kept.len().saturating_sub(held);
                if ready > 0 {
                    to(kept.drain(..ready).collect());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
    }
}
