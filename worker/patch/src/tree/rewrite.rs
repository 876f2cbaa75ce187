//! Makes a tree from another and a set of changes. Only the directories that change are read and written.

use std::collections::BTreeMap;

use git2::{ObjectType, Oid};

use super::{Entry, Mode, TreeId};
use crate::{git_path::GitPath, objects::Objects};

/// What each path becomes; `None` removes it.
pub(crate) type Changes = BTreeMap<GitPath, Option<Entry>>;

/// The changes do not fit the tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewriteError {
    /// A path cannot be written: a file is where it needs a directory, or a directory is where it is.
    #[error("{path} is in the way")]
    Conflict { path: GitPath, mode: Option<Mode> },
    #[error(transparent)]
    Git(#[from] git2::Error),
}

/// Applies `changes` to `base`, as if all removals came first. Directories that become empty go.
pub(crate) fn rewrite(
    objects: &Objects<'_>,
    base: TreeId,
    changes: &Changes,
) -> Result<TreeId, RewriteError> {
    let mut root = Node::default();
    for (path, change) in changes {
        let mut node = &mut root;
        for component in path.components() {
            node = node.children.entry(component).or_default();
        }
        node.change = Some(*change);
    }
    let tree = write(objects, Some(base.oid()), &root, &mut Vec::new())?;
    Ok(tree.map_or_else(TreeId::empty, TreeId::new))
}

/// A directory of changes. Paths were judged before, so its depth is bounded.
#[derive(Default)]
struct Node<'a> {
    change: Option<Option<Entry>>,
    children: BTreeMap<&'a [u8], Self>,
}

struct Raw {
    mode: u32,
    id: Oid,
}

const DIRECTORY: u32 = 0o040_000;

fn write(
    objects: &Objects<'_>,
    base: Option<Oid>,
    node: &Node<'_>,
    path: &mut Vec<u8>,
) -> Result<Option<Oid>, RewriteError> {
    let mut entries = BTreeMap::new();
    if let Some(base) = base {
        for entry in &objects.repo().find_tree(base)? {
            let mode = u32::try_from(entry.filemode_raw()).unwrap_or_default();
            entries.insert(entry.name_bytes().to_vec(), Raw { mode, id: entry.id() });
        }
    }
    for (&name, child) in &node.children {
        let parent = path.len();
        path.extend_from_slice(name);
        match written(objects, entries.remove(name), child, path)? {
            Some(raw) => entries.insert(name.to_vec(), raw),
            None => None,
        };
        path.truncate(parent);
    }
    if entries.is_empty() { Ok(None) } else { Ok(Some(objects.write(ObjectType::Tree, &encode(&entries))?)) }
}

/// What one name of a directory becomes.
fn written(
    objects: &Objects<'_>,
    old: Option<Raw>,
    node: &Node<'_>,
    path: &mut Vec<u8>,
) -> Result<Option<Raw>, RewriteError> {
    let directory = old.as_ref().filter(|raw| raw.mode == DIRECTORY).map(|raw| raw.id);
    let below = if node.children.is_empty() {
        directory
    } else {
        path.push(b'/');
        write(objects, directory, node, path)?
    };
    let mut here = old.filter(|raw| raw.mode != DIRECTORY);
    if let Some(change) = node.change {
        here = change.map(|entry| Raw { mode: entry.mode.raw(), id: entry.id });
    }
    match (here, below) {
        (here, None) => Ok(here),
        (None, Some(id)) => Ok(Some(Raw { mode: DIRECTORY, id })),
        (Some(raw), Some(_)) => {
            let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
            let mode = i32::try_from(raw.mode).ok().and_then(Mode::from_raw);
            let mode = if node.change.is_some() { None } else { mode };
            Err(RewriteError::Conflict { path: GitPath::new(&path[..end]), mode })
        }
    }
}

/// A tree object: entries sorted as if a directory's name ended in a slash.
fn encode(entries: &BTreeMap<Vec<u8>, Raw>) -> Vec<u8> {
    let mut sorted = entries.iter().collect::<Vec<_>>();
    sorted.sort_by_cached_key(|(name, raw)| {
        let mut key = name.to_vec();
        if raw.mode == DIRECTORY {
            key.push(b'/');
        }
        key
    });
    let mut out = Vec::new();
    for (name, raw) in sorted {
        out.extend_from_slice(format!("{:o} ", raw.mode).as_bytes());
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(raw.id.as_bytes());
    }
    out
}
