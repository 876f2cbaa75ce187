//! The way from a client to the controller: a proxy that loses, delays and repeats what goes through it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::plan::Trouble;
use super::recorder::{Recorder, Request};

/// Requests that are kept for being repeated.
const KEPT: usize = 64;
/// What each piece takes on a slow link.
const SLOW: Duration = Duration::from_millis(40);
/// How long the answer to a repeated request is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// A proxy on loopback. It ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    trouble: watch::Sender<Option<Trouble>>,
    kept: Mutex<Vec<Request>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// A proxy before this URL.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn before(url: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: Mutex::new(address_of(url)),
            trouble: watch::Sender::new(None),
            kept: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { url: format!("http://{address}"), shared, accepting })
    }

    /// From now on what is asked goes to this URL.
    pub fn lead_to(&self, url: &str) {
        *lock(&self.shared.upstream) = address_of(url);
    }

    /// Something is wrong from now on, or nothing is.
    pub fn set(&self, trouble: Option<Trouble>) {
        self.shared.trouble.send_replace(trouble);
    }

    /// Sends once more what was sent: the newest first, and all of it as if it came from the newest Session.
    pub async fn replay(&self) {
        let kept: Vec<Request> = lock(&self.shared.kept).clone();
        let session = kept.last().and_then(|request| request.session()).map(str::to_owned);
        let Some(session) = session else { return };
        for request in kept.iter().rev() {
            let upstream = *lock(&self.shared.upstream);
            // Whatever becomes of it is not this client's matter: the state must stay right all the same.
            let _lost = tokio::time::timeout(PATIENCE, repeat(upstream, &request.under(&session))).await;
        }
    }
}

async fn repeat(upstream: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(bytes).await?;
    let mut answer = [0; 256];
    stream.read(&mut answer).await.map(drop)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if *shared.trouble.borrow() == Some(Trouble::Refused) {
            reset(&client);
            continue;
        }
        tokio::spawn(connection(client, Arc::clone(&shared)));
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let upstream = *lock(&shared.upstream);
    let Ok(server) = TcpStream::connect(upstream).await else { return reset(&client) };
    // A proxy that collects small pieces would hide what order things come in.
    let _slower = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let mut trouble = shared.trouble.subscribe();
    let ended = async {
        loop {
            let was = *trouble.borrow_and_update();
            if trouble.changed().await.is_err() {
                return;
            }
            let is = *trouble.borrow();
            // A link that was dead stays dead for the connections that it had.
            if was == Some(Trouble::HalfOpen) || is == Some(Trouble::Refused) {
                return;
            }
        }
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let recorder = Recorder::default();
    tokio::select! {
        () = ended => {}
        () = up(from_client, to_server, &shared, recorder) => {}
        () = down(from_server, to_client, &shared) => {}
    }
}

/// From client to server, looked at for requests worth repeating.
async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, mut recorder: Recorder) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        recorder.take(&buffer[..count], |request| {
            let mut kept = lock(&shared.kept);
            if kept.len() == KEPT {
                kept.remove(0);
            }
            kept.push(request);
        });
        pass(shared, &[Trouble::HalfOpen, Trouble::Late]).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        pass(shared, &[Trouble::HalfOpen, Trouble::Late]).await;
        if *shared.trouble.borrow() == Some(Trouble::NoAnswer)
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}

/// Waits until a piece may go on.
async fn pass(shared: &Shared, held_by: &[Trouble]) {
    let mut trouble = shared.trouble.subscribe();
    if *trouble.borrow() == Some(Trouble::Slow) {
        tokio::time::sleep(SLOW).await;
    }
    // The sender lives as long as the proxy; its end ends the connection as well.
    let _gone = trouble.wait_for(|now| now.is_none_or(|now| !held_by.contains(&now))).await;
}

/// Has the peer see a reset rather than an orderly end.
fn reset(stream: &TcpStream) {
    let _as_good = stream.set_zero_linger();
}

fn address_of(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().expect("an address")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
