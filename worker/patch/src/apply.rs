//! Applies one parsed patch to a tree, in memory, and gives the tree that results.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectType, Oid};

use crate::{
    check::CheckError,
    git_path::GitPath,
    objects::Objects,
    parse::{Action, Body, FileChange, Message, Parsed},
    rule::{Refusal, Rule},
    tree::{Changes, Entry, Found, Mode, RewriteError, TreeId, find, rewrite},
};

mod binary;
mod text;

/// What a whole stack may still cost.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes of resulting files.
    left: u64,
    /// Bytes that are passed over and compared to find where hunks belong: some seconds of work, which no change that a
    /// person made comes near.
    search: u64,
}

const SEARCH: u64 = 16 << 30;

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { left: bytes, search: SEARCH }
    }

    fn left(&self) -> u64 {
        self.left
    }

    fn spend(&mut self, bytes: usize, path: &GitPath) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes as u64).ok_or_else(|| too_large(path))?;
        Ok(())
    }
}

fn too_large(path: &GitPath) -> Refusal {
    Refusal::at(
        Rule::TooLarge,
        path,
        "the files that the stack makes or reads exceed the limit of expanded bytes",
    )
}

fn does_not_apply(path: &GitPath, message: impl Into<String>) -> Refusal {
    Refusal::at(Rule::DoesNotApply, path, message)
}

/// Applies every message of a patch in turn.
pub(crate) fn apply(
    objects: &Objects<'_>,
    base: TreeId,
    patch: &Parsed<'_>,
    budget: &mut Budget,
) -> Result<TreeId, CheckError> {
    patch.messages().iter().try_fold(base, |tree, message| {
        let mut application =
            Application { objects, tree, budget, gone: BTreeSet::new(), made: BTreeMap::new() };
        for change in message {
            application.one(change)?;
        }
        application.finish(message)
    })
}

/// One message: every change reads `tree`, and all of them together make the next one.
struct Application<'a, 'r> {
    objects: &'a Objects<'r>,
    tree: TreeId,
    budget: &'a mut Budget,
    /// Paths whose old entry is removed or replaced.
    gone: BTreeSet<GitPath>,
    made: BTreeMap<GitPath, Entry>,
}

impl Application<'_, '_> {
    fn one(&mut self, change: &FileChange<'_>) -> Result<(), CheckError> {
        let old = match change.action.paths().0 {
            Some(path) => Some(self.expected(path, change)?),
            None => None,
        };
        let keeps = matches!(change.action, Action::Copy { .. } | Action::Create(_));
        if let (Some(path), false) = (change.action.paths().0, keeps)
            && !self.gone.insert(path.clone())
        {
            return Err(Refusal::at(Rule::Malformed, path, "the patch changes this file twice").into());
        }
        let id = self.content(change, old)?;
        if let Some(path) = change.action.paths().1 {
            let mode = change.new_mode.or(old.map(|old| old.mode)).unwrap_or(Mode::File);
            refuse_gitlink(path, mode)?;
            if self.made.insert(path.clone(), Entry { mode, id }).is_some() {
                return Err(Refusal::at(Rule::Malformed, path, "the patch makes this file twice").into());
            }
        }
        Ok(())
    }

    /// The entry that the change reads, which must be what the patch says it is.
    fn expected(&self, path: &GitPath, change: &FileChange<'_>) -> Result<Entry, CheckError> {
        let entry = match find(self.objects.repo(), self.tree, path)? {
            Found::Entry(entry) => entry,
            Found::Directory(_) => return Err(does_not_apply(path, "it is a directory in the tree").into()),
            Found::Beneath(_, Mode::Symlink) => return Err(beneath_symlink(path).into()),
            Found::Beneath(..) | Found::Nothing => {
                return Err(does_not_apply(path, "there is no such file in the tree").into());
            }
        };
        refuse_gitlink(path, entry.mode)?;
        match change.old_mode {
            Some(mode) if mode != entry.mode => {
                let message = format!("its mode is {}, and the patch expects {mode}", entry.mode);
                Err(does_not_apply(path, message).into())
            }
            _ if change.new_mode.is_some_and(|new| new.is_regular() != entry.mode.is_regular()) => {
                let message = "a file and a symlink cannot become each other by a change of mode";
                Err(Refusal::at(Rule::Malformed, path, message).into())
            }
            _ => Ok(entry),
        }
    }

