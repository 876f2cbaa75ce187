//! Checks a whole stack of patches against a tree, in memory, and gives the tree that results.

use git2::{Oid, Repository};

use crate::{
    apply::{Budget, apply},
    limits::Limits,
    objects::{self, Objects},
    parse::Parsed,
    policy::{PathPolicy, links},
    rule::{Refusal, Rule, RuleKind},
    tree::{self, TreeId},
};

/// A stack that applies as a whole.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The tree after the last patch.
    pub tree: TreeId,
    /// What each patch did, in order.
    pub per_patch: Vec<Applied>,
    /// What [`Enforce::AlwaysOnly`] let pass: rules of the policy that the stack breaks.
    pub warnings: Vec<Refusal>,
    new_objects: Vec<Oid>,
}

impl Checked {
    /// Writes the resulting blobs and trees to the repository's files, as one pack. Until then they are only in the
    /// memory of the handle that was given to [`check`]. Where they are many its configuration is told to pack without deltas.
    ///
    /// # Errors
    /// The repository cannot be written.
    pub fn persist(&self, repo: &Repository) -> Result<(), git2::Error> {
        objects::persist(repo, &self.new_objects)
    }
}

/// What one patch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The tree after it.
    pub tree: TreeId,
    /// Changed files; a rename is one.
    pub files: u32,
    /// Added lines of text.
    pub insertions: u64,
    /// Removed lines of text.
    pub deletions: u64,
}

/// Which rules refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforce {
    /// All of them: what a Runtime does.
    #[default]
    All,
    /// Those that no policy can lift, and the limits; the others become warnings. For a person's own repository.
    AlwaysOnly,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The stack broke a rule.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The object store failed: our fault, not the patch's.
    #[error("the object store cannot be used")]
    Store(#[from] git2::Error),
}

/// Applies `stack` to `base` in memory and judges every entry that differs, after each patch. Nothing is written: the
/// new objects are in the memory of `repo`'s handle. Hooks, filters and attributes play no part.
///
/// # Errors
/// [`CheckError::Refused`] names patch, file and rule.
pub fn check(
    repo: &Repository,
    base: TreeId,
    stack: &[Parsed<'_>],
    policy: &PathPolicy,
    enforce: Enforce,
    limits: &Limits,
) -> Result<Checked, CheckError> {
    if stack.len() > limits.max_patches as usize {
        let message = format!("the stack has {} patches; the limit is {}", stack.len(), limits.max_patches);
        return Err(Refusal::new(Rule::TooManyPatches, message).in_patch(limits.max_patches as usize).into());
    }
    let objects = Objects::new(repo)?;
    let mut budget = Budget::new(limits.max_expanded_bytes);
    let mut checked =
        Checked { tree: base, per_patch: Vec::new(), warnings: Vec::new(), new_objects: Vec::new() };
    for (index, patch) in stack.iter().enumerate() {
        let placed = |error| match error {
            CheckError::Refused(refusal) => CheckError::Refused(refusal.in_patch(index)),
            store => store,
        };
        let after = apply(&objects, checked.tree, patch, &mut budget).map_err(placed)?;
        let warnings = judge(repo, checked.tree, after, policy, enforce).map_err(placed)?;
        checked.warnings.extend(warnings.into_iter().map(|warning| warning.in_patch(index)));
        checked.tree = after;
        checked.per_patch.push(Applied {
            tree: after,
            files: patch.files(),
            insertions: patch.insertions(),
            deletions: patch.deletions(),
        });
    }
    checked.new_objects = objects.into_written();
    Ok(checked)
}

fn judge(
    repo: &Repository,
    before: TreeId,
    after: TreeId,
    policy: &PathPolicy,
    enforce: Enforce,
) -> Result<Vec<Refusal>, CheckError> {
    let mut warnings = Vec::new();
    let changes = tree::diff(repo, before, after)?;
    for change in &changes {
        match policy.judge(change) {
            Err(refusal) if enforce == Enforce::AlwaysOnly && refusal.rule.kind() == RuleKind::Policy => {
                warnings.push(refusal);
            }
            judged => judged?,
        }
    }
    links::judge(repo, before, after, &changes)??;
    Ok(warnings)
}
