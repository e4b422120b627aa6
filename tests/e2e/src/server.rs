//! [`Server`]: a file server on loopback with basic authentication, that counts and that can misbehave.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What the server does when it is asked for a path.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Sends the file.
    File(PathBuf),
    /// Promises the whole file, sends this much of it and closes the connection. Again on every request.
    Cut(PathBuf, usize),
    /// Sends this much of the file and then nothing, with the connection open, until the server is dropped.
    Stall(PathBuf, usize),
    /// Sends the file in pieces, with pauses, so that it takes about this long.
    Slow(PathBuf, Duration),
}

/// The header that the suite's user and password make.
const AUTHORIZATION: &str = "Basic ZmlzaDp3YXRlcg==";

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, Answer>,
    requests: Vec<String>,
    closed: bool,
}

/// A file server on loopback. Ends with the test.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no port to be had.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("no port on loopback");
        let address = listener.local_addr().expect("no address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if lock(&shared).closed {
                    break;
                }
                let shared = Arc::clone(&shared);
                // A client that goes away is what several tests are about.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Self { address, state }
    }

    /// What it does for `name`.
    pub fn set(&self, name: &str, answer: Answer) {
        lock(&self.state).answers.insert(format!("/{name}"), answer);
    }

    /// The url of `name`.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// How often the bytes of `name` were asked for, by whoever knew the password.
    pub fn requests(&self, name: &str) -> usize {
        let wanted = format!("/{name}");
        lock(&self.state).requests.iter().filter(|path| **path == wanted).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        lock(&self.state).closed = true;
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut known = false;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        known |= line
            .split_once(": ")
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("authorization") && value.trim() == AUTHORIZATION);
    }
    if !known {
        return refuse(&mut stream, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"fish\"\r\n");
    }
    let answer = {
        let mut state = lock(state);
        if method == "GET" {
            state.requests.push(path.clone());
        }
        state.answers.get(&path).cloned()
    };
    let Some(answer) = answer else { return refuse(&mut stream, "404 Not Found", "") };
    let (Answer::File(file) | Answer::Cut(file, _) | Answer::Stall(file, _) | Answer::Slow(file, _)) = &answer;
    let bytes = fs::read(file)?;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len())?;
    if method == "HEAD" {
        return Ok(());
    }
    match answer {
        Answer::File(_) => stream.write_all(&bytes),
        Answer::Cut(_, sent) => stream.write_all(&bytes[..sent.min(bytes.len())]),
        Answer::Stall(_, sent) => {
            stream.write_all(&bytes[..sent.min(bytes.len())])?;
            while !lock(state).closed {
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Answer::Slow(_, time) => {
            for piece in bytes.chunks((bytes.len() / 20).max(1)) {
                stream.write_all(piece)?;
                thread::sleep(time / 20);
            }
            Ok(())
        }
    }
}

fn refuse(stream: &mut TcpStream, status: &str, headers: &str) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
}
