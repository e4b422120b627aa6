//! Frames on the pipe of `enter`: a letter, a length, bytes.

use std::io::{self, Read, Write};

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// What the command wrote to its standard output.
    Out(Vec<u8>),
    /// What it wrote to its standard error.
    Err(Vec<u8>),
    /// Its exit code.
    Exit(i32),
    /// It could not be started.
    Failed(String),
}

const LONGEST: usize = 1 << 20;

impl Frame {
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let code;
        let (letter, bytes) = match self {
            Self::Out(bytes) => (b'o', bytes.as_slice()),
            Self::Err(bytes) => (b'e', bytes.as_slice()),
            Self::Exit(n) => {
                code = n.to_be_bytes();
                (b'x', code.as_slice())
            }
            Self::Failed(text) => (b'f', text.as_bytes()),
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        to.write_all(&[letter])?;
        to.write_all(&length.to_be_bytes())?;
        to.write_all(bytes)?;
        to.flush()
    }
}

/// Reads a frame; `None` at the end.
pub(crate) fn read_frame(mut from: impl Read) -> io::Result<Option<Frame>> {
    let mut letter = [0];
    if from.read(&mut letter)? == 0 {
        return Ok(None);
    }
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(Some(match letter[0] {
        b'o' => Frame::Out(bytes),
        b'e' => Frame::Err(bytes),
        b'x' => {
            Frame::Exit(i32::from_be_bytes(bytes.try_into().map_err(|_| io::Error::other("a frame is too short"))?))
        }
        b'f' => Frame::Failed(String::from_utf8_lossy(&bytes).into_owned()),
        other => return Err(io::Error::other(format!("a frame of kind {other}"))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let frames =
            [Frame::Out(b"a".to_vec()), Frame::Err(Vec::new()), Frame::Exit(130), Frame::Failed("x".to_owned())];
        let mut pipe = Vec::new();
        frames.iter().for_each(|f| f.write(&mut pipe).unwrap());
        let mut rest = pipe.as_slice();
        for frame in frames {
            assert_eq!(read_frame(&mut rest).unwrap(), Some(frame));
        }
        assert_eq!(read_frame(&mut rest).unwrap(), None);
        assert!(read_frame(&b"o\xff\xff\xff\xff"[..]).is_err() && read_frame(&b"z\0\0\0\0"[..]).is_err());
    }
}
