//! Trees: what an entry is, how one is found, and the id that names a whole tree.

use std::{fmt, str::FromStr};

use git2::{ErrorCode, ObjectType, Oid, Repository};

use crate::git_path::GitPath;

mod diff;
mod rewrite;

pub(crate) use diff::{Difference, diff, flatten};
pub(crate) use rewrite::{Changes, RewriteError, rewrite};

/// The id of a tree. Two trees with the same id are the same, byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeId(Oid);

impl TreeId {
    /// The tree with this object id.
    #[must_use]
    pub fn new(id: Oid) -> Self {
        Self(id)
    }

    /// The tree without entries. Every object store has it, stored or not.
    #[must_use]
    pub fn empty() -> Self {
        Self(Oid::from_str("4b825dc642cb6eb9a060e54bf8d69288fbee4904").expect("a constant id is well formed"))
    }

    /// Its object id.
    #[must_use]
    pub fn oid(self) -> Oid {
        self.0
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TreeId {
    type Err = git2::Error;

    /// All 40 hexadecimal digits, nothing abbreviated.
    fn from_str(hex: &str) -> Result<Self, git2::Error> {
        if hex.len() != 40 {
            return Err(git2::Error::from_str("a tree id has 40 hexadecimal digits"));
        }
        Oid::from_str(hex).map(Self)
    }
}

/// What an entry is: the four modes that git writes for anything but a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    File,
    Executable,
    Symlink,
    Gitlink,
}

impl Mode {
    /// A mode as a patch's header spells it. Anything else, setuid bits too, is `None`.
    pub(crate) fn from_octal(text: &[u8]) -> Option<Self> {
        match text {
            b"100644" => Some(Self::File),
            b"100755" => Some(Self::Executable),
            b"120000" => Some(Self::Symlink),
            b"160000" => Some(Self::Gitlink),
            _ => None,
        }
    }

    /// A mode as a tree holds it. Old trees hold group-writable files; those count as plain files.
    pub(crate) fn from_raw(raw: i32) -> Option<Self> {
        match raw & 0o170_000 {
            0o100_000 if raw & 0o100 != 0 => Some(Self::Executable),
            0o100_000 => Some(Self::File),
            0o120_000 => Some(Self::Symlink),
            0o160_000 => Some(Self::Gitlink),
            _ => None,
        }
    }

    pub(crate) fn raw(self) -> u32 {
        match self {
            Self::File => 0o100_644,
            Self::Executable => 0o100_755,
            Self::Symlink => 0o120_000,
            Self::Gitlink => 0o160_000,
        }
    }

    pub(crate) fn is_regular(self) -> bool {
        matches!(self, Self::File | Self::Executable)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06o}", self.raw())
    }
}

/// One file, symlink or gitlink of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: Mode,
    pub(crate) id: Oid,
}

/// What is at a path of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Entry(Entry),
    Directory(Oid),
    Nothing,
    /// Nothing, because this much of the path (in components) is a file or symlink.
    Beneath(usize, Mode),
}

/// Looks a path up without following symlinks.
pub(crate) fn find(repo: &Repository, tree: TreeId, path: &GitPath) -> Result<Found, git2::Error> {
    let mut directory = tree.oid();
    let mut components = path.components().enumerate().peekable();
    while let Some((depth, name)) = components.next() {
        let tree = repo.find_tree(directory)?;
        let Some(entry) = tree.get_name_bytes(name) else { return Ok(Found::Nothing) };
        if entry.kind() == Some(ObjectType::Tree) {
            directory = entry.id();
            continue;
        }
        let mode = Mode::from_raw(entry.filemode_raw()).ok_or_else(|| unknown_mode(path))?;
        return Ok(match components.peek() {
            Some(_) => Found::Beneath(depth + 1, mode),
            None => Found::Entry(Entry { mode, id: entry.id() }),
        });
    }
    Ok(Found::Directory(directory))
}

fn unknown_mode(path: &GitPath) -> git2::Error {
    git2::Error::new(
        ErrorCode::Invalid,
        git2::ErrorClass::Tree,
        format!("the tree has an unknown mode at {path}"),
    )
}
