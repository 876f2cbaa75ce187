//! The Baseline: the source's tree with every prior patch, written to the workspace in one go.
//!
//! It runs in a child of its own, which has neither network nor secrets. Everything is decided in memory, on trees; the
//! workspace is made beside its place and takes it by one rename, so that a refusal leaves the workspace as it was.

mod artifacts;
mod inline;
mod inputs;
mod refusal;
mod unsupported;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};
use runtimed_api::ids::TreeId;
use runtimed_api::link::{Assign, PriorPatch, Source, Trees, layout};
use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_patch as patch;

use self::refusal::{checkout_failure, refused};
use crate::failure::{Failure, storage};
use crate::fetch::archive;
use crate::fetch::store::{self, git_failure};
use crate::report::{Applied, Content};

/// Where the capture finds what the workspace held.
pub(crate) fn snapshot_path(trees: &Trees) -> PathBuf {
    Path::new(&trees.workspace).join(layout::PRIVATE).join("snapshot")
}

/// The body of the apply child. `patches` are the opened files of the prior patches, in their order.
pub(crate) fn apply(
    assign: &Assign,
    content: Option<&Content>,
    patches: &[OwnedFd],
) -> Result<Applied, Failure> {
    let store = store::open_or_create(&assign.trees)?;
    let source = match (&assign.source, content) {
        (_, Some(Content::Commit(commit))) => commit_tree(&store, commit)?,
        (_, Some(Content::Tree(tree))) => patch::TreeId::new(object_id(tree)?),
        (Source::Inline(inline), None) => inline::tree(&store, inline)?,
        (Source::UploadedArchive(path), None) => {
            let file = File::open(path).map_err(|error| storage("open the archive", &error))?;
            archive::tree(&store, file)?
        }
        (Source::Artifacts(artifacts), None) => artifacts::tree(&store, artifacts)?,
        (Source::Upload(upload), None) => {
            store::unpack(&store, Path::new(&upload.path))?;
            commit_tree(&store, &upload.commit)?
        }
        (Source::Empty | Source::Git(_) | Source::Archive(_), None) => patch::TreeId::empty(),
    };
    let tree = patched(&store, source, assign, patches)?;
    inputs::place(assign)?;
    let workspace = assign.trees.command_workspace();
    let making = |error: std::io::Error| storage("make the workspace", &error);
    let stage = match &assign.trees.whole {
        None => patch::Stage::new(&workspace).map_err(making)?,
        // It is a mount, and cannot be put in place by a rename; what a failure leaves there no command ever sees.
        Some(_) => patch::Stage::in_place(&workspace),
    };
    let directory = stage.open().map_err(making)?;
    let snapshot = patch::checkout(&store, tree, directory.as_fd()).map_err(checkout_failure)?;
    match (&assign.source, content) {
        (Source::Git(git), Some(Content::Commit(commit))) => {
            repository(&store, stage.path(), &snapshot, commit, Some(&git.url))?;
        }
        (Source::Upload(upload), _) => repository(&store, stage.path(), &snapshot, &upload.commit, None)?,
        _ => {}
    }
    std::fs::write(snapshot_path(&assign.trees), snapshot.to_bytes())
        .map_err(|error| storage("note what is in the workspace", &error))?;
    stage.publish().map_err(making)?;
    Ok(Applied { tree: wire_id(tree)?, notes: Vec::new() })
}

/// Makes the `.git` that the command finds: it is the command's own, and no capture believes it.
fn repository(
    store: &Repository,
    workspace: &Path,
    snapshot: &patch::Snapshot,
    commit: &TreeId,
    origin: Option<&str>,
) -> Result<(), Failure> {
    let commit = object_id(commit)?;
    let branch = store::branch(store);
    let options = patch::RepositoryOptions { commit, branch: branch.as_deref(), origin };
    patch::make_repository(store, workspace, snapshot, &options).map_err(|error| match error {
        patch::RepositoryError::Io { path, source } => storage(&format!("make .git/{path}"), &source),
        patch::RepositoryError::Store(error) => git_failure("make .git", &error),
        error @ patch::RepositoryError::BranchName(_) => {
            Failure::fault(Code::SourceFailed, error.to_string())
        }
    })
}

/// The tree of the fetched commit, if all of it can be had.
fn commit_tree(store: &Repository, commit: &TreeId) -> Result<patch::TreeId, Failure> {
    let reading = |error: git2::Error| git_failure("read the fetched commit", &error);
    let tree = store.find_commit(object_id(commit)?).map_err(reading)?.tree_id();
    unsupported::judge(store, tree)?;
    Ok(patch::TreeId::new(tree))
}

