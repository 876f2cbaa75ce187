//! What can be in the way of a tree.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why a tree could not be made, found, measured or removed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why the kernel refused.
        #[source]
        source: Errno,
    },
    /// A directory that was just made or found is not a private one of this uid.
    #[error(
        "{path} belongs to uid {uid} with mode {mode:04o}, not to this process with mode 0700; remove it by hand"
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Another directory has taken the tree's name.
    #[error("{path} was replaced by another directory, which is left alone; remove it by hand")]
    Replaced {
        /// The tree's path.
        path: PathBuf,
    },
    /// Something in the tree could not be removed; everything else was.
    #[error("{left} entries beneath {path} could not be removed, the first is {first}; remove them by hand")]
    Left {
        /// The tree's path.
        path: PathBuf,
        /// How many attempts to remove an entry failed.
        left: u64,
        /// The first of them, beneath the tree, with its owner if that is another uid.
        first: String,
        /// Why the first of them failed.
        #[source]
        source: Errno,
    },
}
