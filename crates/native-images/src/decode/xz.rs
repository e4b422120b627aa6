//! All streams of an xz file, one after the other.

use std::io::{self, BufRead, Read};

use liblzma::stream::{Action, Error as XzError, Status, Stream};

use crate::archive::ArchiveError;

/// All streams of an xz file, with the padding between and after them.
pub(super) struct XzReader<R> {
    input: R,
    stream: Option<Stream>,
    limit: u64,
    /// Bytes of padding since the last stream.
    padding: u64,
    consumed: u64,
}

impl<R: BufRead> XzReader<R> {
    /// A decoder that needs more memory than `limit` is an error.
    pub(super) fn new(input: R, limit: u64) -> io::Result<Self> {
        let stream = Some(Stream::new_stream_decoder(limit, 0)?);
        Ok(Self { input, stream, limit, padding: 0, consumed: 0 })
    }

    /// How much of the input is decoded.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// After a stream: zeros by fours, then the end or another stream. `false` at the end.
    fn between(&mut self) -> io::Result<bool> {
        loop {
            let input = self.input.fill_buf()?;
            let zeros = input.iter().take_while(|byte| **byte == 0).count();
            let (at_end, more) = (input.is_empty(), zeros < input.len());
            self.input.consume(zeros);
            self.padding += zeros as u64;
            if !at_end && !more {
                continue;
            }
            check_padding(self.padding)?;
            if at_end {
                return Ok(false);
            }
            self.padding = 0;
            self.stream = Some(Stream::new_stream_decoder(self.limit, 0)?);
            return Ok(true);
        }
    }

    /// Decodes more of the present stream; 0 at its end.
    pub(super) fn read_stream(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(stream) = self.stream.as_mut() {
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            let action = if at_end { Action::Finish } else { Action::Run };
            let (in_before, out_before) = (stream.total_in(), stream.total_out());
            let status = stream.process(input, buffer, action);
            let used = usize::try_from(stream.total_in() - in_before).unwrap_or(0);
            let made = usize::try_from(stream.total_out() - out_before).unwrap_or(0);
            self.input.consume(used);
            self.consumed += used as u64;
            match status {
                Ok(Status::StreamEnd) => {
                    self.stream = None;
                    if made > 0 {
                        return Ok(made);
                    }
                }
                Ok(_) if made > 0 => return Ok(made),
                Ok(_) if at_end && used == 0 => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the data end too early"));
                }
                Ok(_) => {}
                Err(XzError::MemLimit) => return Err(io::Error::other(ArchiveError::Memory { limit: self.limit })),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(0)
    }
}

impl<R: BufRead> Read for XzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let made = self.read_stream(buffer)?;
            if made > 0 || !self.between()? {
                return Ok(made);
            }
        }
    }
}

/// Padding after a stream comes by fours ("The .xz File Format" 2.2).
pub(super) fn check_padding(bytes: u64) -> io::Result<()> {
    if bytes.is_multiple_of(4) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the padding after a stream has a wrong length"))
}
