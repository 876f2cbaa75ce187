//! Writes a tree as files, byte for byte: no filters, no attributes, no hooks, and nothing that follows a symlink.
//!
//! A checkout goes to a new directory that nobody else can see yet. [`Stage`] makes one beside the destination and
//! renames it into place, so that a crash at any instruction leaves either no workspace or a whole one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use git2::{ObjectType, Odb, Repository};
use rustix::fs::{AtFlags, CWD, Mode as Permissions, OFlags, mkdirat, openat, statat, symlinkat};

use crate::{
    git_path::GitPath,
    rule::{Refusal, Rule},
    snapshot::{FileStat, Known, Snapshot},
    tree::{Entry, Mode, TreeId, flatten},
};

mod stage;

pub use stage::Stage;

/// Why a tree is not in its directory.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The tree itself cannot be trusted as files: a path that leaves it, `.git` in some disguise, a submodule.
    #[error("the tree cannot be checked out")]
    Refused(#[from] Refusal),
    /// The file system refused. The message names the path.
    #[error("cannot write {path}")]
    Io {
        /// Where, within the tree.
        path: GitPath,
        /// What the system said.
        source: io::Error,
    },
    /// The object store failed.
    #[error("the object store cannot be used")]
    Store(#[from] git2::Error),
}

/// Writes `tree` into `directory`, which must be empty and out of everyone else's reach, and says what was written.
///
/// # Errors
/// [`CheckoutError`]. What was written so far stays; the directory is then of no use.
pub fn checkout(
    repo: &Repository,
    tree: TreeId,
    directory: BorrowedFd<'_>,
) -> Result<Snapshot, CheckoutError> {
    let entries = flatten(repo, tree)?;
    let odb = repo.odb()?;
    let mut writer =
        Writer { odb: &odb, directories: vec![open_directory(directory, ".")?], open: Vec::new() };
    let mut known = Vec::with_capacity(entries.len());
    for (path, entry) in entries {
        path.judge()?;
        let stat = writer.write(&path, entry)?;
        known.push(Known { path, entry, stat: Some(stat) });
    }
    Ok(Snapshot::now(tree, known))
}

/// Holds a descriptor for each directory on the way to the last file. Entries come sorted, so that each directory is
/// made once and nothing is looked up by a path.
struct Writer<'a> {
    odb: &'a Odb<'a>,
    /// One more than `open`: the first is the root.
    directories: Vec<OwnedFd>,
    open: Vec<Vec<u8>>,
}

impl Writer<'_> {
    fn write(&mut self, path: &GitPath, entry: Entry) -> Result<FileStat, CheckoutError> {
        let failed =
            |error: rustix::io::Errno| CheckoutError::Io { path: path.clone(), source: error.into() };
        let mut components = path.components().collect::<Vec<_>>();
        let name = components.pop().unwrap_or_default();
        self.enter(&components).map_err(failed)?;
        let directory = self.directories.last().ok_or_else(|| failed(rustix::io::Errno::NOENT))?;
        if entry.mode == Mode::Gitlink {
            return Err(Refusal::at(Rule::Gitlink, path, "submodules are not supported").into());
        }
        let (_, kind) = self.odb.read_header(entry.id)?;
        if kind != ObjectType::Blob {
            return Err(git2::Error::from_str("an entry of the tree is not a file's content").into());
        }
        let blob = self.odb.read(entry.id)?;
        write_entry(directory, name, entry.mode, blob.data())
            .map_err(|source| CheckoutError::Io { path: path.clone(), source })
    }

    /// Makes the directories that the last file was not in. All paths with one prefix are neighbours when sorted, so
    /// these cannot exist yet; if something does, it is not ours.
    fn enter(&mut self, path: &[&[u8]]) -> rustix::io::Result<()> {
        let common = self.open.iter().zip(path).take_while(|(open, wanted)| open == wanted).count();
        self.open.truncate(common);
        self.directories.truncate(common + 1);
        for name in &path[common..] {
            let parent = self.directories.last().ok_or(rustix::io::Errno::NOENT)?;
            mkdirat(parent, *name, Permissions::from_raw_mode(0o755))?;
            let directory = open_directory_raw(parent.as_fd(), *name)?;
            self.directories.push(directory);
            self.open.push(name.to_vec());
        }
        Ok(())
    }
}

/// Makes one new file or symlink, and says what it looks like.
pub(crate) fn write_entry(
    directory: &OwnedFd,
    name: &[u8],
    mode: Mode,
    content: &[u8],
) -> io::Result<FileStat> {
    if mode == Mode::Symlink {
        symlinkat(content, directory, name)?;
        return Ok(FileStat::of(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?));
    }
    write_file(directory.as_fd(), name, mode, content)
}

fn write_file(directory: BorrowedFd<'_>, name: &[u8], mode: Mode, content: &[u8]) -> io::Result<FileStat> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let permissions = if mode == Mode::Executable { 0o755 } else { 0o644 };
    let file = openat(directory, name, flags, Permissions::from_raw_mode(permissions))?;
    let mut left = content;
    while !left.is_empty() {
        match rustix::io::write(&file, left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => left = &left[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(FileStat::of(&rustix::fs::fstat(&file)?))
}

fn open_directory(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, CheckoutError> {
    open_directory_raw(at, name)
        .map_err(|error| CheckoutError::Io { path: GitPath::new(name.as_bytes()), source: error.into() })
}

fn open_directory_raw(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Permissions::empty())
}

/// Opens a directory of this system by its path.
///
/// # Errors
/// It is not a directory, or is a symlink, or may not be opened.
pub(crate) fn open_path(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(open_directory_raw(CWD, path)?)
}
