//! The accept loop: what it bounds is what a peer without a token can make a server hold.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::guard::Guarded;
use super::{DRAIN, HANDSHAKE_TIMEOUT, HEADER_TIMEOUT, Listener, MAX_HEAD, TAKE_TIMEOUT};

/// The wait after an accept that failed for want of descriptors or memory: it fails again at once otherwise.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// Serves `router` until `shutdown` completes; then no connection is accepted, idle ones are closed, and requests may go
/// on for [`DRAIN`]. An answer without an end, such as an event stream, must watch the shutdown itself.
///
/// # Errors
/// The socket cannot be registered with the runtime.
pub async fn serve(
    listener: Listener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let socket = TcpListener::from_std(listener.socket)?;
    let certificates = listener.certificates;
    let places = Places {
        all: Arc::new(Semaphore::new(listener.connections)),
        neighbours: Arc::new(Semaphore::new(listener.neighbours)),
    };
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    warn!("a connection's task panicked");
                }
                continue;
            }
            accepted = accept(&socket, &places) => match accepted {
                Some(accepted) => accepted,
                None => continue,
            },
        };
        // Small answers must not wait for the acknowledgement of others; a socket without it works as well.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY was refused");
        }
        let tls = certificates.as_ref().map(|certificates| TlsAcceptor::from(certificates.config()));
        let watcher = graceful.watcher();
        connections.spawn(connection(stream, tls, router.clone(), watcher, place));
    }
    // Closed first, so that a peer is refused rather than left waiting.
    drop(socket);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        warn!(connections = connections.len(), "requests were cut off at the end of the drain");
    }
    connections.shutdown().await;
    Ok(())
}

/// Room for connections.
struct Places {
    all: Arc<Semaphore>,
    /// Of those, for peers that are where the server is.
    neighbours: Arc<Semaphore>,
}

/// What a connection holds of it.
type Place = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// The next connection, once there is a place for it.
async fn accept(socket: &TcpListener, places: &Places) -> Option<(TcpStream, Place)> {
    let place = Arc::clone(&places.all).acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, peer)) => {
            let neighbour = is_neighbour(&stream, peer.ip());
            let share = neighbour.then(|| Arc::clone(&places.neighbours).try_acquire_owned());
            Some((stream, (place, share.transpose().ok()?)))
        }
        Err(error) => {
            // A peer that went away before it was accepted is an error here too, and no reason to wait.
            let gone = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
            if !gone.contains(&error.kind()) {
                warn!(%error, "a connection could not be accepted");
                sleep(EXHAUSTED).await;
            }
            None
        }
    }
}

/// Whether a peer is on this machine or in this pod: it, or where it connected to, is loopback, or both are one address.
fn is_neighbour(stream: &TcpStream, peer: IpAddr) -> bool {
    let here = stream.local_addr().map_or(peer, |address| address.ip()).to_canonical();
    let peer = peer.to_canonical();
    peer == here || peer.is_loopback() || here.is_loopback()
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    watcher: Watcher,
    _place: Place,
) {
    let stream = Guarded::new(stream, TAKE_TIMEOUT);
    let Some(tls) = tls else { return http(stream, router, watcher).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(stream, router, watcher).await,
        Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
        Err(_) => debug!("a TLS handshake took too long"),
    }
}

async fn http<S>(stream: S, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        debug!(%error, "a connection ended with an error");
    }
}
