//! Hands a repository of this machine over: as a bare one that holds the wanted commit alone.
//!
//! The person's repository may be private to them, and its configuration is theirs. What the daemon's children read is
//! this copy, which holds no configuration, no hooks and no other commit.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use git2::{
    ErrorCode, ObjectType, Oid, PackBuilder, Reference, Repository, RepositoryInitOptions, StatusOptions,
};
use runtimed_api::run::source::GitSource;

use super::files::SOURCE;
use super::home::Home;
use crate::failure::Failure;
use crate::output::Output;
use crate::table::one_line;

/// Where the source is a path of this machine, makes the copy and has the source name it.
pub(super) fn hand_over(git: &mut GitSource, home: &Home, output: &Output) -> Result<(), Failure> {
    let Some(path) = local(&git.url) else { return Ok(()) };
    let repository = open(&path)?;
    let (commit, name) = find(&repository, git.reference.as_deref())?;
    if git.reference.is_none() && is_dirty(&repository) {
        output.note("note", "changes that are not committed are not part of the Run");
    }
    let to = home.path(SOURCE);
    copy(&repository, commit, name.as_deref(), git.depth.unwrap_or(1), &to)
        .map_err(|error| broken("cannot be copied", &error))?;
    give(home, &to).map_err(|error| Failure::fault(format!("{}: {error}", to.display())))?;
    git.url = to.display().to_string();
    Ok(())
}

/// The path that a source names, if it names one: whatever is no URL, and no `user@host:path` either.
fn local(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    let remote = path.contains("://") || path.split('/').next().is_some_and(|first| first.contains(':'));
    (!remote).then(|| PathBuf::from(path))
}

fn open(path: &Path) -> Result<Repository, Failure> {
    let opened = Repository::discover(path);
    // Named by the person and only read: whose it is does not matter. A bare one obeys no configuration that could.
    let opened = opened.or_else(|error| match error.code() {
        ErrorCode::Owner => Repository::open_bare(path.join(".git")).or_else(|_| Repository::open_bare(path)),
        _ => Err(error),
    });
    opened.map_err(|error| {
        Failure::usage(format!(
            "{} is no git repository that can be read: {}",
            path.display(),
            one_line(error.message())
        ))
        .hint("give the path of a clone, or an https URL")
    })
}

/// The commit that is wanted, and the full name of the branch or tag that leads to it.
fn find(repository: &Repository, reference: Option<&str>) -> Result<(Oid, Option<String>), Failure> {
    let of = |found: &Reference<'_>| Ok((found.peel_to_commit()?.id(), found.name().ok().map(str::to_owned)));
    let found = match reference {
        None | Some("HEAD") => repository.head().and_then(|head| of(&head)),
        Some(id) if id.len() == 40 && Oid::from_str(id).is_ok() => {
            Oid::from_str(id).and_then(|id| repository.find_commit(id)).map(|commit| (commit.id(), None))
        }
        Some(name) => {
            // A branch before a tag, as in `git clone --branch`.
            let candidates = [format!("refs/heads/{name}"), format!("refs/tags/{name}"), name.to_owned()];
            let mut found = candidates.iter().filter_map(|name| repository.find_reference(name).ok());
            found.next().ok_or_else(|| git2::Error::from_str("no such ref")).and_then(|found| of(&found))
        }
    };
    found.map_err(|_: git2::Error| match reference {
        None | Some("HEAD") => {
            Failure::refused("the repository has no commit yet").hint("commit something first")
        }
        Some(name) => Failure::refused(format!("the repository has no branch, tag or commit {name:?}"))
            .hint("give a branch, a tag, or all 40 digits of a commit id"),
    })
}

fn is_dirty(repository: &Repository) -> bool {
    let mut options = StatusOptions::new();
    options.include_untracked(true).exclude_submodules(true);
    repository.statuses(Some(&mut options)).is_ok_and(|statuses| !statuses.is_empty())
}

/// Makes a bare repository at `to` with `commit` and `depth` commits of its history (0 is all), under its own name and as
/// HEAD. It has no list of where its history was cut: the fetch finds that out by what is missing.
fn copy(
    from: &Repository,
    commit: Oid,
    name: Option<&str>,
    depth: u32,
    to: &Path,
) -> Result<(), git2::Error> {
    let mut options = RepositoryInitOptions::new();
    options.bare(true).external_template(false);
    let copy = Repository::init_opts(to, &options)?;
    let mut builder = from.packbuilder()?;
    builder.set_threads(0);
    history(from, &mut builder, commit, depth)?;
    let odb = copy.odb()?;
    let mut writer = odb.packwriter()?;
    let mut wrote = Ok(());
    builder.foreach(|bytes| {
        wrote = writer.write_all(bytes);
        wrote.is_ok()
    })?;
    wrote.map_err(|error| git2::Error::from_str(&error.to_string()))?;
    writer.commit()?;
    if let Some(name) = name.filter(|name| name.starts_with("refs/")) {
        copy.reference(name, commit, true, "handed over")?;
    }
    copy.set_head_detached(commit)
}

fn history(
    from: &Repository,
    builder: &mut PackBuilder<'_>,
    tip: Oid,
    depth: u32,
) -> Result<(), git2::Error> {
    let (mut commits, mut trees) = (HashSet::from([tip]), HashSet::new());
    let mut level = vec![tip];
    let mut left = if depth == 0 { u32::MAX } else { depth };
    while left > 0 && !level.is_empty() {
        left -= 1;
        let mut parents = Vec::new();
        for id in level {
            // A repository that is itself cut ends here.
            let Ok(commit) = from.find_commit(id) else { continue };
            builder.insert_object(id, None)?;
            tree(from, builder, commit.tree_id(), &mut trees)?;
            parents.extend(commit.parent_ids().filter(|parent| commits.insert(*parent)));
        }
        level = parents;
    }
    Ok(())
}

/// Adds a tree with all in it that was not met before; submodules are other repositories.
fn tree(
    from: &Repository,
    builder: &mut PackBuilder<'_>,
    top: Oid,
    met: &mut HashSet<Oid>,
) -> Result<(), git2::Error> {
    let mut pending = vec![top];
    while let Some(id) = pending.pop() {
        if !met.insert(id) {
            continue;
        }
        builder.insert_object(id, None)?;
        for entry in &from.find_tree(id)? {
            match entry.kind() {
                Some(ObjectType::Tree) => pending.push(entry.id()),
                Some(ObjectType::Blob) if met.insert(entry.id()) => {
                    builder.insert_object(entry.id(), entry.name().ok())?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Gives the copy to the servers' user. It is ours alone until then, so that nothing in it is another's.
fn give(home: &Home, path: &Path) -> std::io::Result<()> {
    home.owner().give(path)?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(home, &entry?.path())?;
        }
    }
    Ok(())
}

fn broken(what: &str, error: &git2::Error) -> Failure {
    Failure::fault(format!("the repository {what}: {}", one_line(error.message())))
}

#[cfg(test)]
mod tests;
