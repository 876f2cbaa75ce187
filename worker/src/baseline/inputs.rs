//! Earlier Runs' artifacts that the command may read: laid out in its own tree, where its policy lets it read and execute.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use runtimed_api::digest::Digest;
use runtimed_api::link::{Assign, Input, layout};
use runtimed_api::rule::Rule;

use super::artifacts::{manifest, refused};
use crate::failure::{Failure, storage};
use crate::fetch::store::git_failure;
use crate::files::Files;

/// Lays out every input. Whatever fails, the workspace is not made yet.
pub(super) fn place(assign: &Assign) -> Result<(), Failure> {
    let inputs = Path::new(&assign.trees.workspace).join(layout::GIVEN).join(layout::INPUTS);
    assign.inputs.iter().try_for_each(|input| one(input, &inputs.join(input.run.as_str())))
}

fn one(input: &Input, to: &Path) -> Result<(), Failure> {
    let placing = |error: io::Error| storage(&format!("lay out the artifacts of {}", input.run), &error);
    let manifest = manifest(&input.artifacts)?;
    let mut files = Files::new().map_err(|error| git_failure("list the artifacts", &error))?;
    let mut uses: BTreeMap<Digest, usize> = BTreeMap::new();
    for artifact in &manifest.files {
        // The rules of a source's tree: what is no input today may be a source tomorrow.
        files
            .claim(artifact.path.as_bytes())
            .map_err(|misplaced| refused("spec.inputs", &artifact.path, misplaced))?;
        *uses.entry(artifact.digest).or_default() += 1;
    }
    fs::create_dir_all(to).map_err(placing)?;
    for artifact in &manifest.files {
        let from = Path::new(&input.artifacts.files).join(artifact.digest.hex());
        // Nothing but this child has written below `to`, so no link leads anywhere.
        let to = to.join(&artifact.path);
        let left = uses.entry(artifact.digest).or_default();
        *left = left.saturating_sub(1);
        let put = || -> io::Result<()> {
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            // One content may have several paths: the last takes the file, the others copy it.
            if *left == 0 {
                fs::rename(&from, &to)?;
            } else {
                fs::copy(&from, &to)?;
            }
            fs::set_permissions(&to, Permissions::from_mode(if artifact.executable { 0o555 } else { 0o444 }))
        };
        put().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidFilename => {
                let message = "a path of it is longer than this system can hold";
                Failure::refused(Rule::SOURCE_ARTIFACTS, "spec.inputs", message)
            }
            _ => placing(error),
        })?;
    }
    Ok(())
}
