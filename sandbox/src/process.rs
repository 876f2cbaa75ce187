//! What a process does to itself and to the processes below it.

mod abandoned;
mod identity;
mod kill;
mod namespace;
mod strays;
mod table;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
pub use rustix::process::{Pid, Signal};

pub use self::abandoned::{AbandonedReport, end_abandoned};
pub use self::identity::{DropError, drop_to};
pub use self::kill::{KillReport, KillTree, Reach, collect_ended, kill_descendants, terminate_descendants};
pub use self::namespace::settle;
pub(crate) use self::namespace::try_view;
pub use self::strays::{StrayReport, collect_ended_strays, reap_strays};
pub use self::table::{children, descendants};

/// Makes every orphan below this process its child, for the rest of its life. Children do not inherit it.
///
/// # Errors
/// The kernel's errno.
pub fn become_subreaper() -> Result<(), Errno> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
}

/// Makes this process unreadable to others of its uid, and leaves no core dump of it.
///
/// `/proc/self` belongs to root from here: whatever has to write there (the maps of a user namespace) comes before.
/// A program that is executed later is dumpable again.
///
/// # Errors
/// The kernel's errno.
pub fn harden_self() -> Result<(), Errno> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// `EBUSY` unless the calling thread is the only one.
pub(crate) fn require_one_thread() -> Result<(), Errno> {
    let tasks = std::fs::read_dir("/proc/self/task")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if tasks.take(2).count() == 1 { Ok(()) } else { Err(Errno::BUSY) }
}
