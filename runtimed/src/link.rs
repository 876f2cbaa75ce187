//! The daemon's end of the link to a worker.
//!
//! Every frame is hostile input: it is bounded, must be of the protocol, and must come in its turn. Descriptors go down
//! and never up; what a worker sends beside its bytes is dropped by the kernel, for it is never asked for.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use runtimed_api::link::frame::{self, FrameError};
use runtimed_api::link::{Down, Up};
use runtimed_sandbox::passing::{self, PassError};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The daemon's end.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    buffer: Vec<u8>,
}

/// The link is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("the link to the worker failed: {0}")]
    Io(#[from] io::Error),
    /// The worker sent what is no frame.
    #[error("the worker broke the link's protocol: {0}")]
    Frame(#[from] FrameError),
}

impl Link {
    /// A link, and the other end for the worker.
    ///
    /// # Errors
    /// No socketpair can be made.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self { stream: UnixStream::from_std(ours)?, buffer: Vec::new() }, theirs.into()))
    }

    /// Sends a frame, with a descriptor beside its first byte where one is given.
    ///
    /// # Errors
    /// The worker is gone, or the frame is over the bound.
    pub async fn send(&self, down: &Down, descriptor: Option<BorrowedFd<'_>>) -> Result<(), LinkError> {
        let bytes = frame::encode(down)?;
        let mut sent = 0;
        while sent < bytes.len() {
            let rest = &bytes[sent..];
            let passed = descriptor.filter(|_| sent == 0);
            sent += self
                .stream
                .async_io(Interest::WRITABLE, || send_some(self.stream.as_fd(), rest, passed))
                .await?;
        }
        Ok(())
    }

    /// The next frame; `None` when the worker has closed its end.
    ///
    /// # Errors
    /// The socket failed, or what came is no frame.
    pub async fn receive(&mut self) -> Result<Option<Up>, LinkError> {
        loop {
            if let Some(up) = frame::decode(&mut self.buffer)? {
                return Ok(Some(up));
            }
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    passing::send(socket, bytes, descriptor.as_slice()).map_err(|error| match error {
        PassError::Io(errno) => errno.into(),
        other => io::Error::other(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::link::Stop;
    use std::io::Write as _;
    use std::os::unix::net;

    #[tokio::test]
    async fn garbage_from_the_worker_is_an_error_and_its_end_is_an_end() {
        let (mut link, theirs) = Link::pair().expect("a pair");
        let mut theirs = net::UnixStream::from(theirs);
        theirs.write_all(b"\x04\x00\x00\x00{}}}").expect("written");
        assert!(matches!(link.receive().await, Err(LinkError::Frame(_))));
        let (mut link, theirs) = Link::pair().expect("a pair");
        drop(theirs);
        assert!(matches!(link.receive().await, Ok(None)));
        let stop = Down::Stop(Stop { grace_millis: 0, limit: None });
        assert!(matches!(link.send(&stop, None).await, Err(LinkError::Io(_))));
    }
}
