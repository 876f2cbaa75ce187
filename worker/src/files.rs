//! A tree made of files that come one by one, from wherever.

use std::collections::HashSet;

use git2::{Index, IndexEntry, IndexTime, Oid, Repository};
use runtimed_patch::{GitPath, Refusal, TreeId};

/// Files whose contents are in the store already.
pub(crate) struct Files {
    index: Index,
    paths: HashSet<Vec<u8>>,
    directories: HashSet<Vec<u8>>,
}

/// Why a file cannot be in the tree.
#[derive(Debug)]
pub(crate) enum Misplaced {
    /// Its path is not one that a tree may hold.
    Path(Refusal),
    /// Another file has the path, or a directory has, or a file is where a directory must be.
    Taken,
}

impl Files {
    pub(crate) fn new() -> Result<Self, git2::Error> {
        Ok(Self { index: Index::new()?, paths: HashSet::new(), directories: HashSet::new() })
    }

    /// Looks whether a file may be at `path`, and keeps the place for it.
    pub(crate) fn claim(&mut self, path: &[u8]) -> Result<(), Misplaced> {
        self.judge(path)?;
        if self.directories.contains(path) || !self.paths.insert(path.to_vec()) {
            return Err(Misplaced::Taken);
        }
        self.directories.extend(parents(path).map(<[u8]>::to_vec));
        Ok(())
    }

    /// Looks whether a directory may be at `path`, and keeps the place for it. Without files it is in no tree.
    pub(crate) fn claim_directory(&mut self, path: &[u8]) -> Result<(), Misplaced> {
        self.judge(path)?;
        if self.paths.contains(path) {
            return Err(Misplaced::Taken);
        }
        self.directories.extend(std::iter::once(path).chain(parents(path)).map(<[u8]>::to_vec));
        Ok(())
    }

    fn judge(&self, path: &[u8]) -> Result<(), Misplaced> {
        GitPath::new(path).judge().map_err(Misplaced::Path)?;
        if parents(path).any(|parent| self.paths.contains(parent)) {
            return Err(Misplaced::Taken);
        }
        Ok(())
    }

    /// Puts the blob `id` where a place was claimed.
    pub(crate) fn put(&mut self, path: Vec<u8>, id: Oid, executable: bool) -> Result<(), git2::Error> {
        self.index.add(&IndexEntry {
            ctime: IndexTime::new(0, 0),
            mtime: IndexTime::new(0, 0),
            dev: 0,
            ino: 0,
            mode: if executable { 0o100_755 } else { 0o100_644 },
            uid: 0,
            gid: 0,
            file_size: 0,
            id,
            flags: 0,
            flags_extended: 0,
            path,
        })
    }

    /// Stores the tree.
    pub(crate) fn tree(mut self, store: &Repository) -> Result<TreeId, git2::Error> {
        Ok(TreeId::new(self.index.write_tree_to(store)?))
    }
}

/// The directories that a path lies in, the innermost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| path.get(..at).unwrap_or_default())
}
