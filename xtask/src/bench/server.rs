//! A file server on the loopback interface.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Serves the files of a directory for as long as this program runs, each request in a thread of its own. Returns the
/// url that names go behind.
///
/// # Errors
/// When there is no port.
pub(super) fn start(dir: &Path) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port on the loopback interface")?;
    let url = format!("http://{}/", listener.local_addr()?);
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let dir = dir.clone();
            // A client that goes away is its own affair.
            std::thread::spawn(move || drop(answer(&stream, &dir)));
        }
    });
    Ok(url)
}

fn answer(mut stream: &TcpStream, dir: &Path) -> io::Result<()> {
    let mut path = PathBuf::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(target) = line.strip_prefix("GET /") {
            path = dir.join(target.split(' ').next().unwrap_or_default());
        }
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    io::copy(&mut file, &mut stream)?;
    stream.flush()
}