fn object_id(id: &TreeId) -> Result<Oid, Failure> {
    Oid::from_str(id.as_str()).map_err(|error| git_failure("read what was fetched", &error))
}

/// The tree after every prior patch; nothing is kept unless all of them apply.
fn patched(
    store: &Repository,
    source: patch::TreeId,
    assign: &Assign,
    files: &[OwnedFd],
) -> Result<patch::TreeId, Failure> {
    if files.is_empty() {
        return Ok(source);
    }
    let rules = &assign.patch_policy;
    let limits = patch::Limits {
        max_bytes: rules.max_bytes.0,
        max_files: rules.max_files,
        ..patch::Limits::default()
    };
    let allowed = rules.allow_paths.iter().map(String::as_str);
    let protected = patch::DEFAULT_PROTECTED.iter().copied();
    let policy = patch::PathPolicy::new(rules.allow_symlinks, protected, allowed).map_err(|error| {
        Failure::fault(
            Code::WorkerFailed,
            format!("the Runtime's patches.allowPaths has a bad glob: {error}"),
        )
    })?;
    let labels = &assign.patches;
    let mut stack_bytes = Vec::with_capacity(files.len());
    for (file, about) in files.iter().zip(labels) {
        stack_bytes.push(read_patch(file, about, limits.max_bytes)?);
    }
    let mut stack = Vec::with_capacity(stack_bytes.len());
    for (index, bytes) in stack_bytes.iter().enumerate() {
        stack.push(patch::parse(bytes, &limits).map_err(|error| refused(&error.in_patch(index), labels))?);
    }
    expect(labels.first(), |about| about.base.as_ref(), source, Rule::PATCH_BASE_MISMATCH)?;
    let checked = patch::check(store, source, &stack, &policy, patch::Enforce::All, &limits);
    let checked = checked.map_err(|error| match error {
        patch::CheckError::Refused(refusal) => refused(&refusal, labels),
        patch::CheckError::Store(error) => git_failure("apply the prior patches", &error),
    })?;
    let mut before = source;
    for (about, applied) in labels.iter().zip(&checked.per_patch) {
        expect(Some(about), |about| about.base.as_ref(), before, Rule::PATCH_BASE_MISMATCH)?;
        expect(Some(about), |about| about.result.as_ref(), applied.tree, Rule::PATCH_TREE_MISMATCH)?;
        before = applied.tree;
    }
    checked.persist(store).map_err(|error| git_failure("store the patched files", &error))?;
    Ok(checked.tree)
}

/// Holds a tree to the one that a patch's statement names, where it names one.
fn expect(
    about: Option<&PriorPatch>,
    stated: impl Fn(&PriorPatch) -> Option<&TreeId>,
    found: patch::TreeId,
    rule: Rule,
) -> Result<(), Failure> {
    let Some((about, wanted)) = about.and_then(|about| Some((about, stated(about)?))) else { return Ok(()) };
    if wanted.as_str() == found.to_string() {
        return Ok(());
    }
    let (message, hint) = if rule == Rule::PATCH_BASE_MISMATCH {
        (
            format!("it was made for tree {wanted}, and would be applied to {found}"),
            "use the ref that it was made for",
        )
    } else {
        (format!("it yields tree {found}, and its statement says {wanted}"), "make the patch again")
    };
    Err(Failure::refused(rule, subject(about), message).hint(hint))
}

/// How a refusal names a patch.
fn subject(about: &PriorPatch) -> String {
    format!("prior patch {}", about.label)
}

fn read_patch(file: &OwnedFd, about: &PriorPatch, most: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let file = file.try_clone().map(File::from);
    let read = file.and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes));
    read.map_err(|error| storage("read a prior patch", &error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        let message = format!("it has more than the {most} bytes that the Runtime allows");
        return Err(Failure::refused(Rule::PATCH_TOO_LARGE, subject(about), message));
    }
    Ok(bytes)
}

fn wire_id(tree: patch::TreeId) -> Result<TreeId, Failure> {
    TreeId::try_from(tree.to_string()).map_err(|error| Failure::fault(Code::WorkerFailed, error.to_string()))
}

/// The blob with this id, if it has at most `most` bytes.
fn small_blob(store: &Repository, id: Oid, most: usize) -> Result<Option<Vec<u8>>, git2::Error> {
    let odb = store.odb()?;
    let (size, kind) = odb.read_header(id)?;
    if kind != ObjectType::Blob || size > most {
        return Ok(None);
    }
    Ok(Some(odb.read(id)?.data().to_vec()))
}
