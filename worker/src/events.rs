//! The one place where the supervisor waits: for the link, for its children, for a moment in time, and for the lease's end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runtimed_api::link::{Down, Up};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::link::{Link, LinkError};

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The daemon sent a frame.
    Frame(Down),
    /// A child of this process changed its state; which one is for the caller to find out.
    Child,
    /// The descriptor that the caller named can be read, or its other end is closed.
    Readable,
    /// The moment that the caller named has come.
    Deadline,
}

/// The link, the signal that tells of children, and the timer that tells of the lease's end.
#[derive(Debug)]
pub(crate) struct Events {
    link: Link,
    children: SignalFd,
    /// Until the command's tree is dead: what comes then overlaps with nobody.
    hold: Option<OwnedFd>,
}

impl Events {
    /// Routes SIGCHLD to a descriptor: an orphan of the command becomes a child of this process without any other sign.
    pub(crate) fn new(link: Link, hold: OwnedFd) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { link, children, hold: Some(hold) })
    }

    /// Nothing of the command is left: from here the lease's end is the daemon's matter alone.
    pub(crate) fn release(&mut self) {
        self.hold = None;
    }

    /// The link, to send on it and to take descriptors from it.
    pub(crate) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, up: &Up) -> Result<(), LinkError> {
        self.link.send(up)
    }

    /// Waits for the next frame, whatever the children do.
    pub(crate) fn frame(&mut self) -> Result<Down, LinkError> {
        loop {
            if let Event::Frame(down) = self.next(None, None)? {
                return Ok(down);
            }
        }
    }

    /// Waits for the next event; the lease's end is an error, in every state. Frames come first: a Stop must not wait behind a flood of anything else.
    pub(crate) fn next(
        &mut self,
        input: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> Result<Event, LinkError> {
        loop {
            if let Some(down) = self.link.next()? {
                return Ok(Event::Frame(down));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Event::Deadline);
            }
            match self.wait(input, left.and_then(|left| Timespec::try_from(left).ok()))? {
                Woken { hold: true, .. } => return Err(LinkError::Unrenewed),
                Woken { link: true, .. } => self.link.fill()?,
                Woken { child: true, .. } => {
                    // One signal may stand for several children, so its contents say nothing more.
                    while self.children.read_signal().map_err(io::Error::from)?.is_some() {}
                    return Ok(Event::Child);
                }
                Woken { input: true, .. } => return Ok(Event::Readable),
                // The deadline, or an interruption: the loop finds out which.
                Woken { .. } => {}
            }
        }
    }

    fn wait(&self, input: Option<BorrowedFd<'_>>, left: Option<Timespec>) -> Result<Woken, LinkError> {
        let hold = self.hold.as_ref().map(AsFd::as_fd);
        let watched = [Some(self.link.fd()), Some(self.children.as_fd()), input, hold];
        let mut polled: Vec<_> =
            watched.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(LinkError::Socket(errno.into())),
        }
        let mut woken = polled.iter().map(|fd| !fd.revents().is_empty());
        let [link, child, input, hold] = watched.map(|fd| fd.is_some_and(|_| woken.next().unwrap_or(false)));
        Ok(Woken { link, child, input, hold })
    }
}

/// Which of the polled descriptors have something to say.
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each descriptor, and any of them may come together"
)]
struct Woken {
    link: bool,
    child: bool,
    input: bool,
    hold: bool,
}
