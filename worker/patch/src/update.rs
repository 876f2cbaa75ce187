//! Changes a person's work tree from one tree to another: all of it, or nothing.
//!
//! ```text
//! verify ──> stage new contents ──> write the journal ══> execute it ──> forget it
//!    └── nothing was written             (a crash up to here: the old tree)
//!                                        (a crash from here: recovery completes the new one)
//! ```
//! The journal is renamed into place, which is the one moment that decides. Every step after it can be repeated. The
//! promise covers the death of the process at any instruction; a power cut is for the file system to order.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use git2::Repository;

use crate::{
    checkout::open_path,
    git_path::GitPath,
    objects::Objects,
    rule::Refusal,
    tree::{self, Changes, RewriteError, TreeId},
};

mod crash;
mod journal;
mod place;
#[cfg(test)]
mod tests;

use journal::{Journal, Operation};
use place::{Before, Place};

/// Why a work tree was not changed, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The change itself is not fit to be written as files.
    #[error("the change cannot be written to a work tree")]
    Refused(#[from] Refusal),
    /// A file is not what the change starts from, or something is in the way. If `started`, another process changed
    /// it after the update began: the rest of the update waits in the journal.
    #[error("{path} is not as the change expects it; commit, stash or move it, then try again")]
    NotClean {
        /// The file.
        path: GitPath,
        /// Whether part of the change is already there.
        started: bool,
    },
    /// Another update of the same work tree is running.
    #[error("another update of this work tree is running")]
    Busy,
    /// The state directory must be on the file system of the work tree, for files are renamed from one to the other.
    #[error("the state directory is on another file system than the work tree")]
    OtherFileSystem,
    /// The journal of an earlier update cannot be read.
    #[error("the journal of an interrupted update is damaged; look at the work tree, then remove {0}")]
    Journal(PathBuf),
    /// The file system refused.
    #[error("cannot update {path}")]
    Io {
        /// The file.
        path: GitPath,
        /// What the system said.
        source: io::Error,
    },
    /// The object store failed.
    #[error("the object store cannot be used")]
    Store(#[from] git2::Error),
}

/// What was found of an earlier update that did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing.
    Nothing,
    /// It had not been decided: what it had staged is gone, and the work tree is as it was before.
    Discarded,
    /// It had been decided: now it is complete.
    Completed,
}

/// Changes the files of `work_tree` from `from` to `to`. Only files that differ between the two are looked at or
/// touched; each must be as in `from`. The index is left alone. `state` is a directory for the journal, on the same
/// file system, such as one within `.git`; it is made if it does not exist. An interrupted update is finished first.
///
/// # Errors
/// [`UpdateError`]; but for `started`, the work tree is then as it was.
pub fn update(
    repo: &Repository,
    work_tree: &Path,
    state: &Path,
    from: TreeId,
    to: TreeId,
) -> Result<usize, UpdateError> {
    let mut session = Session::open(work_tree, state)?;
    session.recover()?;
    let operations = tree::diff(repo, from, to)?.into_iter().map(Operation::from).collect::<Vec<_>>();
    for operation in &operations {
        operation.path.judge()?;
    }
    let before = session.verify(&operations)?;
    session.stage(repo, &operations)?;
    session.decide(&operations)?;
    session.execute(&operations, &before)?;
    Ok(operations.len())
}

/// The tree `base` with these paths as they lie in `work_tree`: what a patch of them has to apply to. Nothing is written:
/// new objects are in the memory of `repo`'s handle. An update that was interrupted is to be finished first.
///
/// # Errors
/// [`UpdateError::NotClean`] where a directory is in a path's place, or a file or symlink on its way, that is none of the
/// other paths: a change can replace a file by a directory, or a directory by a file.
pub fn present<'p>(
    repo: &Repository,
    work_tree: &Path,
    base: TreeId,
    paths: impl IntoIterator<Item = &'p GitPath>,
) -> Result<TreeId, UpdateError> {
    let root = open_path(work_tree).map_err(|source| UpdateError::Io { path: GitPath::new(b"."), source })?;
    let place = Place::new(root);
    let objects = Objects::new(repo)?;
    let paths: BTreeSet<GitPath> = paths.into_iter().cloned().collect();
    let mut changes = Changes::new();
    for path in &paths {
        let entry = match place.present(path, &objects) {
            Err(UpdateError::NotClean { .. }) if place::has_nested(&paths, path) => None,
            found => found?,
        };
        changes.insert(path.clone(), entry);
    }
    tree::rewrite(&objects, base, &changes).map_err(|error| match error {
        RewriteError::Conflict { path, .. } => UpdateError::NotClean { path, started: false },
        RewriteError::Git(error) => error.into(),
    })
}

