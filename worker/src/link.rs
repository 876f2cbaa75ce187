//! The worker's end of the link: whole frames in, whole frames out, and the descriptors that come beside them.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use runtimed_api::link::frame::{self, FrameError};
use runtimed_api::link::{Down, Up};
use runtimed_sandbox::passing::{self, PassError};
use rustix::io::Errno;

/// Why the link cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The daemon closed it, or is dead.
    #[error("the daemon closed the link")]
    Closed,
    /// The lease ran out before the daemon renewed it: it is stopped, or cut off.
    #[error("the lease ran out before the daemon renewed it")]
    Unrenewed,
    /// The daemon sent something that is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// More descriptors than any frame takes, or a frame without the one that it needs.
    #[error("the daemon sent {0} than its frames take")]
    Descriptors(&'static str),
    /// The socket failed.
    #[error("the link failed: {0}")]
    Socket(#[from] std::io::Error),
}

/// A connected socket and what has arrived on it.
#[derive(Debug)]
pub(crate) struct Link {
    socket: UnixStream,
    buffer: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// Descriptors that may wait for their frames: each kind of frame that takes one comes once.
const MAX_WAITING: usize = 3;
/// Bytes taken from the socket at once.
const CHUNK: usize = 16 * 1024;

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: UnixStream::from(socket), buffer: Vec::new(), descriptors: VecDeque::new() }
    }

    /// What to poll for input.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a frame. It blocks while the daemon does not read: there is nobody else to serve.
    pub(crate) fn send(&mut self, up: &Up) -> Result<(), LinkError> {
        match self.socket.write_all(&frame::encode(up)?) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(LinkError::Closed),
            sent => Ok(sent?),
        }
    }

    /// The next whole frame of those that have arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Down>, LinkError> {
        Ok(frame::decode(&mut self.buffer)?)
    }

    /// Takes in what has arrived; it blocks if nothing has.
    pub(crate) fn fill(&mut self) -> Result<(), LinkError> {
        let start = self.buffer.len();
        self.buffer.resize(start + CHUNK, 0);
        let space = self.buffer.get_mut(start..).unwrap_or_default();
        let received = passing::receive(self.socket.as_fd(), space);
        self.buffer.truncate(start + received.as_ref().map_or(0, |received| received.bytes));
        match received {
            Ok(received) if received.bytes == 0 => Err(LinkError::Closed),
            Ok(received) => {
                self.descriptors.extend(received.descriptors);
                if self.descriptors.len() > MAX_WAITING {
                    return Err(LinkError::Descriptors("more descriptors"));
                }
                Ok(())
            }
            Err(PassError::Io(Errno::AGAIN)) => Ok(()),
            Err(PassError::Io(Errno::CONNRESET)) => Err(LinkError::Closed),
            Err(PassError::Io(errno)) => Err(LinkError::Socket(errno.into())),
            Err(_) => Err(LinkError::Descriptors("more descriptors")),
        }
    }

    /// The descriptor that came with the frame just taken: they are taken in the order in which they were sent.
    pub(crate) fn descriptor(&mut self) -> Result<OwnedFd, LinkError> {
        self.descriptors.pop_front().ok_or(LinkError::Descriptors("fewer descriptors"))
    }
}
