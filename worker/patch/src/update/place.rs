//! The work tree of an update, by descriptors. No symlink in it is followed.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    rc::Rc,
};

use git2::{ObjectType, Oid};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode as Permissions, OFlags, ResolveFlags, mkdirat, openat2, renameat,
        statat, unlinkat,
    },
    io::Errno,
};

use super::{UpdateError, journal::Operation};
use crate::{
    git_path::GitPath,
    objects::{Objects, blob_id},
    snapshot::{FileStat, Time},
    tree::{Entry, Mode},
};

pub(super) struct Place {
    root: OwnedFd,
    /// The directory that was opened last, by its path: paths come sorted, and so most are in the same as the one before.
    last: RefCell<Option<(Vec<u8>, Rc<OwnedFd>)>>,
    /// What was changed before this cannot be changed again and look the same.
    since: Time,
}

/// What was seen of a path that was as expected: if the kernel still tells the same of it, it need not be read again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(Option<FileStat>);

impl Before {
    /// Of a path that was not looked at in this life of the process.
    pub(super) const UNSEEN: Self = Self(None);

    fn still(self, parent: &OwnedFd, name: &[u8]) -> bool {
        self.0.is_some_and(|before| {
            statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| FileStat::of(&stat) == before)
        })
    }
}

/// The directory of a path.
enum Parent {
    Open(Rc<OwnedFd>),
    Missing,
    /// A file or a symlink is on the way.
    Blocked,
}

/// What is at a path.
enum Found {
    Nothing,
    Directory,
    /// With what the kernel told of it before it was read.
    Entry(Entry, FileStat),
    /// A symlink is a directory of the path, or something that git does not know is at its end.
    Blocked,
}