/// Finishes an update that was interrupted: to the new tree if it had been decided, else to the old one.
///
/// # Errors
/// [`UpdateError`].
pub fn recover(work_tree: &Path, state: &Path) -> Result<Recovery, UpdateError> {
    Session::open(work_tree, state)?.recover()
}

/// One process at a time, by a lock on the state directory.
struct Session {
    place: Place,
    state: PathBuf,
    _lock: OwnedFd,
}

impl Session {
    fn open(work_tree: &Path, state: &Path) -> Result<Self, UpdateError> {
        let at_state = |source| UpdateError::Io { path: GitPath::new(b"."), source };
        std::fs::create_dir_all(state).map_err(at_state)?;
        let lock = open_path(state).map_err(at_state)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(UpdateError::Busy),
            other => other.map_err(|error| at_state(error.into()))?,
        }
        let root = open_path(work_tree).map_err(at_state)?;
        let device =
            |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_dev).map_err(|it| at_state(it.into()));
        if device(&root)? != device(&lock)? {
            return Err(UpdateError::OtherFileSystem);
        }
        Ok(Self { place: Place::new(root), state: state.to_owned(), _lock: lock })
    }

    fn recover(&mut self) -> Result<Recovery, UpdateError> {
        let found = match std::fs::read(self.journal()) {
            Ok(bytes) => {
                let journal = Journal::decode(&bytes).ok_or_else(|| UpdateError::Journal(self.journal()))?;
                self.execute(&journal.operations, &[])?;
                return Ok(Recovery::Completed);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.failed(error)),
            Err(_) if self.staged().exists() => Recovery::Discarded,
            Err(_) => Recovery::Nothing,
        };
        self.forget()?;
        Ok(found)
    }

    /// Every file must be as before, so that nothing of anybody else's is lost.
    fn verify(&self, operations: &[Operation]) -> Result<Vec<Before>, UpdateError> {
        let going = operations.iter().filter(|operation| operation.new.is_none());
        let going = going.map(|operation| operation.path.clone()).collect();
        let before = |operation: &Operation| {
            let not_clean = || UpdateError::NotClean { path: operation.path.clone(), started: false };
            self.place.as_before(operation, &going)?.ok_or_else(not_clean)
        };
        operations.iter().map(before).collect()
    }

    fn stage(&self, repo: &Repository, operations: &[Operation]) -> Result<(), UpdateError> {
        std::fs::create_dir_all(self.staged()).map_err(|error| self.failed(error))?;
        crash::point();
        let directory = open_path(&self.staged()).map_err(|error| self.failed(error))?;
        for (number, operation) in operations.iter().enumerate() {
            let Some(entry) = operation.new else { continue };
            let blob = repo.find_blob(entry.id)?;
            crate::checkout::write_entry(
                &directory,
                number.to_string().as_bytes(),
                entry.mode,
                blob.content(),
            )
            .map_err(|source| UpdateError::Io { path: operation.path.clone(), source })?;
            crash::point();
        }
        Ok(())
    }

    fn decide(&self, operations: &[Operation]) -> Result<(), UpdateError> {
        let draft = self.state.join("journal.draft");
        let journal = Journal { operations: operations.to_vec() };
        std::fs::write(&draft, journal.encode()).map_err(|error| self.failed(error))?;
        crash::point();
        std::fs::rename(draft, self.journal()).map_err(|error| self.failed(error))?;
        crash::point();
        Ok(())
    }

    /// Removals first: what is gone may be where a new directory goes. `before` is what was seen of each path, if it was.
    fn execute(&self, operations: &[Operation], before: &[Before]) -> Result<(), UpdateError> {
        let before = |number: usize| before.get(number).copied().unwrap_or(Before::UNSEEN);
        self.place.look_again();
        for (number, operation) in operations.iter().enumerate() {
            if operation.new.is_none() {
                self.place.remove(operation, before(number))?;
                crash::point();
            }
        }
        let staged = match open_path(&self.staged()) {
            // It goes only after everything in it has found its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.forget(),
            other => other.map_err(|error| self.failed(error))?,
        };
        for (number, operation) in operations.iter().enumerate() {
            if operation.new.is_some() {
                self.place.put(operation, before(number), &staged, number.to_string().as_bytes())?;
                crash::point();
            }
        }
        self.forget()
    }

    /// The journal goes last, so that a stage without a journal is always one that was not decided.
    fn forget(&self) -> Result<(), UpdateError> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        };
        gone(std::fs::remove_dir_all(self.staged()))?;
        crash::point();
        gone(std::fs::remove_file(self.state.join("journal.draft")))?;
        crash::point();
        gone(std::fs::remove_file(self.journal()))
    }

    fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    fn staged(&self) -> PathBuf {
        self.state.join("staged")
    }

    fn failed(&self, source: io::Error) -> UpdateError {
        UpdateError::Io { path: GitPath::new(self.state.as_os_str().as_encoded_bytes()), source }
    }
}
