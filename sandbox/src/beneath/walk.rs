//! Walking a directory that may be hostile: by descriptors, through no link, within limits.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{BeneathError, Meta, mend, open_dir};
use crate::dirs::{Obstacle, Repair, Walker};

/// How far a walk goes before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of any kind; each name is held in memory while its directory is being walked.
    pub entries: usize,
    /// Levels of directories below the start.
    pub depth: usize,
}

/// One name that a walk met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path relative to the directory that the walk was given, so with the walk's own start before it.
    pub path: PathBuf,
    /// What its inode says, never following a link.
    pub meta: Meta,
}

/// A walk in progress; an iterator of entries, and of what could not be read.
#[derive(Debug)]
pub struct Walk {
    walker: Walker,
    start: PathBuf,
}

/// Walks everything beneath `rel`, directories before their contents, names in byte order.
///
/// The owner of an unreadable directory, or of one on the way to the start, is given the right to read it, so the tree
/// must not be in use. An entry that
/// cannot be read is an error among the items and the walk goes on; after [`BeneathError::TooMany`] or
/// [`BeneathError::Changed`] it has ended.
///
/// # Errors
/// [`BeneathError`] if the start itself cannot be opened.
pub fn walk(dir: BorrowedFd<'_>, rel: &Path, limits: Limits) -> Result<Walk, BeneathError> {
    let top = match open_dir(dir, rel) {
        Err(BeneathError::Permission { .. }) => {
            mend(dir, rel)?;
            open_dir(dir, rel)?
        }
        opened => opened?,
    };
    let walker = Walker::new(top, Repair::Owner(0o500), limits.entries, limits.depth)
        .map_err(|errno| BeneathError::new(rel, errno))?;
    Ok(Walk { walker, start: rel.to_owned() })
}

impl Iterator for Walk {
    type Item = Result<Entry, BeneathError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.walker.step()?;
        let path = self.start.join(OsStr::from_bytes(self.walker.path()));
        Some(match step {
            Ok(stat) => Ok(Entry { path, meta: Meta::of(&stat) }),
            Err(Obstacle::Entry(errno)) => Err(BeneathError::new(&path, errno)),
            Err(Obstacle::Limit) => Err(BeneathError::TooMany { path: self.start.clone() }),
            Err(Obstacle::Moved) => Err(BeneathError::Changed { path }),
        })
    }
}
