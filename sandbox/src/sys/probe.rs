use std::mem::MaybeUninit;

use rustix::io::Errno;
use rustix::process::Pid;

use super::{Target, checked, last_errno, wait};

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

/// Whether this process may make a user namespace, by making one for a child that ends at once.
pub(crate) fn user_namespace() -> Result<(), Errno> {
    // 16 KiB in 16-byte units, for a function that only returns.
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(1024);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: the stack is used by nothing else and kept until the call returns, which CLONE_VFORK puts after the
    // child's end. The child touches no memory but its stack.
    let pid = unsafe { libc::clone(end, top.cast(), flags, std::ptr::null_mut()) };
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Err(last_errno()) };
    wait(Target::Pid(pid), true).map(drop)
}

extern "C" fn end(_: *mut libc::c_void) -> libc::c_int {
    0
}