    /// The id of the resulting content. Where the patch names whole ids, before and after must be what it says.
    fn content(&mut self, change: &FileChange<'_>, old: Option<Entry>) -> Result<Oid, CheckError> {
        let path = change.action.path();
        let deletes = matches!(change.action, Action::Delete(_));
        let before = match (&change.body, old) {
            (Body::None, Some(old)) if !deletes => return Ok(old.id),
            (_, Some(old)) => {
                self.objects.blob(old.id, self.budget.left())?.ok_or_else(|| too_large(path))?
            }
            (_, None) => Vec::new(),
        };
        let after = self.after(change, old, &before)?;
        if deletes {
            return match (&change.body, before.is_empty(), after.is_empty()) {
                (Body::None, true, _) | (Body::Text(_) | Body::Binary(_), _, true) => Ok(Oid::ZERO_SHA1),
                _ => Err(does_not_apply(path, "it has content that the patch does not delete").into()),
            };
        }
        self.budget.spend(after.len(), path)?;
        let id = self.objects.write(ObjectType::Blob, &after)?;
        let (old_id, new_id) = change.whole_ids();
        let same_start = old_id.is_none_or(|named| old.is_none_or(|old| old.id == named));
        if same_start && new_id.is_some_and(|named| named != id) {
            let message = format!("the result is {id}, not the content that the patch names");
            return Err(Refusal::at(Rule::Malformed, path, message).into());
        }
        Ok(id)
    }

    /// The resulting content itself.
    fn after(
        &mut self,
        change: &FileChange<'_>,
        old: Option<Entry>,
        before: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let path = change.action.path();
        match &change.body {
            Body::None => Ok(Vec::new()),
            Body::Text(hunks) => {
                let most = self.budget.left();
                text::apply(before, hunks, most, &mut self.budget.search).map_err(|error| match error {
                    text::TextError::TooLarge => too_large(path),
                    text::TextError::TooAlike => {
                        let message =
                            "its lines are so alike that finding where the hunks belong takes too long";
                        Refusal::at(Rule::TooLarge, path, message)
                    }
                    text::TextError::Mismatch(line) => {
                        does_not_apply(path, format!("the hunk at line {line} does not match the file"))
                    }
                })
            }
            Body::Binary(binary) => {
                let (Some(old_id), Some(_)) = change.whole_ids() else {
                    let message =
                        "a binary change needs whole content ids; use `git diff --binary --full-index`";
                    return Err(Refusal::at(Rule::Malformed, path, message));
                };
                if old.is_some_and(|old| old.id != old_id) {
                    return Err(does_not_apply(
                        path,
                        "its content is not what the binary change starts from",
                    ));
                }
                binary::apply(before, binary, self.budget.left(), path)
            }
        }
    }

    fn finish(self, message: &Message<'_>) -> Result<TreeId, CheckError> {
        for change in message {
            if let Action::Create(path) | Action::Rename { to: path, .. } | Action::Copy { to: path, .. } =
                &change.action
            {
                self.is_free(path)?;
            }
        }
        let mut changes = self.gone.into_iter().map(|path| (path, None)).collect::<Changes>();
        changes.extend(self.made.into_iter().map(|(path, entry)| (path, Some(entry))));
        rewrite(self.objects, self.tree, &changes).map_err(|error| match error {
            RewriteError::Conflict { path, mode: Some(Mode::Symlink) } => beneath_symlink(&path).into(),
            RewriteError::Conflict { path, .. } => {
                does_not_apply(&path, "a file and a directory would have the same path").into()
            }
            RewriteError::Git(error) => error.into(),
        })
    }

    /// A new path must not exist in the tree, unless the same message removes what is there.
    fn is_free(&self, path: &GitPath) -> Result<(), CheckError> {
        match find(self.objects.repo(), self.tree, path)? {
            Found::Entry(_) if !self.gone.contains(path) => {
                Err(does_not_apply(path, "it already exists in the tree").into())
            }
            Found::Beneath(depth, Mode::Symlink) => {
                let link = path.components().take(depth).collect::<Vec<_>>().join(&b"/"[..]);
                if self.gone.contains(&GitPath::new(&link)) {
                    Ok(())
                } else {
                    Err(beneath_symlink(path).into())
                }
            }
            _ => Ok(()),
        }
    }
}

fn beneath_symlink(path: &GitPath) -> Refusal {
    Refusal::at(Rule::BeneathSymlink, path, "a directory of this path is a symlink in the tree")
}

fn refuse_gitlink(path: &GitPath, mode: Mode) -> Result<(), Refusal> {
    if mode == Mode::Gitlink {
        return Err(Refusal::at(
            Rule::Gitlink,
            path,
            "submodules cannot be made, changed or removed by a patch",
        ));
    }
    Ok(())
}
