//! A person's own repository, and what patches do to it.
//!
//! A patch applies to the files as they lie in the work tree, committed or not: what a Run was sent by `run --here` may not
//! be committed either. The rules that a policy can lift are warnings here; those that none can lift refuse.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use git2::{ErrorCode, Repository};
use runtimed_api::runtime::PatchPolicy;
use runtimed_patch::{CheckError, Checked, DEFAULT_PROTECTED, Enforce, GitPath, Limits, PathPolicy, TreeId};
use runtimed_patch::{Recovery, Refusal, UpdateError, check, parse, present, recover, update};

use super::Named;
use crate::document;
use crate::failure::Failure;
use crate::output::Output;
use crate::style::Ink;
use crate::table::{count, one_line};

/// A repository with its work tree.
pub(super) struct Onto {
    repository: Repository,
    work_tree: PathBuf,
}

/// What patches make of the work tree.
pub(super) struct Change {
    from: TreeId,
    checked: Checked,
}

impl Onto {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let repository = Repository::discover(path).map_err(|error| {
            Failure::usage(format!(
                "{} is in no git repository that can be used: {}",
                path.display(),
                error.message()
            ))
            .hint("name one with --repo DIR")
        })?;
        let work_tree = repository.workdir().map(Path::to_owned);
        let work_tree =
            work_tree.ok_or_else(|| Failure::usage(format!("{} has no working tree", path.display())))?;
        Ok(Self { repository, work_tree })
    }

    /// Finishes what a killed `patch apply` has begun.
    pub(super) fn recover(&self, output: &Output) -> Result<(), Failure> {
        let state = self.state();
        if !state.exists() {
            return Ok(());
        }
        if recover(&self.work_tree, &state).map_err(|error| of_update(&error))? == Recovery::Completed {
            output.note("recovered", "an earlier `patch apply` was interrupted, and is complete now");
        }
        Ok(())
    }

    /// Checks the stack against the files, and says what each patch does. Nothing is written.
    pub(super) fn check(
        &self,
        patches: &[Named],
        policy: &PatchPolicy,
        output: &Output,
    ) -> Result<Change, Failure> {
        let limits = Limits::default();
        let named = |refusal: &Refusal| {
            let name = patches.get(refusal.patch).map_or("", |patch| patch.name.as_str());
            let text = one_line(&refusal.to_string());
            if patches.len() > 1 { format!("{name}: {text}") } else { text }
        };
        let refused = |refusal: Refusal| Failure::refused(named(&refusal)).hint("nothing was written");
        let mut stack = Vec::new();
        for (index, patch) in patches.iter().enumerate() {
            stack.push(parse(&patch.bytes, &limits).map_err(|refusal| refused(refusal.in_patch(index)))?);
        }
        let paths: BTreeSet<&GitPath> = stack.iter().flat_map(|patch| patch.paths()).collect();
        let from = present(&self.repository, &self.work_tree, self.head()?, paths)
            .map_err(|error| of_update(&error))?;
        let allowed = policy.allow_paths.iter().map(String::as_str);
        let rules = PathPolicy::new(policy.allow_symlinks, DEFAULT_PROTECTED.iter().copied(), allowed)
            .map_err(|error| Failure::fault(error.to_string()))?;
        let checked = check(&self.repository, from, &stack, &rules, Enforce::AlwaysOnly, &limits);
        let checked = checked.map_err(|error| match error {
            CheckError::Refused(refusal) => refused(refusal),
            CheckError::Store(error) => git(&error),
        })?;
        for warning in &checked.warnings {
            output.note("warning", &output.err.ink(Ink::Warn, named(warning)));
        }
        for patch in &checked.per_patch {
            let counts =
                format!("{}, +{} −{}", count(patch.files, "file"), patch.insertions, patch.deletions);
            output.note("applies", &format!("{counts}, tree {}", patch.tree));
        }
        Ok(Change { from, checked })
    }

    /// Changes the files of the patches, and leaves the index as it is. A file that is not as it was checked is not touched,
    /// and then none is.
    pub(super) fn apply(&self, change: &Change, output: &Output) -> Result<(), Failure> {
        // New contents are in the memory of this handle, which is enough: the index does not name them.
        let (repository, to) = (&self.repository, change.checked.tree);
        let changed = update(repository, &self.work_tree, &self.state(), change.from, to);
        let changed = changed.map_err(|error| of_update(&error))?;
        output.note("applied", &count(u64::try_from(changed).unwrap_or(u64::MAX), "file"));
        Ok(())
    }

    fn state(&self) -> PathBuf {
        self.repository.path().join("runtimed-patch")
    }

    /// HEAD's tree; the empty one before the first commit.
    fn head(&self) -> Result<TreeId, Failure> {
        match self.repository.head() {
            Ok(head) => Ok(TreeId::new(head.peel_to_tree().map_err(|error| git(&error))?.id())),
            Err(error) if error.code() == ErrorCode::UnbornBranch => Ok(TreeId::empty()),
            Err(error) => Err(git(&error)),
        }
    }
}

fn of_update(error: &UpdateError) -> Failure {
    let text = one_line(&error.to_string());
    match error {
        UpdateError::Refused(refusal) => Failure::refused(one_line(&refusal.to_string())),
        UpdateError::NotClean { .. } => Failure::refused(text),
        UpdateError::Io { source, .. } => Failure::fault(format!("{text}: {}", document::cause(source))),
        UpdateError::Store(error) => git(error),
        _ => Failure::fault(text),
    }
}

fn git(error: &git2::Error) -> Failure {
    Failure::fault(format!("the repository cannot be used: {}", one_line(error.message())))
}
