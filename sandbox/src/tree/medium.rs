//! What a file system keeps its bytes on.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// What a file system keeps its bytes on, as far as it matters to secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Memory that may be swapped out.
    Tmpfs,
    /// Memory that is never swapped out.
    Ramfs,
    /// Anything else: overwriting guarantees nothing there.
    Disk,
}

impl Medium {
    /// Whether what is stored there never reaches a disk by being stored.
    #[must_use]
    pub fn is_memory(self) -> bool {
        self != Self::Disk
    }

    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        // linux/magic.h: TMPFS_MAGIC, RAMFS_MAGIC.
        Ok(match rustix::fs::fstatfs(fd)?.f_type {
            0x0102_1994 => Self::Tmpfs,
            0x8584_58f6 => Self::Ramfs,
            _ => Self::Disk,
        })
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tmpfs => "tmpfs",
            Self::Ramfs => "ramfs",
            Self::Disk => "disk",
        })
    }
}
