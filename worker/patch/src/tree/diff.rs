//! What differs between two trees, and everything that is in one.

use std::collections::BTreeMap;

use git2::{ErrorClass, ErrorCode, ObjectType, Oid, Repository};

use super::{Entry, Mode, TreeId, unknown_mode};
use crate::git_path::{GitPath, MAX_PATH};

/// The most differences, or entries, that are held at once: a few small tree objects can describe billions.
const MAX_ENTRIES: usize = 2_000_000;

/// One path whose entry differs. A file that became a directory is a deletion, and creations beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) path: GitPath,
    pub(crate) old: Option<Entry>,
    pub(crate) new: Option<Entry>,
}

/// The differences from `old` to `new`, sorted by path. Equal subtrees are not read.
pub(crate) fn diff(repo: &Repository, old: TreeId, new: TreeId) -> Result<Vec<Difference>, git2::Error> {
    let mut found = Vec::new();
    let mut pending = Vec::new();
    if old != new {
        pending.push((Vec::new(), Some(old.oid()), Some(new.oid())));
    }
    while let Some((prefix, old, new)) = pending.pop() {
        let mut pairs = BTreeMap::<Vec<u8>, [Option<Node>; 2]>::new();
        for (side, directory) in [old, new].into_iter().enumerate() {
            let Some(directory) = directory else { continue };
            for entry in &repo.find_tree(directory)? {
                pairs.entry(entry.name_bytes().to_vec()).or_default()[side] =
                    Some(Node::of(&entry, &prefix)?);
            }
        }
        for (name, [old, new]) in pairs {
            if old == new {
                continue;
            }
            let path = join(&prefix, &name)?;
            let directories = [old, new].map(|node| node.and_then(Node::directory));
            if directories != [None, None] {
                pending.push(([&path[..], b"/"].concat(), directories[0], directories[1]));
            }
            let (old, new) = (old.and_then(Node::entry), new.and_then(Node::entry));
            if old != new {
                found.push(Difference { path: GitPath::new(&path), old, new });
            }
        }
        if found.len() + pending.len() > MAX_ENTRIES {
            return Err(too_many());
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Every entry of a tree, sorted by path.
pub(crate) fn flatten(repo: &Repository, tree: TreeId) -> Result<Vec<(GitPath, Entry)>, git2::Error> {
    let differences = diff(repo, TreeId::empty(), tree)?;
    Ok(differences.into_iter().filter_map(|change| Some((change.path, change.new?))).collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory(Oid),
    Entry(Entry),
}

impl Node {
    fn of(entry: &git2::TreeEntry<'_>, prefix: &[u8]) -> Result<Self, git2::Error> {
        let id = entry.id();
        if entry.kind() == Some(ObjectType::Tree) {
            return Ok(Self::Directory(id));
        }
        let mode = Mode::from_raw(entry.filemode_raw());
        let mode = mode.ok_or_else(|| unknown_mode(&GitPath::new(&[prefix, entry.name_bytes()].concat())))?;
        Ok(Self::Entry(Entry { mode, id }))
    }

    fn directory(self) -> Option<Oid> {
        match self {
            Self::Directory(id) => Some(id),
            Self::Entry(_) => None,
        }
    }

    fn entry(self) -> Option<Entry> {
        match self {
            Self::Directory(_) => None,
            Self::Entry(entry) => Some(entry),
        }
    }
}

fn join(prefix: &[u8], name: &[u8]) -> Result<Vec<u8>, git2::Error> {
    let path = [prefix, name].concat();
    if path.len() >= MAX_PATH {
        return Err(invalid("the tree has a path of more than 4095 bytes"));
    }
    Ok(path)
}

fn too_many() -> git2::Error {
    invalid("the tree has more than 2,000,000 entries")
}

fn invalid(message: &str) -> git2::Error {
    git2::Error::new(ErrorCode::Invalid, ErrorClass::Tree, message)
}
