//! The tree of files that are written in the Run itself.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use git2::{Index, IndexEntry, IndexTime, Repository};
use runtimed_api::rule::Rule;
use runtimed_api::run::source::{InlineFile, InlineSource};
use runtimed_patch::{GitPath, TreeId};

use crate::failure::Failure;
use crate::fetch::store::git_failure;

/// Stores the files and gives their tree. Their paths are judged again, by what a tree may hold.
pub(super) fn tree(store: &Repository, inline: &InlineSource) -> Result<TreeId, Failure> {
    let failed = |error: git2::Error| git_failure("store the inline files", &error);
    let mut index = Index::new().map_err(failed)?;
    let mut paths = BTreeSet::new();
    for file in &inline.files {
        let path = plain(file)?;
        if !paths.insert(path.clone()) {
            return Err(refused(file, "another file has the same path"));
        }
        let id = store.blob(file.content.as_bytes()).map_err(failed)?;
        index.add(&entry(path, id, file.executable)).map_err(failed)?;
    }
    // A file in the place of a directory would silently replace it.
    if index.len() != paths.len() {
        let message = "a file has the path of another one's directory";
        return Err(Failure::refused(Rule::SPEC_PATH, SUBJECT, message));
    }
    Ok(TreeId::new(index.write_tree_to(store).map_err(failed)?))
}

const SUBJECT: &str = "spec.source.inline.files";

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
    let judged = GitPath::new(path.as_bytes()).judge();
    judged.map_err(|refusal| refused(file, &refusal.message))?;
    Ok(path.into_bytes())
}

fn refused(file: &InlineFile, why: &str) -> Failure {
    let shown: String = file.path.chars().take(200).collect();
    Failure::refused(Rule::SPEC_PATH, SUBJECT, format!("{shown:?}: {why}"))
}

fn entry(path: Vec<u8>, id: git2::Oid, executable: bool) -> IndexEntry {
    IndexEntry {
        ctime: IndexTime::new(0, 0),
        mtime: IndexTime::new(0, 0),
        dev: 0,
        ino: 0,
        mode: if executable { 0o100_755 } else { 0o100_644 },
        uid: 0,
        gid: 0,
        file_size: 0,
        id,
        flags: 0,
        flags_extended: 0,
        path,
    }
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
            &["git~1/x"],
        ] {
            assert!(matches!(built(bad), Err(Failure::Refused(_))), "{bad:?}");
        }
    }
}
