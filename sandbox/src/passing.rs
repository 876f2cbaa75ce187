//! Bytes with descriptors over a unix stream socket, and sealed memory to pass a credential in.
//!
//! [`send`] and [`receive`] are one system call each and fit a non-blocking socket. What the bytes are is not known here;
//! descriptors travel with the first of them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Descriptors that one frame may carry.
pub const MAX_DESCRIPTORS: usize = 2;

/// Why a frame was not passed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A system call failed; `EAGAIN` on a non-blocking socket means that its time has not come.
    #[error("the link failed")]
    Io(#[from] Errno),
    /// More descriptors than a frame may carry, sent or received; those received are closed.
    #[error("a frame carries at most {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
}

/// What came in one call.
#[derive(Debug)]
pub struct Received {
    /// Bytes that were put into the buffer; 0 at the end of the stream.
    pub bytes: usize,
    /// Descriptors that came with them, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends some of `bytes` and, with the first of them, all of `descriptors`; says how many bytes went.
///
/// # Errors
/// [`PassError::Io`]; `EPIPE` (never the signal) when the other side is gone.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, PassError> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(PassError::TooManyDescriptors);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(PassError::TooManyDescriptors);
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(sent)
}

/// Receives what is there, at most one buffer full.
///
/// # Errors
/// [`PassError::TooManyDescriptors`] if the other side sent more than fit; [`PassError::Io`].
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, PassError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    // The kernel rounds the space up, so the count is checked as well as its word that something was cut off.
    if got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
        return Err(PassError::TooManyDescriptors);
    }
    Ok(Received { bytes: got.bytes, descriptors })
}

/// Memory with a fixed content, to hand a credential to one child: no path leads to it, and nobody can change it.
#[derive(Debug)]
pub struct Sealed;

impl Sealed {
    /// Makes an anonymous file with this content, sealed against every change and against execution, positioned at its
    /// start, close-on-exec. The caller still holds, and should wipe, its own copy.
    ///
    /// # Errors
    /// The kernel's errno.
    #[expect(
        clippy::new_ret_no_self,
        reason = "the type is a name for what is made; a descriptor is what is passed"
    )]
    pub fn new(content: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Before Linux 6.3 the flag is unknown.
        let fd = match rustix::fs::memfd_create(c"sealed", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => rustix::fs::memfd_create(c"sealed", flags)?,
            made => made?,
        };
        let mut rest = content;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest))?;
            rest = rest.get(written..).unwrap_or_default();
        }
        rustix::fs::fcntl_add_seals(
            fd.as_fd(),
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )?;
        rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0))?;
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_carry_their_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let secret = Sealed::new(b"credential").unwrap();
        assert_eq!(send(here.as_fd(), b"payload", &[secret.as_fd()]).unwrap(), 7);
        drop(here);
        let mut buffer = [0; 16];
        let received = receive(there.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..received.bytes], b"payload");
        let [passed] = <[OwnedFd; 1]>::try_from(received.descriptors).unwrap();
        assert!(rustix::io::fcntl_getfd(&passed).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let mut content = String::new();
        std::fs::File::from(passed).read_to_string(&mut content).unwrap();
        assert_eq!(content, "credential");
        assert_eq!(receive(there.as_fd(), &mut buffer).unwrap().bytes, 0);
    }

    #[test]
    fn more_descriptors_than_allowed_are_an_error_and_closed() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut end, passed) = std::io::pipe().unwrap();
        let three = [passed.as_fd(); 3];
        assert!(matches!(send(here.as_fd(), b"x", &three), Err(PassError::TooManyDescriptors)));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let four = [passed.as_fd(); 4];
        assert!(control.push(SendAncillaryMessage::ScmRights(&four)));
        rustix::net::sendmsg(&here, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(receive(there.as_fd(), &mut [0; 8]), Err(PassError::TooManyDescriptors)));
        // The pipe ends only when no copy of its other side is left.
        drop(passed);
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn sealed_memory_cannot_be_changed() {
        let fd = Sealed::new(b"value").unwrap();
        assert_eq!(rustix::io::write(&fd, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
    }
}
