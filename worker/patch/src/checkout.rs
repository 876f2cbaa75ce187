//! Writes a tree as files, byte for byte: no filters, no attributes, no hooks, and nothing that follows a symlink.
//!
//! A checkout goes to a new directory that nobody else can see yet. [`Stage`] makes one beside the destination and
//! renames it into place, so that a crash at any instruction leaves either no workspace or a whole one.

use std::{
    io,
    num::NonZero,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use git2::{ObjectType, Odb, Repository};
use rustix::{
    fs::{AtFlags, CWD, Mode as Permissions, OFlags, mkdirat, openat, statat, symlinkat},
    io::Errno,
};

use crate::{
    git_path::GitPath,
    objects::blob_id,
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

/// Writers at once, where there are as many processors: reading objects is most of the work.
const MAX_WRITERS: usize = 4;
/// Files that a writer takes at once.
const PART: usize = 64;

/// Writes `tree` into `directory`, which must be empty and out of everyone else's reach, and says what was written.
///
/// # Errors
/// [`CheckoutError`]. What was written so far stays; the directory is then of no use. A tree that is refused leaves it empty.
pub fn checkout(
    repo: &Repository,
    tree: TreeId,
    directory: BorrowedFd<'_>,
) -> Result<Snapshot, CheckoutError> {
    let entries = flatten(repo, tree)?;
    for (path, entry) in &entries {
        path.judge()?;
        if entry.mode == Mode::Gitlink {
            return Err(Refusal::at(Rule::Gitlink, path, "submodules are not supported").into());
        }
    }
    let mut directories = Directories::new(directory)?;
    for (path, _) in &entries {
        directories.enter(path, true)?;
    }
    let _held = Held::here();
    let (shared, place) = (repo.odb()?, repo.path());
    let (parts, next) = (entries.chunks(PART).collect::<Vec<_>>(), AtomicUsize::new(0));
    let write = |own: Option<&Odb<'_>>| -> Result<Vec<Known>, CheckoutError> {
        let mut writer = Writer { shared: &shared, own, directories: Directories::new(directory)? };
        let mut known = Vec::new();
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            for (path, entry) in *part {
                let stat =
                    writer.write(path, *entry).inspect_err(|_| next.store(parts.len(), Ordering::Relaxed))?;
                known.push(Known { path: path.clone(), entry: *entry, stat: Some(stat) });
            }
        }
        Ok(known)
    };
    let writers = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_WRITERS).min(parts.len());
    let known = thread::scope(|scope| {
        // One handle reads one object at a time, so that each writer has its own.
        let other = || {
            let repo = Repository::open_bare(place).ok();
            let own = repo.as_ref().and_then(|repo| repo.odb().ok());
            write(own.as_ref())
        };
        // Where there is room for no other thread, this one does all.
        let others = (1..writers).filter_map(|_| thread::Builder::new().spawn_scoped(scope, other).ok());
        let others = others.collect::<Vec<_>>();
        let mut known = write(None)?;
        for other in others {
            known.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok::<_, CheckoutError>(known)
    })?;
    Ok(Snapshot::now(tree, known))
}

/// While there is one, libgit2 does not hold what it reads to its id. It does so with a SHA-1 that looks for collisions, as
/// it must where objects come from elsewhere; here they come from our own store, and are held to their ids without that.
struct Held;

impl Held {
    fn here() -> Self {
        git2::opts::strict_hash_verification(false);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // As it is unless somebody changes it.
        git2::opts::strict_hash_verification(true);
    }
}

/// Writes files to directories that are there already.
struct Writer<'a> {
    /// Also has what is only in the memory of the caller's handle.
    shared: &'a Odb<'a>,
    own: Option<&'a Odb<'a>>,
    directories: Directories,
}

impl Writer<'_> {
    fn write(&mut self, path: &GitPath, entry: Entry) -> Result<FileStat, CheckoutError> {
        let directory = self.directories.enter(path, false)?;
        let own = self.own.and_then(|own| own.read(entry.id).ok());
        let blob = own.map_or_else(|| self.shared.read(entry.id), Ok)?;
        if blob.kind() != ObjectType::Blob {
            return Err(git2::Error::from_str("an entry of the tree is not a file's content").into());
        }
        if blob_id(blob.data())? != entry.id {
            return Err(git2::Error::from_str("a file's content is not what its id says").into());
        }
        write_entry(directory, path.name(), entry.mode, blob.data())
            .map_err(|source| CheckoutError::Io { path: path.clone(), source })
    }
}

/// Holds a descriptor for each directory on the way to the last file. Entries come sorted, so that each directory is
/// opened once and nothing is looked up by a path.
struct Directories {
    /// One more than `open`: the first is the root.
    descriptors: Vec<OwnedFd>,
    open: Vec<Vec<u8>>,
}

impl Directories {
    fn new(root: BorrowedFd<'_>) -> Result<Self, CheckoutError> {
        let root = open_directory(root, ".").map_err(|error| io_error(&GitPath::new(b"."), error))?;
        Ok(Self { descriptors: vec![root], open: Vec::new() })
    }

    /// The directory of a file. With `make`, those that the last file was not in are made: all paths with one prefix are
    /// neighbours when sorted, so these cannot exist yet; if something does, it is not ours.
    fn enter(&mut self, path: &GitPath, make: bool) -> Result<&OwnedFd, CheckoutError> {
        let failed = |error| io_error(path, error);
        let wanted = path.components().collect::<Vec<_>>();
        let wanted = &wanted[..wanted.len().saturating_sub(1)];
        let common = self.open.iter().zip(wanted).take_while(|(open, wanted)| open == *wanted).count();
        self.open.truncate(common);
        self.descriptors.truncate(common + 1);
        for name in &wanted[common..] {
            let parent = self.descriptors.last().ok_or_else(|| failed(Errno::NOENT))?;
            if make {
                mkdirat(parent, *name, Permissions::from_raw_mode(0o755)).map_err(failed)?;
            }
            let directory = open_directory(parent.as_fd(), *name).map_err(failed)?;
            self.descriptors.push(directory);
            self.open.push(name.to_vec());
        }
        self.descriptors.last().ok_or_else(|| failed(Errno::NOENT))
    }
}

fn io_error(path: &GitPath, error: Errno) -> CheckoutError {
    CheckoutError::Io { path: path.clone(), source: error.into() }
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

fn open_directory(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Permissions::empty())
}

/// Opens a directory of this system by its path.
///
/// # Errors
/// It is not a directory, or is a symlink, or may not be opened.
pub(crate) fn open_path(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(open_directory(CWD, path)?)
}
