//! Taking over the descriptors that the daemon left open under fixed numbers.

use std::io::{self, IoSlice};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use runtimed_api::link::{HOLD_FD, LINK_FD, STDERR_FD, STDOUT_FD};
use runtimed_sandbox::passing;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// What the daemon passes on.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The socket of the link.
    pub(crate) link: OwnedFd,
    /// What becomes the command's stdout.
    pub(crate) stdout: OwnedFd,
    /// What becomes the command's stderr.
    pub(crate) stderr: OwnedFd,
    /// The timer that expires when the lease does.
    pub(crate) hold: OwnedFd,
}

impl Inherited {
    /// Takes them; an error if one is not there or the link is no unix stream socket.
    pub(crate) fn take() -> io::Result<Self> {
        for fd in [LINK_FD, STDOUT_FD, STDERR_FD, HOLD_FD] {
            // Asked before anything here opens a descriptor, which would get the lowest free number.
            std::fs::symlink_metadata(format!("/proc/self/fd/{fd}"))?;
        }
        let [link, stdout, stderr, hold] =
            [take(LINK_FD)?, take(STDOUT_FD)?, take(STDERR_FD)?, take(HOLD_FD)?];
        let is_link = sockopt::socket_domain(&link)? == AddressFamily::UNIX
            && sockopt::socket_type(&link)? == SocketType::STREAM;
        if is_link {
            Ok(Self { link, stdout, stderr, hold })
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

/// Owns what has the number `fd`.
///
/// A number becomes an owned descriptor only through an unsafe call, or, as here, by sending it to ourselves. Nobody
/// else in this process has heard of the number, so that it can then be closed.
fn take(fd: RawFd) -> io::Result<OwnedFd> {
    let (sender, receiver) = UnixStream::pair()?;
    let numbers = [fd];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let raw = std::os::fd::AsRawFd::as_raw_fd(&sender);
    sendmsg::<()>(raw, &[IoSlice::new(b"f")], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    let received = passing::receive(std::os::fd::AsFd::as_fd(&receiver), &mut [0]);
    let owned = received.ok().and_then(|mut received| received.descriptors.pop());
    nix::unistd::close(fd)?;
    owned.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
