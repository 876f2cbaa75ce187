//! A proxy on loopback that answers some requests itself, as a proxy or a broken server does.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// The proxy. Its threads end with the connections of those whom it serves.
#[derive(Debug)]
pub struct Answering {
    /// Where it listens.
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    /// How the paths end whose requests it answers.
    path: &'static str,
    answers: Mutex<VecDeque<&'static str>>,
    /// What an answer holds that is lost with its connection, once.
    loses: Mutex<Option<&'static str>>,
    asked: Mutex<Vec<Instant>>,
}

impl Answering {
    /// A proxy before this URL: the first requests whose path ends so are answered with these heads, such as
    /// `503 Away\r\nRetry-After: 2`; all others reach the server.
    ///
    /// # Panics
    /// No port can be had.
    #[must_use]
    pub fn before(url: &str, path: &'static str, answers: &[&'static str]) -> Self {
        Self::start(url, path, answers, None)
    }

    /// A proxy before this URL that loses the first answer which holds these words, and its connection.
    ///
    /// # Panics
    /// No port can be had.
    #[must_use]
    pub fn losing(url: &str, words: &'static str) -> Self {
        Self::start(url, " nothing", &[], Some(words))
    }

    /// Whether the answer is lost that was to be.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        lock(&self.shared.loses).is_none()
    }

    fn start(url: &str, path: &'static str, answers: &[&'static str], loses: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let upstream = url.trim_start_matches("http://").to_owned();
        let answers = Mutex::new(answers.iter().copied().collect());
        let (loses, asked) = (Mutex::new(loses), Mutex::default());
        let shared = Arc::new(Shared { upstream, path, answers, loses, asked });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let serving = Arc::clone(&serving);
                // A connection that breaks is tried again by its client.
                thread::spawn(move || drop(serving.serve(client)));
            }
        });
        Self { url: format!("http://{address}"), shared }
    }

    /// When each such request came, whoever answered it.
    #[must_use]
    pub fn asked(&self) -> Vec<Instant> {
        lock(&self.shared.asked).clone()
    }
}

impl Shared {
    fn answer(&self, mut answers: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = answers.read(&mut buffer)?;
            let piece = &buffer[..count];
            let mut loses = lock(&self.loses);
            let holds = |words: &str| piece.windows(words.len()).any(|window| window == words.as_bytes());
            if count == 0 || loses.take_if(|words| holds(words)).is_some() {
                return Ok(());
            }
            drop(loses);
            to.write_all(piece)?;
        }
    }

    fn serve(self: &Arc<Self>, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(&self.upstream)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (answers, to) = (server.try_clone()?, client.try_clone()?);
        let serving = Arc::clone(self);
        thread::spawn(move || {
            let _over = serving.answer(&answers, &to);
            to.shutdown(Shutdown::Both).and_then(|()| answers.shutdown(Shutdown::Both))
        });
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = client.read(&mut buffer)?;
            if count == 0 {
                return server.shutdown(Shutdown::Both);
            }
            let piece = &buffer[..count];
            if let Some(whole) = self.is_wanted(piece) {
                lock(&self.asked).push(Instant::now());
                if let Some(answer) = lock(&self.answers).pop_front() {
                    // Read to its end: a connection that is closed before is reset, and its answer lost.
                    let mut rest = vec![0; whole.saturating_sub(count)];
                    client.read_exact(&mut rest)?;
                    let head = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    client.write_all(head.as_bytes())?;
                    client.shutdown(Shutdown::Write)?;
                    return server.shutdown(Shutdown::Both);
                }
            }
            server.write_all(piece)?;
        }
    }

    /// The length of the request that begins here, if it is one of those; our client writes a head in one piece.
    fn is_wanted(&self, piece: &[u8]) -> Option<usize> {
        let end = piece.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(piece.get(..end)?).to_ascii_lowercase();
        let path = head.lines().next()?.split(' ').nth(1)?;
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        path.ends_with(self.path).then(|| end + length.unwrap_or(0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
