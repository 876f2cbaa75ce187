//! Files that the Baseline does not have: which of them count. Only a workspace that has some pays for the answer.

use std::{cell::OnceCell, collections::HashSet};

use git2::Repository;

use super::Ignored;
use crate::{ignore::IgnoreRules, snapshot::Snapshot};

pub(super) struct Untracked<'a> {
    snapshot: &'a Snapshot,
    policy: Ignored,
    open: &'a dyn Fn() -> Result<Repository, git2::Error>,
    /// Directories that hold tracked files, with a slash at the end.
    tracked: OnceCell<HashSet<&'a [u8]>>,
    rules: OnceCell<IgnoreRules>,
}

/// A directory, with a slash at the end, and, once that was asked, whether it is ignored as a whole.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) prefix: Vec<u8>,
    ignored: OnceCell<bool>,
}

impl Directory {
    pub(super) fn new(prefix: Vec<u8>) -> Self {
        Self { prefix, ignored: OnceCell::new() }
    }
}

impl<'a> Untracked<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        policy: Ignored,
        open: &'a dyn Fn() -> Result<Repository, git2::Error>,
    ) -> Self {
        Self { snapshot, policy, open, tracked: OnceCell::new(), rules: OnceCell::new() }
    }

    /// Whether a directory, given with a slash at the end, holds tracked files.
    pub(super) fn is_tracked(&self, directory: &[u8]) -> bool {
        let directories = || {
            let mut tracked = HashSet::new();
            for known in self.snapshot.files() {
                let path = known.path.as_bytes();
                let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
                for (at, _) in slashes {
                    // Once a directory is there, those above it are as well.
                    if !tracked.insert(&path[..=at]) {
                        break;
                    }
                }
            }
            tracked
        };
        self.tracked.get_or_init(directories).contains(directory)
    }

    /// Whether an untracked file, or a directory without tracked files, stays out of the patch.
    pub(super) fn is_ignored(
        &self,
        parent: &Directory,
        path: &[u8],
        is_directory: bool,
    ) -> Result<bool, git2::Error> {
        if self.policy == Ignored::Include {
            return Ok(false);
        }
        let rules = self.rules()?;
        let parent_ignored = parent.ignored.get_or_init(|| {
            let slashes = parent.prefix.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            slashes.into_iter().any(|(at, _)| rules.is_ignored(&parent.prefix[..at], true))
        });
        Ok(*parent_ignored || rules.is_ignored(path, is_directory))
    }

    fn rules(&self) -> Result<&IgnoreRules, git2::Error> {
        if let Some(rules) = self.rules.get() {
            return Ok(rules);
        }
        let files = self.snapshot.files().iter().filter(|known| {
            let name = known.path.as_bytes().rsplit(|byte| *byte == b'/').next();
            name == Some(b".gitignore") && known.entry.mode.is_regular()
        });
        let mut files = files.peekable();
        let mut contents = Vec::new();
        if files.peek().is_some() {
            let repo = (self.open)()?;
            for known in files {
                contents.push((known.path.clone(), repo.find_blob(known.entry.id)?.content().to_vec()));
            }
        }
        Ok(self.rules.get_or_init(|| IgnoreRules::new(contents)))
    }
}
