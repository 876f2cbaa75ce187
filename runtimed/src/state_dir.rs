//! The daemon's own directory: found or made, and held by one daemon at a time.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use runtimed_sandbox::tree::{Root, TreeError};
use rustix::fs::{FlockOperation, flock};

/// The file whose lock says that a daemon lives here, and whose presence that the directory is a daemon's.
const LOCK: &str = "runtimed.lock";

/// The daemon's own directory. The lock goes when it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or opened.
    #[error(
        "cannot use the state directory {path}: {error}; set [state] dir to one that this user may write"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another daemon has it.
    #[error("another runtimed is using the state directory {0}; stop it, or set another [state] dir")]
    Taken(PathBuf),
    /// A root cannot be listed or a directory in it cannot be made.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl StateDir {
    /// Takes the configured directory, or without one the randomly named one in `workspace`, made at the first start
    /// and found again by its lock file.
    ///
    /// # Errors
    /// It cannot be used, or another daemon has it.
    pub fn take(configured: Option<&Path>, workspace: &Root) -> Result<Self, StateError> {
        let path = match configured {
            Some(path) => {
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(|error| StateError::Open { path: path.to_owned(), error })?;
                path.to_owned()
            }
            None => match find(workspace)? {
                Some(found) => found,
                None => workspace.create()?.path(),
            },
        };
        let failed = |error: io::Error| StateError::Open { path: path.clone(), error };
        let lock =
            OpenOptions::new().create(true).append(true).mode(0o600).open(path.join(LOCK)).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Taken(path)),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The first directory of the root that has a lock file in it.
fn find(workspace: &Root) -> Result<Option<PathBuf>, TreeError> {
    let mut names = workspace.list()?;
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    let paths = names.iter().map(|name| workspace.path().join(name.as_str()));
    Ok(paths.into_iter().find(|path| path.join(LOCK).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_a_later_one_finds_the_same_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opens");
        let first = StateDir::take(None, &root).expect("taken");
        assert!(matches!(StateDir::take(None, &root), Err(StateError::Taken(_))));
        let place = first.path().to_owned();
        drop(first);
        assert_eq!(StateDir::take(None, &root).expect("taken again").path(), place);
    }
}
