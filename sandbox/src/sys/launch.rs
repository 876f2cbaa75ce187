//! Starting a program with `clone`, in the launcher's memory and on a stack of its own.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::child::{self, Shared};
use super::confine::Steps;
use super::{View, last_errno};
use crate::spawn::Stage;

/// The child's stack in 16-byte units: 64 KiB, of which it uses a few, for it calls nothing deep.
const STACK_UNITS: usize = 4096;

/// A program, named in a way that is valid in the child.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program<'a> {
    Descriptor(BorrowedFd<'a>),
    /// The first of these that can be executed, as the child finds them.
    Paths(&'a [CString]),
}

/// Everything that a child needs, borrowed from the launcher, which is suspended until the child has executed.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: Program<'a>,
    pub(crate) argv: &'a [CString],
    pub(crate) envp: &'a [CString],
    pub(crate) directory: Option<&'a CStr>,
    /// (target, source), sorted by target, every source above every target.
    pub(crate) descriptors: &'a [(RawFd, RawFd)],
    /// The child is the first of a process namespace, in a user namespace of its own.
    pub(crate) own_processes: bool,
    pub(crate) new_session: bool,
    pub(crate) death_signal: Option<Signal>,
    pub(crate) parent: Pid,
    pub(crate) steps: Option<&'a Steps>,
}

/// Starts a child and returns when it has executed the program or failed.
///
/// `CLONE_VM | CLONE_VFORK`: no page table is copied, which in a large process is most of what `fork` costs, and a
/// failure is left in shared memory, where a pipe would need two more descriptors and a read. If the child was killed on
/// the way the errno is 0 and the stage is one before [`Stage::Execute`].
pub(crate) fn launch(launch: &Launch<'_>) -> Result<(Pid, OwnedFd), (Stage, i32)> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, envp) = (pointers(launch.argv), pointers(launch.envp));
    let shared = Shared::new(launch, &argv, &envp);
    let masked = SignalMask::block_all();
    let own = if launch.own_processes { libc::CLONE_NEWUSER | libc::CLONE_NEWPID } else { 0 };
    let view = launch.steps.and_then(|steps| steps.view.as_ref()).map_or(0, View::namespaces);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | own | view;
    let cloned = clone(flags, &shared);
    drop(masked);
    let (pid, pidfd) = cloned.map_err(|errno| (Stage::Launch, errno.raw_os_error()))?;
    match shared.reached() {
        (Stage::Execute, 0) => Ok((pid, pidfd)),
        failed => {
            // It has ended or is about to; collected here, for nobody else learns of it.
            super::wait(super::Target::Pid(pid), true).ok();
            Err(failed)
        }
    }
}

fn clone(flags: libc::c_int, shared: &Shared<'_>) -> Result<(Pid, OwnedFd), Errno> {
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK_UNITS);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: the stack grows down from the end of an allocation of which this frame makes no other use and which it
    // keeps until the call returns; with CLONE_VFORK that is after the child has left this memory. `main` reads
    // `shared` through a shared reference and stores only to its atomics. The kernel writes the pidfd to `pidfd`.
    let pid = unsafe {
        libc::clone(main, top.cast(), flags, std::ptr::from_ref(shared).cast_mut().cast(), &raw mut pidfd)
    };
    let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else { return Err(last_errno()) };
    // SAFETY: CLONE_PIDFD made this descriptor for the caller, and nothing else knows it.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

extern "C" fn main(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `clone` passes the pointer that it was given, which stays valid and is only shared; see there.
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    child::run(shared);
    // The value becomes the exit status of a child that nobody gets to see.
    127
}

/// All signals blocked until it is dropped: a handler must not run on the child's side of the shared memory.
struct SignalMask {
    former: libc::sigset_t,
}

impl SignalMask {
    fn block_all() -> Self {
        // SAFETY: all-zero bytes are an empty signal set.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        let mut former = all;
        // SAFETY: the set is a valid one of this frame's.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: both sets live in this frame; the call cannot fail with these arguments.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut former) };
        Self { former }
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: the set is the one that `block_all` was given back, and no former mask is asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.former, std::ptr::null_mut()) };
    }
}
