//! Lets the disk write while the rest is still being decoded.
//!
//! A tree is made durable before it gets its name. Left to the end, that is all of its bytes at once, a fifth of the whole
//! time for an image of 400 MB; asked for now and then by a thread that has nothing else to do, it costs next to nothing.
//! To begin it file by file (`posix_fadvise`) was slower where two decoders keep two cores busy.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// So many bytes are gathered before the disk is asked again. Small enough to be written in the time in which as much is
/// decoded, large enough that a file system's journal is not what the time goes to.
const BATCH: u64 = 32 << 20;

/// Asks for what is written to a file system to be on the disk. Does nothing but on Linux, where a whole file system can
/// be asked for.
#[derive(Debug)]
pub(super) struct Writeback {
    /// Opened before anything is written: only errors after that are told (syncfs(2)).
    dir: Option<File>,
    pending: u64,
    worker: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl Writeback {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let dir = if cfg!(target_os = "linux") { Some(File::open(dir)?) } else { None };
        Ok(Self { dir, pending: 0, worker: None })
    }

    /// So much more was written.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.pending += bytes;
        if self.pending < BATCH {
            return;
        }
        if let Some(dir) = self.dir.take() {
            let (sender, receiver) = sync_channel(1);
            let work = move || receiver.iter().try_for_each(|()| sync(&dir));
            let thread = std::thread::Builder::new().name("image-writeback".to_owned()).spawn(work);
            // Without a thread everything is as durable in the end, only later.
            self.worker = thread.ok().map(|thread| (sender, thread));
        }
        if let Some((sender, _)) = &self.worker
            && sender.try_send(()).is_ok()
        {
            self.pending = 0;
        }
    }

    /// Waits for what was asked for.
    pub(super) fn finish(mut self) -> io::Result<()> {
        match self.worker.take() {
            Some((sender, thread)) => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        // Whoever removes what was written has to know that nobody holds its file system any more.
        if let Some((sender, thread)) = self.worker.take() {
            drop(sender);
            drop(thread.join());
        }
    }
}

#[cfg(target_os = "linux")]
fn sync(dir: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

#[cfg(not(target_os = "linux"))]
fn sync(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_trees_are_asked_for_early_and_small_ones_not() {
        let dir = tempfile::Builder::new().prefix("fish-").tempdir().unwrap();
        let mut small = Writeback::new(dir.path()).unwrap();
        small.wrote(BATCH - 1);
        assert!(small.worker.is_none());
        small.finish().unwrap();
        let mut large = Writeback::new(dir.path()).unwrap();
        for _ in 0..5 {
            large.wrote(BATCH);
        }
        assert_eq!(large.worker.is_some(), cfg!(target_os = "linux"));
        large.finish().unwrap();
    }
}
