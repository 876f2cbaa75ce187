//! The tree of files that are written in the Run itself.

use std::path::{Component, Path};

use git2::Repository;
use runtimed_api::rule::Rule;
use runtimed_api::run::source::{InlineFile, InlineSource};
use runtimed_patch::TreeId;

use crate::failure::Failure;
use crate::fetch::store::git_failure;
use crate::files::{Files, Misplaced};

/// Stores the files and gives their tree. Their paths are judged again, by what a tree may hold.
pub(super) fn tree(store: &Repository, inline: &InlineSource) -> Result<TreeId, Failure> {
    let failed = |error: git2::Error| git_failure("store the inline files", &error);
    let mut files = Files::new().map_err(failed)?;
    for file in &inline.files {
        let path = plain(file)?;
        files.claim(&path).map_err(|misplaced| match misplaced {
            Misplaced::Path(refusal) => refused(file, &refusal.message),
            Misplaced::Taken => refused(file, "another file, or its directory, has the same path"),
        })?;
        let id = store.blob(file.content.as_bytes()).map_err(failed)?;
        files.put(path, id, file.executable).map_err(failed)?;
    }
    files.tree(store).map_err(failed)
}

/// The path without `.` components, as a tree holds it.
fn plain(file: &InlineFile) -> Result<Vec<u8>, Failure> {
    let mut path = String::new();
    for component in Path::new(&file.path).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(&name.to_string_lossy());
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused(file, "the path leads out of the workspace"));
            }
        }
    }
    Ok(path.into_bytes())
}

fn refused(file: &InlineFile, why: &str) -> Failure {
    let shown: String = file.path.chars().take(200).collect();
    Failure::refused(Rule::SPEC_PATH, "spec.source.inline.files", format!("{shown:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(paths: &[&str]) -> Result<String, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let store = Repository::init_bare(directory.path()).unwrap();
        let file = |path: &&str| InlineFile {
            path: (*path).to_owned(),
            content: "x\n".to_owned(),
            executable: false,
        };
        tree(&store, &InlineSource { files: paths.iter().map(file).collect() }).map(|tree| tree.to_string())
    }

    #[test]
    fn the_tree_is_what_git_makes_of_the_files() {
        // `git mktree` of an entry 100644 "a" with the blob "x\n".
        assert_eq!(built(&["./a"]).unwrap(), "4d593e935186bcc35450336864a1aad148210a14");
        assert_eq!(built(&[]).unwrap(), TreeId::empty().to_string());
    }

    #[test]
    fn paths_that_lead_out_or_collide_are_refused() {
        for bad in [
            &["../a"][..],
            &["/a"],
            &["a/../../b"],
            &[".git/hooks/x"],
            &["A/.GIT/x"],
            &["a", "./a"],
            &["a", "a/b"],
            &["a/b", "a"],
            &["a/b/c", "a/b"],
            &["git~1/x"],
        ] {
            assert!(matches!(built(bad), Err(Failure::Refused(_))), "{bad:?}");
        }
    }
}
