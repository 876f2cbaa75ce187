use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Child, SpawnError, Stage, registry};
use crate::prepare::Prepared;
use crate::sys;

/// The exit code of a phase whose body panicked, as of any Rust program.
const PANICKED: i32 = 101;

/// Runs `body` in a child process of its own, confined first, and ends that child with the code that `body` returns.
///
/// It comes back when the child is confined and about to run `body`. The child keeps descriptors 0, 1, 2 and those in
/// `keep`, is killed when the parent's thread ends, and runs no destructor but those of what `body` owns; a descriptor
/// that `body` uses must be in `keep`.
///
/// # Errors
/// [`SpawnError`] with the stage that failed. At [`Stage::Launch`], `EBUSY` means that this process has more than one
/// thread: a copy of it could deadlock.
pub fn fork_phase(
    prepared: Option<Prepared>,
    keep: &[BorrowedFd<'_>],
    body: impl FnOnce() -> i32,
) -> Result<Child, SpawnError> {
    let launching = |errno| SpawnError::new(Stage::Launch, errno);
    crate::process::require_one_thread().map_err(launching)?;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(launching)?;
    let parent = rustix::process::getpid();
    let started = registry::start(|| {
        let failed = |errno: Errno| (Stage::Launch, errno.raw_os_error());
        match sys::fork().map_err(failed)? {
            sys::Side::Child => be_the_child(parent, prepared, keep, write, body),
            sys::Side::Parent(pid) => {
                drop(write);
                let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
                Ok((pid, pidfd))
            }
        }
    });
    let mut child = started.map_err(|(stage, errno)| SpawnError { stage, errno })?;
    match outcome(&read) {
        (Stage::Execute, 0) => Ok(child),
        (stage, errno) => {
            // It has ended, or ends now; what it says about itself is what counts.
            child.wait().ok();
            Err(SpawnError { stage, errno })
        }
    }
}

fn be_the_child(
    parent: Pid,
    prepared: Option<Prepared>,
    keep: &[BorrowedFd<'_>],
    report: OwnedFd,
    body: impl FnOnce() -> i32,
) -> ! {
    let confined = confine(parent, prepared, keep, report.as_fd());
    let (stage, errno) = match confined {
        Ok(()) => (Stage::Execute, 0),
        Err((stage, errno)) => (stage, errno.raw_os_error()),
    };
    let told = rustix::io::write(&report, &message(stage, errno));
    drop(report);
    if told != Ok(MESSAGE) || (stage, errno) != (Stage::Execute, 0) {
        sys::exit_now(127);
    }
    // A panic must not unwind into the frames that were the parent's.
    sys::exit_now(catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED))
}

fn confine(
    parent: Pid,
    prepared: Option<Prepared>,
    keep: &[BorrowedFd<'_>],
    report: BorrowedFd<'_>,
) -> Result<(), (Stage, Errno)> {
    let at = |stage| move |errno| (stage, errno);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Stage::DeathSignal))?;
    if rustix::process::getppid() != Some(parent) {
        return Err((Stage::DeathSignal, Errno::SRCH));
    }
    let mut kept: Vec<RawFd> = vec![0, 1, 2, report.as_raw_fd()];
    kept.extend(keep.iter().map(AsRawFd::as_raw_fd));
    kept.extend(
        prepared.as_ref().and_then(|prepared| prepared.steps().landlock.as_ref()).map(AsRawFd::as_raw_fd),
    );
    kept.sort_unstable();
    kept.dedup();
    sys::close_all_but(&kept).map_err(at(Stage::Descriptors))?;
    let Some(prepared) = prepared else { return Ok(()) };
    if prepared.steps().view.is_some() {
        // Its namespaces would have to be made with the child.
        return Err((Stage::View, Errno::OPNOTSUPP));
    }
    let reached = std::cell::Cell::new(Stage::Session);
    sys::apply(prepared.steps(), |stage| reached.set(stage)).map_err(|errno| (reached.get(), errno))
}

/// Bytes in a report: the stage and the errno.
const MESSAGE: usize = 8;

fn message(stage: Stage, errno: i32) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    let words = stage.number().to_ne_bytes().into_iter().chain(errno.to_ne_bytes());
    message.iter_mut().zip(words).for_each(|(slot, byte)| *slot = byte);
    message
}

/// What the child says, or a death at launch when it says nothing.
fn outcome(read: &OwnedFd) -> (Stage, i32) {
    let mut message = [0; MESSAGE];
    let got = rustix::io::retry_on_intr(|| rustix::io::read(read, &mut message));
    match (got, message) {
        (Ok(MESSAGE), [a, b, c, d, e, f, g, h]) => {
            (Stage::from_number(u32::from_ne_bytes([a, b, c, d])), i32::from_ne_bytes([e, f, g, h]))
        }
        _ => (Stage::Launch, 0),
    }
}
