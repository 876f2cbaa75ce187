//! What a Run names in a repository: its HEAD, a branch or tag, or one commit.

use git2::Oid;
use runtimed_api::rule::Rule;

use super::protocol::whole_id;
use crate::failure::Failure;

/// What a Run names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// The repository's own choice.
    Head,
    /// A branch or a tag, or a full name below `refs/`.
    Named(String),
    /// A commit, by its whole id.
    Commit(Oid),
}

impl Reference {
    pub(super) fn new(name: Option<&str>) -> Self {
        match name {
            None | Some("HEAD") => Self::Head,
            Some(name) => whole_id(name).map_or_else(|| Self::Named(name.to_owned()), Self::Commit),
        }
    }

    /// The full names that it may stand for, the likelier first: a branch wins over a tag, as in `git clone --branch`.
    pub(super) fn candidates(&self) -> Vec<String> {
        match self {
            Self::Head => vec!["HEAD".to_owned()],
            Self::Named(name) if name.starts_with("refs/") => vec![name.clone()],
            Self::Named(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
            Self::Commit(_) => Vec::new(),
        }
    }
}

/// What a reference stands for in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// A commit, or a tag that leads to one.
    pub(super) id: Oid,
    /// The branch or tag by its full name, if it was one.
    pub(super) name: Option<String>,
}

/// The repository was reached, and has no such thing.
pub(super) fn missing(reference: &Reference) -> Failure {
    let (what, hint) = match reference {
        Reference::Head => ("the repository has no commit at HEAD".to_owned(), "name a branch in `ref`"),
        Reference::Named(name) => (
            format!("the repository has no branch or tag {name:?}"),
            "give a branch, a tag, or all 40 digits of a commit id",
        ),
        Reference::Commit(id) => {
            (format!("the repository does not give commit {id}"), "check that a branch or tag leads to it")
        }
    };
    Failure::refused(Rule::SOURCE_REF_NOT_FOUND, "spec.source.git.ref", what).hint(hint)
}
