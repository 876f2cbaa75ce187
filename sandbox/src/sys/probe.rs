//! Asking the kernel what it offers.

use std::mem::MaybeUninit;

use rustix::io::Errno;
use rustix::process::Pid;

use super::{Target, View, checked, last_errno, wait};
use crate::spawn::{Exited, Status};

/// What `landlock_create_ruleset` answers for a flag alone: 1 is the ABI version, 2 the errata that are fixed.
pub(crate) fn landlock_version(flag: u32) -> Result<u32, Errno> {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with one of these flags the kernel requires a null pointer and size 0, and reads nothing.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, flag) };
    checked(answer)?;
    u32::try_from(answer).map_err(|_| Errno::IO)
}

/// Whether the kernel takes system call filters that answer with an errno.
pub(crate) fn seccomp_filters() -> Result<(), Errno> {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one integer that outlives the call.
    checked(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, std::ptr::from_ref(&action))
    })
}

/// Puts the calling process, which has one thread, into a new user namespace, and its later children into a new process
/// namespace.
pub(crate) fn unshare_user_and_processes() -> Result<(), Errno> {
    // SAFETY: the call takes no pointer; without `CLONE_FILES` it takes no descriptor from anybody.
    checked(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) }.into())
}

/// Makes a view in a child that ends at once.
pub(crate) fn try_view(view: &View) -> Result<(), Errno> {
    // 64 KiB in 16-byte units, far more than a few system calls need.
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(4096);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | view.namespaces() | libc::SIGCHLD;
    let argument = std::ptr::from_ref(view).cast_mut().cast();
    // SAFETY: the stack is used by nothing else and kept until the call returns, which CLONE_VFORK puts after the
    // child's end. The child touches no memory but its stack and, through a shared reference, the view.
    let pid = unsafe { libc::clone(main, top.cast(), flags, argument) };
    // Judged first: a negative number is no process, and makes `Pid` panic.
    let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else { return Err(last_errno()) };
    match wait(Target::Pid(pid), true)? {
        Some((_, Exited { status: Status::Exited(0), .. })) => Ok(()),
        Some((_, Exited { status: Status::Exited(errno), .. })) => Err(Errno::from_raw_os_error(errno)),
        _ => Err(Errno::IO),
    }
}

extern "C" fn main(view: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `try_view` passes a view that outlives the child.
    let view = unsafe { &*view.cast_const().cast::<View>() };
    match super::view::enter(view, None) {
        Ok(()) => 0,
        // An exit status holds it: errnos are below 134.
        Err(errno) => errno.raw_os_error(),
    }
}
