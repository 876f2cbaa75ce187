//! Bytes with descriptors over a unix stream socket, and sealed memory to pass a credential in.
//!
//! [`send`] and [`receive`] are one system call each and fit a non-blocking socket; [`send_frame`] and [`receive_frame`]
//! move a whole frame over a blocking one. A frame is its length as four big-endian bytes, then its payload; descriptors
//! travel with its first byte.

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
    /// The frame is longer than the receiver takes, or its length does not fit four bytes.
    #[error("a frame of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// What the frame says it has, in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The other side ended in the middle of a frame.
    #[error("the other side ended in the middle of a frame")]
    Truncated,
}

/// What came in one call.
#[derive(Debug)]
pub struct Received {
    /// Bytes that were put into the buffer; 0 at the end of the stream.
    pub bytes: usize,
    /// Descriptors that came with them, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// One whole frame.
#[derive(Debug)]
pub struct Frame {
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its descriptors, close-on-exec.
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

/// Sends a whole frame over a blocking socket.
///
/// # Errors
/// As [`send`]; [`PassError::TooLong`] beyond four gigabytes.
pub fn send_frame(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), PassError> {
    let length = u32::try_from(payload.len()).map_err(|_| PassError::TooLong {
        length: u64::try_from(payload.len()).unwrap_or(u64::MAX),
        limit: u32::MAX.into(),
    })?;
    let bytes = [&length.to_be_bytes(), payload].concat();
    let mut rest = bytes.as_slice();
    let mut descriptors = descriptors;
    while !rest.is_empty() {
        let sent = send(socket, rest, descriptors)?;
        descriptors = &[];
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Receives a whole frame of at most `limit` bytes from a blocking socket; `None` at the end of the stream.
///
/// # Errors
/// [`PassError`]; the stream cannot be used any more then.
pub fn receive_frame(socket: BorrowedFd<'_>, limit: u32) -> Result<Option<Frame>, PassError> {
    let mut descriptors = Vec::new();
    let mut header = [0; 4];
    match fill(socket, &mut header, &mut descriptors)? {
        0 => return Ok(None),
        4 => {}
        _ => return Err(PassError::Truncated),
    }
    let length = u32::from_be_bytes(header);
    if length > limit {
        return Err(PassError::TooLong { length: length.into(), limit: limit.into() });
    }
    let mut payload = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    if fill(socket, &mut payload, &mut descriptors)? < payload.len() {
        return Err(PassError::Truncated);
    }
    Ok(Some(Frame { payload, descriptors }))
}

/// Fills the buffer, or stops at the end of the stream; says how much there was.
fn fill(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize, PassError> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let received = receive(socket, rest)?;
        descriptors.extend(received.descriptors);
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(PassError::TooManyDescriptors);
        }
        if received.bytes == 0 {
            break;
        }
        filled += received.bytes;
    }
    Ok(filled)
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
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_frame_carries_its_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let secret = Sealed::new(b"credential").unwrap();
        send_frame(here.as_fd(), b"payload", &[secret.as_fd()]).unwrap();
        send_frame(here.as_fd(), b"", &[]).unwrap();
        drop(here);
        let frame = receive_frame(there.as_fd(), 7).unwrap().unwrap();
        assert_eq!(frame.payload, b"payload");
        let [passed] = <[OwnedFd; 1]>::try_from(frame.descriptors).unwrap();
        assert!(rustix::io::fcntl_getfd(&passed).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let mut content = String::new();
        std::fs::File::from(passed).read_to_string(&mut content).unwrap();
        assert_eq!(content, "credential");
        assert_eq!(receive_frame(there.as_fd(), 7).unwrap().unwrap().payload, b"");
        assert!(receive_frame(there.as_fd(), 7).unwrap().is_none());
    }

    #[test]
    fn hostile_frames_are_refused() {
        let (mut here, there) = UnixStream::pair().unwrap();
        send_frame(here.as_fd(), b"12345678", &[]).unwrap();
        assert!(matches!(receive_frame(there.as_fd(), 7), Err(PassError::TooLong { length: 8, limit: 7 })));
        let (one, two, three) = (here.as_fd(), there.as_fd(), here.as_fd());
        assert!(matches!(send(here.as_fd(), b"x", &[one, two, three]), Err(PassError::TooManyDescriptors)));

        let (mut cut, end) = UnixStream::pair().unwrap();
        cut.write_all(&[0, 0, 0, 9, 1]).unwrap();
        drop(cut);
        assert!(matches!(receive_frame(end.as_fd(), 100), Err(PassError::Truncated)));
        here.flush().unwrap();
    }

    #[test]
    fn more_descriptors_than_allowed_are_an_error_and_closed() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = [here.as_fd(); 4];
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        rustix::net::sendmsg(&here, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).unwrap();
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(matches!(receive(there.as_fd(), &mut [0; 8]), Err(PassError::TooManyDescriptors)));
        assert_eq!(std::fs::read_dir("/proc/self/fd").unwrap().count(), before);
    }

    #[test]
    fn sealed_memory_cannot_be_changed() {
        let fd = Sealed::new(b"value").unwrap();
        assert_eq!(rustix::io::write(&fd, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
    }
}
