//! `runtimectl patch`: gets a Patch, and checks or applies one on a person's own repository.

use std::fs;
use std::path::Path;

use git2::{ErrorCode, Repository};
use runtimed_api::ids::RunName;
use runtimed_patch::{CheckError, Checked, DEFAULT_PROTECTED, Enforce, Limits, PathPolicy, TreeId};
use runtimed_patch::{UpdateError, check, parse, update};

use super::Session;
use super::runs::unwritable;
use crate::args::{Patch, PatchOn};
use crate::compose::{MAX_PATCH, Prior, prior};
use crate::document;
use crate::failure::Failure;
use crate::output::Output;
use crate::style::Ink;
use crate::table::{count, one_line};

pub(super) async fn patch(
    session: impl Fn() -> Result<Session, Failure>,
    words: Patch,
    output: &Output,
) -> Result<(), Failure> {
    match words {
        Patch::Get { run, to } => {
            let bytes = of_run(&session()?, &run).await?;
            match to {
                Some(to) => fs::write(&to, &bytes).map_err(|error| unwritable(&to, &error)),
                None => output.bytes(&bytes),
            }
        }
        Patch::Check(on) => {
            let bytes = read(session, &on).await?;
            let repository = open(&on.repo)?;
            checked(&repository, &bytes, output).map(drop)
        }
        Patch::Apply(on) => {
            let bytes = read(session, &on).await?;
            let repository = open(&on.repo)?;
            let checked = checked(&repository, &bytes, output)?;
            apply(&repository, &checked, output)
        }
    }
}

/// The bytes of a patch that is named as a file or as a Run.
async fn read(session: impl Fn() -> Result<Session, Failure>, on: &PatchOn) -> Result<Vec<u8>, Failure> {
    match prior(&on.patch)? {
        Prior::File(file) => document::read_at_most(&file, MAX_PATCH),
        Prior::Run(run) => of_run(&session()?, &run).await,
    }
}

async fn of_run(session: &Session, run: &RunName) -> Result<Vec<u8>, Failure> {
    let patch = session.controller.patch(&session.namespace, run).await?;
    Ok(patch.bytes().await?.into())
}

fn open(path: &Path) -> Result<Repository, Failure> {
    let repository = Repository::discover(path).map_err(|error| {
        Failure::usage(format!(
            "{} is in no git repository that can be used: {}",
            path.display(),
            error.message()
        ))
        .hint("name one with --repo DIR")
    })?;
    if repository.is_bare() {
        return Err(Failure::usage(format!("{} has no working tree", path.display())));
    }
    Ok(repository)
}

/// Checks the patch against HEAD's tree, and says what it does. The rules that a policy can lift are warnings here: it is
/// the person's own repository.
fn checked(repository: &Repository, bytes: &[u8], output: &Output) -> Result<Checked, Failure> {
    let limits = Limits::default();
    let refused = |refusal: runtimed_patch::Refusal| Failure::refused(one_line(&refusal.to_string()));
    let parsed = parse(bytes, &limits).map_err(refused)?;
    let policy = PathPolicy::new(false, DEFAULT_PROTECTED.iter().copied(), [])
        .map_err(|error| Failure::fault(error.to_string()))?;
    let checked = check(repository, head(repository)?, &[parsed], &policy, Enforce::AlwaysOnly, &limits)
        .map_err(|error| match error {
            CheckError::Refused(refusal) => refused(refusal).hint("nothing was written"),
            CheckError::Store(error) => git(&error),
        })?;
    for warning in &checked.warnings {
        output.note("warning", &output.err.ink(Ink::Warn, one_line(&warning.to_string())));
    }
    for patch in &checked.per_patch {
        let counts = format!("{}, +{} −{}", count(patch.files, "file"), patch.insertions, patch.deletions);
        output.note("applies", &format!("{counts}, tree {}", patch.tree));
    }
    Ok(checked)
}

/// HEAD's tree; the empty one before the first commit.
fn head(repository: &Repository) -> Result<TreeId, Failure> {
    match repository.head() {
        Ok(head) => Ok(TreeId::new(head.peel_to_tree().map_err(|error| git(&error))?.id())),
        Err(error) if error.code() == ErrorCode::UnbornBranch => Ok(TreeId::empty()),
        Err(error) => Err(git(&error)),
    }
}

/// Changes the files that differ from HEAD, and leaves the index as it is. A file that the person changed is not touched,
/// and then none is.
fn apply(repository: &Repository, checked: &Checked, output: &Output) -> Result<(), Failure> {
    let Some(work_tree) = repository.workdir() else {
        return Err(Failure::usage("the repository has no working tree"));
    };
    checked.persist(repository).map_err(|error| git(&error))?;
    let state = repository.path().join("runtimed-patch");
    let changed = update(repository, work_tree, &state, head(repository)?, checked.tree);
    let changed = changed.map_err(|error| {
        let text = one_line(&error.to_string());
        match &error {
            UpdateError::Refused(refusal) => Failure::refused(one_line(&refusal.to_string())),
            UpdateError::NotClean { .. } => Failure::refused(text),
            UpdateError::Io { source, .. } => Failure::fault(format!("{text}: {}", document::cause(source))),
            UpdateError::Store(error) => git(error),
            _ => Failure::fault(text),
        }
    })?;
    output.note("applied", &count(u64::try_from(changed).unwrap_or(u64::MAX), "file"));
    Ok(())
}

fn git(error: &git2::Error) -> Failure {
    Failure::fault(format!("the repository cannot be used: {}", one_line(error.message())))
}
