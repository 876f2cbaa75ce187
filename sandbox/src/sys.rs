//! The only unsafe code of the workspace: system calls that no safe wrapper offers in the form that is needed here.
//!
//! Each function is as small as its system call allows, takes borrowed descriptors and slices, and returns an errno.
//! Whatever can be done through `rustix` is done there, in safe code.

mod mode;

pub(crate) use mode::chmod_descriptor;

use rustix::io::Errno;

/// The errno that the calling thread's last failed libc call left behind.
pub(crate) fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
