//! A proxy on loopback that does to connections what networks and servers do to them.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What happens to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// It breaks after so many bytes have been sent to the server.
    CutRequest(u64),
    /// It breaks after so many bytes of answers.
    CutAnswer(u64),
    /// The server fails.
    Error500,
    /// The server, or something before it, refuses.
    Error403,
    /// Nothing is ever answered.
    Stall,
}

/// The proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// What happens to the next connections, and then to all others.
    plan: Mutex<(VecDeque<Fault>, Fault)>,
    /// What happened.
    done: Mutex<Vec<Fault>>,
    /// Bytes that were passed to the server.
    asked: AtomicU64,
    open: Mutex<Option<Vec<TcpStream>>>,
}

impl FaultProxy {
    /// A proxy before `server`: its first connections fare as `plan` says, all others as `then`.
    ///
    /// # Panics
    /// No port can be had.
    #[must_use]
    pub fn start(server: SocketAddr, plan: &[Fault], then: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let plan = Mutex::new((plan.iter().copied().collect(), then));
        let (done, open) = (Mutex::default(), Mutex::new(Some(Vec::new())));
        let shared = Arc::new(Shared { server, plan, done, asked: AtomicU64::new(0), open });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !serving.keep(&client) {
                    return;
                }
                let serving = Arc::clone(&serving);
                // A connection that fails is what this is for.
                thread::spawn(move || drop(serving.serve(client)));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many bytes were passed to the server so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Acquire)
    }

    /// What has happened to connections so far.
    #[must_use]
    pub fn done(&self) -> Vec<Fault> {
        self.shared.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        for stream in open.into_iter().flatten() {
            // Closed already is as good.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        // Wakes the listener, which finds that it is over.
        let _gone = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl Shared {
    /// Remembers a connection to be closed; false when it is over.
    fn keep(&self, stream: &TcpStream) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match (open.as_mut(), stream.try_clone()) {
            (Some(open), Ok(stream)) => {
                open.push(stream);
                true
            }
            _ => false,
        }
    }

    fn serve(self: &Arc<Self>, mut client: TcpStream) -> io::Result<()> {
        let fault = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            let then = plan.1;
            plan.0.pop_front().unwrap_or(then)
        };
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
        let (most_asked, most_answered) = match fault {
            Fault::Pass => (u64::MAX, u64::MAX),
            Fault::CutRequest(bytes) => (bytes, u64::MAX),
            Fault::CutAnswer(bytes) => (u64::MAX, bytes),
            Fault::Error500 => return answer(client, "500 Internal Server Error"),
            Fault::Error403 => return answer(client, "403 Forbidden"),
            Fault::Stall => {
                io::copy(&mut client, &mut io::sink())?;
                return Ok(());
            }
        };
        let server = TcpStream::connect(self.server)?;
        if !self.keep(&server) {
            return Ok(());
        }
        let asking = (client.try_clone()?, server.try_clone()?, Arc::clone(self));
        let asks = thread::spawn(move || pass(asking.0, asking.1, most_asked, &asking.2.asked));
        pass(server, client, most_answered, &AtomicU64::new(0))?;
        asks.join().map_err(|_| io::Error::other("a thread panicked"))?
    }
}

/// Answers whatever is asked with this status, and closes.
fn answer(mut client: TcpStream, status: &str) -> io::Result<()> {
    let mut first = [0; 4096];
    let _read = client.read(&mut first)?;
    write!(client, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    // What is still on its way is taken, so that the answer is not lost to a reset.
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    io::copy(&mut client, &mut io::sink()).map(drop)
}

/// A connection whose bytes are counted as they are sent.
struct Counted<'a>(&'a TcpStream, &'a AtomicU64);

impl io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1.fetch_add(count as u64, Ordering::AcqRel);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Passes bytes on until the end, or until there were so many: then the connection breaks, both ways.
fn pass(from: TcpStream, to: TcpStream, most: u64, count: &AtomicU64) -> io::Result<()> {
    let passed = io::copy(&mut (&from).take(most), &mut Counted(&to, count));
    let how = if passed.as_ref().is_ok_and(|count| *count < most) { Shutdown::Write } else { Shutdown::Both };
    to.shutdown(how)?;
    if how == Shutdown::Both {
        from.shutdown(how)?;
    }
    passed.map(drop)
}
