//! The listener of both servers: HTTP/1 over TLS, or plain on loopback, with bounds on all that a peer can hold.

mod certificates;
mod guard;
mod serve;
mod signals;
mod stdin;

use std::io;
use std::net::{SocketAddr, SocketAddrV6, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::ipproto::TCP;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

pub use serve::serve;
pub use signals::Signals;
pub use stdin::stdin_closed;

use certificates::Certificates;

/// Connections at once, unless told otherwise; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 1024;
/// Of those, the connections of programs on the same machine or in the same pod, where a server keeps places for others.
pub const MAX_NEIGHBOURS: usize = 256;
/// How long a peer may take for its TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take for the head of a request, and how long a connection may idle before one.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the head of a request. Each connection may make a server hold so many, before anything is known of its peer.
pub const MAX_HEAD: usize = 64 * 1024;
/// How long a peer may take nothing of what is sent to it.
pub const TAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests may go on after the shutdown began.
pub const DRAIN: Duration = Duration::from_secs(10);

/// A certificate chain and its key, in PEM. Both are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Plain HTTP on an address that others reach.
    #[error(
        "{0} is not a loopback address, and plain HTTP is for loopback alone: give a certificate and its key"
    )]
    PlainOffLoopback(SocketAddr),
    /// Another program has the port.
    #[error("port {} of {} is taken by another program: stop it, or choose another port", .0.port(), .0.ip())]
    Occupied(SocketAddr),
    /// The address cannot be bound.
    #[error("{address} cannot be listened on: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error("the certificate {} with the key {} cannot be used: {why}", files.cert.display(), files.key.display())]
    Certificate {
        /// Which.
        files: TlsFiles,
        /// Why.
        why: String,
    },
}

/// A bound address, and what is spoken there. Bound without a runtime, so that a server can do it before it gives up
/// its privileges.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    certificates: Option<Certificates>,
    connections: usize,
    neighbours: usize,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(address: SocketAddr, tls: Option<&TlsFiles>) -> Result<Self, ListenError> {
        Self::of(address, tls, || TcpListener::bind(address))
    }

    /// Binds an address of IPv6 and nothing of IPv4 with it, so that both families can have the same port (`IPV6_V6ONLY` of
    /// ipv6(7)).
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind_ipv6_alone(address: SocketAddrV6, tls: Option<&TlsFiles>) -> Result<Self, ListenError> {
        Self::of(address.into(), tls, || {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, flags, Some(TCP))?;
            set_ipv6_v6only(&socket, true)?;
            // As the standard library does it for every listener.
            set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, 128)?;
            Ok(socket.into())
        })
    }

    fn of(
        address: SocketAddr,
        tls: Option<&TlsFiles>,
        bind: impl FnOnce() -> io::Result<TcpListener>,
    ) -> Result<Self, ListenError> {
        if tls.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(ListenError::PlainOffLoopback(address));
        }
        let certificates = tls.map(|files| Certificates::load(files.clone())).transpose()?;
        let bound = bind().and_then(|socket| {
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok((socket, address))
        });
        match bound {
            Ok((socket, address)) => Ok(Self {
                socket,
                address,
                certificates,
                connections: MAX_CONNECTIONS,
                neighbours: MAX_CONNECTIONS,
            }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::Occupied(address)),
            Err(source) => Err(ListenError::Bind { address, source }),
        }
    }

    /// With room for another number of connections than [`MAX_CONNECTIONS`].
    #[must_use]
    pub fn with_room_for(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// With [`MAX_NEIGHBOURS`] places for connections that begin where the server is, so that programs there, which it may not
    /// trust, leave room for others. One more is closed at once.
    #[must_use]
    pub fn with_room_for_others(self) -> Self {
        Self { neighbours: MAX_NEIGHBOURS, ..self }
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the address.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}
