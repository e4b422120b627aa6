//! `job`: one job as the account, with an archive of a tree as its input.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitCode, Stdio};
use std::thread;

use nix::unistd::{Uid, User};

use super::{Command, JobSpec, Report};
use crate::mac::Answer;

/// The most of a job's messages that is kept: their end, where the reason is.
const KEPT: usize = 2 << 10;

pub(super) fn run(spec: &JobSpec) -> Answer {
    let mut process = spec.command.process();
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(e) => return Answer::Failed { message: format!("{}: {e}", spec.command.0.join(" ")) },
    };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (sent, said, errors) = thread::scope(|scope| {
        let said = scope.spawn(|| end_of(stdout));
        let errors = scope.spawn(|| end_of(stderr));
        let sent = stdin.map_or(Ok(()), |pipe| send(pipe, spec));
        (sent, said.join().unwrap_or_default(), errors.join().unwrap_or_default())
    });
    let ended = child.wait();
    let report = said.lines().rev().find_map(|line| Report::parse(line, &spec.token));
    match (report, sent) {
        (Some(Report::Ended(0)), Ok(())) => Answer::Done { pid: 0 },
        (Some(Report::Missing), _) => Answer::Missing,
        // The tool went away before it had read everything, and said it was well: it was not.
        (Some(Report::Ended(0)), Err(e)) => Answer::Failed { message: format!("its input could not be written: {e}") },
        (Some(Report::Ended(code)), _) => Answer::Failed { message: format!("exit code {code}: {}", errors.trim()) },
        (Some(Report::Started(_)) | None, _) => {
            let ended = ended.map_or_else(|e| e.to_string(), |s| s.to_string());
            Answer::Failed { message: format!("it did not say how it ended ({ended}): {}", errors.trim()) }
        }
    }
}

fn end_of(pipe: Option<impl Read>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                text.extend_from_slice(&chunk[..n]);
                let over = text.len().saturating_sub(KEPT);
                text.drain(..over);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes the job, then its input: a tree as an archive, by a process of its own that has the rights of the driver's
/// user. Root would follow a link in the tree to what that user may not read.
fn send(mut pipe: ChildStdin, spec: &JobSpec) -> io::Result<()> {
    writeln!(pipe, "{}", spec.job)?;
    pipe.flush()?;
    let Some(tree) = &spec.tree else { return Ok(()) };
    let mut argv = spec.keeper.clone();
    argv.push("archive".to_owned());
    let mut process = Command(argv).process();
    if spec.reader != 0 && rustix::process::geteuid().is_root() {
        let user = User::from_uid(Uid::from_raw(spec.reader)).ok().flatten();
        // With another user, the library drops the groups of root's as well.
        process.uid(spec.reader).gid(user.map_or(spec.reader, |user| user.gid.as_raw()));
    }
    let mut child = process.stdin(Stdio::piped()).stdout(pipe).stderr(Stdio::piped()).spawn()?;
    // The command holds the other end of the pipe; it is to see the end when the child is gone.
    drop(process);
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&serde_json::to_vec(tree)?)?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// `archive`: writes the tree that standard input names as an archive to standard output.
pub(super) fn write_archive(tree: &Path) -> ExitCode {
    match archive(BufWriter::new(io::stdout().lock()), tree) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "{}: {error}", tree.display()));
            ExitCode::FAILURE
        }
    }
}

/// Writes a tree as an archive: files, directories, links, with modes and times. Owners mean nothing: all of it
/// becomes the account's.
fn archive(to: impl Write, tree: &Path) -> io::Result<()> {
    let mut builder = tar::Builder::new(to);
    builder.follow_symlinks(false);
    let mut seen = HashMap::new();
    // Not recursive: a cached tree may be deeper than a stack.
    let mut left = vec![tree.to_owned()];
    while let Some(dir) = left.pop() {
        let mut entries = fs::read_dir(&dir)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        for path in entries {
            let name = path.strip_prefix(tree).map_err(io::Error::other)?.to_owned();
            append(&mut builder, &path, &name, &mut seen)?;
            if fs::symlink_metadata(&path)?.is_dir() {
                left.push(path);
            }
        }
    }
    builder.into_inner()?.flush()
}

fn append(
    builder: &mut tar::Builder<impl Write>,
    path: &Path,
    name: &Path,
    seen: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
        return Err(io::Error::other(format!("{}: neither a file, a directory nor a link", path.display())));
    }
    if kind.is_file() && meta.nlink() > 1 {
        if let Some(first) = seen.get(&(meta.dev(), meta.ino())) {
            let mut header = tar::Header::new_gnu();
            header.set_metadata(&meta);
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            return builder.append_link(&mut header, name, first);
        }
        seen.insert((meta.dev(), meta.ino()), name.to_owned());
    }
    builder.append_path_with_name(path, name)
}
