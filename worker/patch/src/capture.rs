//! Finds what changed in a workspace since its snapshot, and writes it as a patch.
//!
//! The workspace was in the hands of a command that is dead by now. Nothing in it is believed: not its `.git`, not
//! the configuration, hooks, filters and attributes there, nor what its ignore files have come to say. Trees are
//! compared, so commits that the command made play no part.

use std::{
    io::{self, Write},
    os::fd::BorrowedFd,
};

use git2::{ObjectType, Repository};

use crate::{
    emit::{self, EmitError},
    git_path::GitPath,
    objects::Objects,
    snapshot::Snapshot,
    tree::{self, Changes, Entry, RewriteError, TreeId},
};

mod content;
mod untracked;
mod walk;

pub(crate) use content::{read_file, read_symlink};

/// Which of the untracked files go into the patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ignored {
    /// Those that no `.gitignore` of the Baseline ignores.
    #[default]
    Skip,
    /// All.
    Include,
}

/// What a capture may cost, and what it takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureOptions {
    /// What becomes of ignored files.
    pub ignored: Ignored,
    /// Bytes of the patch. Default 64 MiB.
    pub max_patch_bytes: u64,
    /// Files that differ. Default 10,000.
    pub max_files: usize,
    /// Entries of the workspace that are looked at, directories too. Default 1,000,000.
    pub max_entries: usize,
    /// Bytes of all new contents together, which are held in memory. Default 256 MiB.
    pub max_changed_bytes: u64,
    /// Behind the patch, write what cannot be read in it: names, and the contents of binary files. Default no.
    pub reveal: bool,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            ignored: Ignored::Skip,
            max_patch_bytes: 64 << 20,
            max_files: 10_000,
            max_entries: 1_000_000,
            max_changed_bytes: 256 << 20,
            reveal: false,
        }
    }
}

/// A captured patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The tree before.
    pub base: TreeId,
    /// The tree after: what the patch makes of `base`.
    pub result: TreeId,
    /// Files that differ.
    pub files: usize,
    /// Added lines of text.
    pub insertions: u64,
    /// Removed lines of text.
    pub deletions: u64,
    /// Bytes of the patch. An unchanged workspace has a patch of none.
    pub bytes: u64,
    /// Bytes behind the patch that say what cannot be read in it. `None` if that was not asked for, or is more than
    /// [`CaptureOptions::max_changed_bytes`].
    pub revealed: Option<u64>,
    /// What could not be taken, and why: the first hundred.
    pub skipped: Vec<Skipped>,
    /// How many were skipped in all.
    pub skipped_total: u64,
    /// Untracked files and directories that the Baseline ignores. A directory counts once.
    pub ignored_total: u64,
}

/// Something in the workspace that is not in the patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where.
    pub path: GitPath,
    /// Why.
    pub reason: SkipReason,
}

/// Why something is not in the patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// A `.git` below the top: a repository that the command made. The files around it are taken.
    NestedRepository,
    /// A name that some file system takes for `.git`, or a path that is too long or too deep.
    UnusablePath,
    /// A socket, pipe or device.
    SpecialFile,
    /// It may not be read, and is not ours to change. What the Baseline has there counts as unchanged.
    Unreadable,
}

/// Why there is no patch. The workspace is as it was, except that directories and files of ours without permissions
/// are readable now.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The workspace has too many entries to look at.
    #[error("the workspace has more than {0} files and directories, which is the limit for a patch")]
    TooManyEntries(usize),
    /// Too many files changed.
    #[error("more than {0} files changed, which is the limit for a patch")]
    TooManyFiles(usize),
    /// Too much content changed.
    #[error("at {path} the changed files exceed {limit} bytes, which is the limit for a patch")]
    ContentTooLarge {
        /// The file that was one too many.
        path: GitPath,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The patch itself is too large.
    #[error("the patch exceeds its limit of {0} bytes")]
    PatchTooLarge(u64),
    /// A directory or file cannot be read for a reason other than its permissions.
    #[error("cannot read {path} in the workspace")]
    Io {
        /// Where.
        path: GitPath,
        /// What the system said.
        source: io::Error,
    },
    /// The patch cannot be written to where the caller wants it.
    #[error("cannot write the patch")]
    Write(#[source] io::Error),
    /// The object store failed.
    #[error("the object store cannot be used")]
    Store(#[from] git2::Error),
}

/// Compares `workspace` with `snapshot` and writes the patch to `out`, in git's binary format, without renames. The
/// same two trees give the same bytes. `open` opens the private repository that holds the Baseline; if nothing
/// changed it is not called. New objects stay in memory. The command and all its processes must be dead.
///
/// # Errors
/// [`CaptureError`]. What was written to `out` by then is no patch.
pub fn capture(
    workspace: BorrowedFd<'_>,
    snapshot: &Snapshot,
    options: &CaptureOptions,
    open: impl Fn() -> Result<Repository, git2::Error>,
    out: &mut dyn Write,
) -> Result<Captured, CaptureError> {
    let walked = walk::walk(workspace, snapshot, options, &open)?;
    let mut captured = Captured {
        base: snapshot.tree(),
        result: snapshot.tree(),
        files: 0,
        insertions: 0,
        deletions: 0,
        bytes: 0,
        revealed: options.reveal.then_some(0),
        skipped: walked.skipped,
        skipped_total: walked.skipped_total,
        ignored_total: walked.ignored_total,
    };
    if walked.changed.is_empty() && walked.removed.is_empty() {
        return Ok(captured);
    }
    let repo = open()?;
    let objects = Objects::new(&repo)?;
    let mut changes = walked.removed.into_iter().map(|path| (path, None)).collect::<Changes>();
    for (path, changed) in walked.changed {
        let id = objects.write(ObjectType::Blob, &changed.content)?;
        changes.insert(path, Some(Entry { mode: changed.mode, id }));
    }
    captured.result = tree::rewrite(&objects, snapshot.tree(), &changes).map_err(|error| match error {
        RewriteError::Git(error) => CaptureError::Store(error),
        RewriteError::Conflict { path, .. } => {
            CaptureError::Io { path, source: io::Error::other("the workspace changed while it was read") }
        }
    })?;
    let differences = tree::diff(&repo, captured.base, captured.result)?;
    captured.files = differences.len();
    let failed = |error| match error {
        EmitError::TooLarge => CaptureError::PatchTooLarge(options.max_patch_bytes),
        EmitError::Write(error) => CaptureError::Write(error),
        EmitError::Store(error) => CaptureError::Store(error),
    };
    let stats = emit::emit(&objects, &differences, options.max_patch_bytes, out).map_err(failed)?;
    (captured.insertions, captured.deletions, captured.bytes) =
        (stats.insertions, stats.deletions, stats.bytes);
    if options.reveal {
        captured.revealed =
            emit::reveal(&objects, &differences, options.max_changed_bytes, out).map_err(failed)?;
    }
    Ok(captured)
}
