//! The only unsafe code of the workspace: system calls that no safe wrapper offers in the form that is needed here.
//!
//! Each function is as small as its system call allows, takes borrowed descriptors and slices, and returns an errno.
//! Whatever can be done through `rustix` is done there, in safe code. What runs between `clone` and `execve` is in
//! [`child`] and [`confine`]: no allocation, no lock, no panic.

mod child;
mod confine;
mod fork;
mod launch;
mod mode;
mod probe;
mod view;
mod wait;

use rustix::io::Errno;

pub(crate) use confine::{Steps, apply};
pub(crate) use fork::{Side, close_all_but, exit_now, fork};
pub(crate) use launch::{Launch, Program, launch};
pub(crate) use mode::chmod_descriptor;
pub(crate) use probe::{landlock_version, seccomp_filters, try_view, unshare_user_and_processes};
pub(crate) use view::{Bind, NO_DEVICES, NO_SETUID, Node, READ_ONLY, View};
pub(crate) use wait::{ChildSignal, Target, signal_all, wait};

/// The errno that the calling thread's last failed libc call left behind.
fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The outcome of a call that answers -1 when it fails.
fn checked(result: libc::c_long) -> Result<(), Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}
