//! The tree of an earlier Run's artifacts, whose bytes the daemon has brought and verified.

use std::fs::File;
use std::io;
use std::path::Path;

use git2::Repository;
use runtimed_api::link::FetchedArtifacts;
use runtimed_api::manifest::Manifest;
use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_patch::TreeId;

use crate::failure::{Failure, storage};
use crate::fetch::store::git_failure;
use crate::files::{Files, Misplaced};

/// Stores the files and gives their tree.
pub(super) fn tree(store: &Repository, artifacts: &FetchedArtifacts) -> Result<TreeId, Failure> {
    let failed = |error: git2::Error| git_failure("store the artifacts", &error);
    let manifest = manifest(artifacts)?;
    let odb = store.odb().map_err(failed)?;
    let mut files = Files::new().map_err(failed)?;
    for artifact in &manifest.files {
        let path = artifact.path.as_bytes();
        files.claim(path).map_err(|misplaced| refused("spec.source.artifacts", &artifact.path, misplaced))?;
        let from = Path::new(&artifacts.files).join(artifact.digest.hex());
        let copy = || -> io::Result<git2::Oid> {
            let mut from = File::open(from)?;
            let size = usize::try_from(from.metadata()?.len()).map_err(io::Error::other)?;
            let mut blob = odb.writer(size, git2::ObjectType::Blob).map_err(io::Error::other)?;
            io::copy(&mut from, &mut blob)?;
            blob.finalize().map_err(io::Error::other)
        };
        let id = copy().map_err(|error| storage("store an artifact", &error))?;
        files.put(path.to_vec(), id, artifact.executable).map_err(failed)?;
    }
    files.tree(store).map_err(failed)
}

/// The list, which the daemon has verified and nobody has read yet.
pub(super) fn manifest(artifacts: &FetchedArtifacts) -> Result<Manifest, Failure> {
    let text =
        std::fs::read(&artifacts.manifest).map_err(|error| storage("read the list of artifacts", &error))?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::fault(Code::SourceFailed, format!("the list of artifacts cannot be read: {error}"))
    })
}

/// An artifact that cannot lie where its list says.
pub(super) fn refused(subject: &str, path: &str, misplaced: Misplaced) -> Failure {
    let shown: String = path.chars().take(200).collect();
    let why = match misplaced {
        Misplaced::Path(refusal) => refusal.message,
        Misplaced::Taken => "another file, or its directory, has the same path".to_owned(),
    };
    Failure::refused(Rule::SOURCE_ARTIFACTS, subject, format!("{shown:?}: {why}"))
}
