//! The steps that confine the calling thread, in the one order that works.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::checked;
use crate::spawn::Stage;

/// Everything that confines a process, ready for raw system calls: nothing is opened, built or allocated any more.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// Made before anything else, by [`super::view::enter`], in a child that was made with its namespaces.
    pub(crate) view: Option<super::View>,
    pub(crate) new_session: bool,
    pub(crate) limits: Vec<(Resource, Rlimit)>,
    pub(crate) no_new_privs: bool,
    pub(crate) drop_capabilities: bool,
    pub(crate) landlock: Option<OwnedFd>,
    /// Empty when there is no filter.
    pub(crate) filter: Vec<libc::sock_filter>,
}

/// Confines the calling thread, in the one order that works: privileges go before the rules that outlive them, and the
/// system call filter is last, for it forbids what the steps before it need.
///
/// A view is not made here. `at` is told each stage before it is entered. Async-signal-safe.
pub(crate) fn apply(steps: &Steps, at: impl Fn(Stage)) -> Result<(), Errno> {
    at(Stage::Session);
    if steps.new_session {
        rustix::process::setsid()?;
    }
    at(Stage::Limits);
    for (resource, limit) in &steps.limits {
        rustix::process::setrlimit(*resource, *limit)?;
    }
    at(Stage::NoNewPrivs);
    if steps.no_new_privs {
        rustix::thread::set_no_new_privs(true)?;
    }
    at(Stage::Capabilities);
    if steps.drop_capabilities {
        let none = CapabilitySet::empty();
        // The ambient set follows the permitted one down.
        rustix::thread::set_capabilities(
            None,
            CapabilitySets { effective: none, permitted: none, inheritable: none },
        )?;
    }
    at(Stage::Landlock);
    if let Some(ruleset) = &steps.landlock {
        // SAFETY: the descriptor is a ruleset that `steps` owns, and the call takes no pointer.
        checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    }
    at(Stage::Seccomp);
    if steps.filter.is_empty() {
        return Ok(());
    }
    let program = libc::sock_fprog {
        len: u16::try_from(steps.filter.len()).map_err(|_| Errno::TOOBIG)?,
        filter: steps.filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the instructions that it points to live until the call returns, and the kernel only reads
    // them although the structure's pointer is a mutable one.
    checked(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    })
}
