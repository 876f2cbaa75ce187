//! As whom controller, daemon and Run live.

use std::io;
use std::os::unix::fs::chown;
use std::path::Path;

/// As whom controller, daemon and Run live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// As who called us.
    Caller,
    /// We are root, and servers never are: under this uid, and the gid of the same number.
    User(u32),
}

impl Owner {
    pub(super) fn of_process(user: u32) -> Self {
        if rustix::process::geteuid().is_root() { Self::User(user) } else { Self::Caller }
    }

    /// The uid to become, if there is one.
    pub(super) fn user(self) -> Option<u32> {
        match self {
            Self::Caller => None,
            Self::User(user) => Some(user),
        }
    }

    /// Gives what we made to the servers.
    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Caller => Ok(()),
            Self::User(user) => chown(path, Some(user), Some(user)),
        }
    }
}