impl Place {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, last: RefCell::default(), since: Time::now() }
    }

    /// Opens each directory anew from here on.
    pub(super) fn look_again(&self) {
        self.last.take();
    }

    /// What is at the path, if it is what the operation expects. A new path may be where something `going` still is.
    pub(super) fn as_before(
        &self,
        operation: &Operation,
        going: &BTreeSet<GitPath>,
    ) -> Result<Option<Before>, UpdateError> {
        let path = &operation.path;
        let free = |is: bool| is.then_some(Before(None));
        Ok(match (self.found(path)?, operation.old) {
            (Found::Entry(entry, stat), Some(old)) => {
                (entry == old).then(|| Before((stat.changed < self.since).then_some(stat)))
            }
            (Found::Nothing, None) => Some(Before(None)),
            (Found::Directory, None) => free(self.holds_only(path, going)?),
            (Found::Blocked, None) => free(parents(path).any(|parent| going.contains(&GitPath::new(parent)))),
            _ => None,
        })
    }

    /// Removes a file, and the directories that it leaves empty. It may be gone already.
    pub(super) fn remove(&self, operation: &Operation, before: Before) -> Result<(), UpdateError> {
        let path = &operation.path;
        let remove = |parent: &OwnedFd| {
            unlinkat(parent, path.name(), AtFlags::empty()).map_err(|error| failed(path, error))
        };
        match self.parent(path)? {
            Parent::Open(parent) if before.still(&parent, path.name()) => remove(&parent)?,
            Parent::Open(parent) => match self.found(path)? {
                // Where it was, a new directory may be already.
                Found::Nothing | Found::Blocked | Found::Directory => {}
                Found::Entry(entry, _) if Some(entry) == operation.old => remove(&parent)?,
                Found::Entry(..) => {
                    return Err(UpdateError::NotClean { path: path.clone(), started: true });
                }
            },
            Parent::Missing | Parent::Blocked => {}
        }
        // What was opened may be removed now.
        self.look_again();
        for directory in parents(path) {
            let above = Path::new(OsStr::from_bytes(directory)).parent().unwrap_or(Path::new(""));
            let removed = self.open(above.as_os_str().as_bytes()).and_then(|above| {
                let name = directory.rsplit(|byte| *byte == b'/').next().unwrap_or(directory);
                unlinkat(&above, name, AtFlags::REMOVEDIR)
            });
            match removed {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::LOOP) => break,
                Err(error) => return Err(failed(path, error)),
            }
        }
        Ok(())
    }

    /// Renames the staged file into its place. It may be there already.
    pub(super) fn put(
        &self,
        operation: &Operation,
        before: Before,
        staged: &OwnedFd,
        number: &[u8],
    ) -> Result<(), UpdateError> {
        let path = &operation.path;
        if matches!(statat(staged, number, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
            return Ok(());
        }
        let not_clean = || UpdateError::NotClean { path: path.clone(), started: true };
        let parent = match self.parent(path)? {
            Parent::Open(open) if before.still(&open, path.name()) => open,
            Parent::Open(open) => match (self.found(path)?, operation.old) {
                (Found::Entry(entry, _), Some(old)) if entry == old => open,
                (Found::Nothing, _) => open,
                _ => return Err(not_clean()),
            },
            Parent::Missing => Rc::new(self.make(parent(path)).map_err(|error| failed(path, error))?),
            Parent::Blocked => return Err(not_clean()),
        };
        renameat(staged, number, &*parent, path.name()).map_err(|error| failed(path, error))
    }

    /// The file or symlink of this path, whose content is kept in `objects`; `None` if there is nothing.
    ///
    /// # Errors
    /// A directory is there, or a symlink is on the way.
    pub(super) fn present(
        &self,
        path: &GitPath,
        objects: &Objects<'_>,
    ) -> Result<Option<Entry>, UpdateError> {
        match self.look(path, |content| objects.write(ObjectType::Blob, content))? {
            Found::Entry(entry, _) => Ok(Some(entry)),
            Found::Nothing => Ok(None),
            Found::Directory | Found::Blocked => {
                Err(UpdateError::NotClean { path: path.clone(), started: false })
            }
        }
    }

    fn found(&self, path: &GitPath) -> Result<Found, UpdateError> {
        self.look(path, blob_id)
    }

    fn look(
        &self,
        path: &GitPath,
        id: impl FnOnce(&[u8]) -> Result<Oid, git2::Error>,
    ) -> Result<Found, UpdateError> {
        let parent = match self.parent(path)? {
            Parent::Open(parent) => parent,
            Parent::Missing => return Ok(Found::Nothing),
            Parent::Blocked => return Ok(Found::Blocked),
        };
        let stat = match statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(failed(path, error)),
        };
        let io_failed = |source| UpdateError::Io { path: path.clone(), source };
        let (mode, content) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(Found::Directory),
            FileType::Symlink => (
                Mode::Symlink,
                Some(crate::capture::read_symlink(parent.as_fd(), path.name()).map_err(io_failed)?),
            ),
            FileType::RegularFile => {
                let mode = if stat.st_mode & 0o100 != 0 { Mode::Executable } else { Mode::File };
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                (mode, crate::capture::read_file(parent.as_fd(), path.name(), size).map_err(io_failed)?)
            }
            _ => return Ok(Found::Blocked),
        };
        let Some(content) = content else { return Ok(Found::Blocked) };
        Ok(Found::Entry(Entry { mode, id: id(&content)? }, FileStat::of(&stat)))
    }

    fn parent(&self, path: &GitPath) -> Result<Parent, UpdateError> {
        let name = parent(path);
        if let Some((last, open)) = &*self.last.borrow()
            && last == name
        {
            return Ok(Parent::Open(Rc::clone(open)));
        }
        match self.open(name).map(Rc::new) {
            Ok(parent) => {
                self.last.replace(Some((name.to_vec(), Rc::clone(&parent))));
                Ok(Parent::Open(parent))
            }
            Err(Errno::NOENT) => Ok(Parent::Missing),
            Err(Errno::LOOP | Errno::NOTDIR) => Ok(Parent::Blocked),
            Err(error) => Err(failed(path, error)),
        }
    }

    /// Whether a directory holds nothing but what is going, so that it will be gone as well.
    fn holds_only(&self, path: &GitPath, going: &BTreeSet<GitPath>) -> Result<bool, UpdateError> {
        let mut pending = vec![path.as_bytes().to_vec()];
        while let Some(directory) = pending.pop() {
            if !has_below(going, &directory) {
                // It was empty before: a directory that nobody would remove.
                return Ok(false);
            }
            let open = self.open(&directory).map_err(|error| failed(path, error))?;
            let mut entries = Dir::read_from(&open).map_err(|error| failed(path, error))?;
            while let Some(entry) = entries.read() {
                let entry = entry.map_err(|error| failed(path, error))?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let below = [&directory[..], b"/", name].concat();
                let stat =
                    statat(&open, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed(path, error))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    pending.push(below);
                } else if !going.contains(&GitPath::new(&below)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn open(&self, directory: &[u8]) -> rustix::io::Result<OwnedFd> {
        let directory = if directory.is_empty() { b"." } else { directory };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, directory, flags, Permissions::empty(), resolve)
    }

    /// Opens a directory, and makes it and those above it where they do not exist.
    fn make(&self, directory: &[u8]) -> rustix::io::Result<OwnedFd> {
        let slashes = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let ends = slashes.chain((!directory.is_empty()).then_some(directory.len()));
        let mut open = self.open(b"")?;
        for end in ends {
            let name = directory[..end].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            match mkdirat(&open, name, Permissions::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            open = self.open(&directory[..end])?;
        }
        Ok(open)
    }
}

/// Whether one of `paths` is below `path`, or `path` below one of them.
pub(super) fn has_nested(paths: &BTreeSet<GitPath>, path: &GitPath) -> bool {
    has_below(paths, path.as_bytes()) || parents(path).any(|parent| paths.contains(&GitPath::new(parent)))
}

fn has_below(paths: &BTreeSet<GitPath>, directory: &[u8]) -> bool {
    let prefix = GitPath::new(&[directory, b"/"].concat());
    let next = paths.range(&prefix..).next();
    next.is_some_and(|next| next.as_bytes().starts_with(prefix.as_bytes()))
}

fn parent(path: &GitPath) -> &[u8] {
    parents(path).next().unwrap_or_default()
}

/// The directories of a path, the nearest first.
fn parents(path: &GitPath) -> impl Iterator<Item = &[u8]> {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &bytes[..at])
}

fn failed(path: &GitPath, error: Errno) -> UpdateError {
    UpdateError::Io { path: path.clone(), source: io::Error::from(error) }
}
