//! What a workspace held when it was made: every file of its tree, with what the file system said of it.
//!
//! A capture compares the workspace with this instead of reading every file again. A file counts as unchanged if all
//! that the kernel tells of it is the same, and its change time is before the moment the snapshot was taken: within
//! one tick of the kernel's clock two changes look alike.

use rustix::{
    fs::Stat,
    time::{ClockId, clock_gettime},
};

use crate::{
    git_path::GitPath,
    tree::{Entry, TreeId, flatten},
};

mod format;

pub use format::SnapshotError;

/// The files of a tree, as they lie in a workspace. It is made by [`checkout`](crate::checkout), before anything else
/// can change the workspace, and kept outside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    tree: TreeId,
    taken: Time,
    files: Vec<Known>,
}

/// Seconds and nanoseconds since the epoch, by the clock that stamps files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u64,
}

impl Time {
    /// What is written from here on has this time or a later one: the coarse clock is the one that stamps files.
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Self { seconds: now.tv_sec, nanoseconds: u64::try_from(now.tv_nsec).unwrap_or_default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) path: GitPath,
    pub(crate) entry: Entry,
    /// `None` if the file was never looked at: then only its content can tell.
    pub(crate) stat: Option<FileStat>,
}

/// What the kernel tells of a file, as far as it shows a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    pub(crate) changed: Time,
}

impl FileStat {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec },
            changed: Time { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec },
        }
    }
}

impl Snapshot {
    /// A snapshot of files that were just written, all of them before this call.
    pub(crate) fn now(tree: TreeId, mut files: Vec<Known>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { tree, taken: Time::now(), files }
    }

    /// A snapshot that knows the contents of `tree` and nothing of the files, so that a capture reads all of them.
    ///
    /// # Errors
    /// The tree cannot be read, or has more than 2,000,000 entries.
    pub fn of_tree(repo: &git2::Repository, tree: TreeId) -> Result<Self, git2::Error> {
        let files = flatten(repo, tree)?.into_iter();
        let files = files.map(|(path, entry)| Known { path, entry, stat: None }).collect();
        Ok(Self { tree, taken: Time { seconds: 0, nanoseconds: 0 }, files })
    }

    /// The tree that the workspace held.
    #[must_use]
    pub fn tree(&self) -> TreeId {
        self.tree
    }

    /// How many files it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether the tree had no files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(crate) fn files(&self) -> &[Known] {
        &self.files
    }

    /// Whether a file that now has this `stat` is surely the one that `known` describes.
    pub(crate) fn is_unchanged(&self, known: &Known, stat: &FileStat) -> bool {
        known.stat.as_ref() == Some(stat) && stat.changed < self.taken
    }
}
