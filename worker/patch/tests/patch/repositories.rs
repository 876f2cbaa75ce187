//! The workspace's own `.git`, as the command will find it.

use std::{
    fs,
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use git2::{Oid, Repository};
use runtimed_patch::{RepositoryOptions, Stage, TreeId, checkout, make_repository};
use tempfile::TempDir;

use crate::git::Git;

/// A history of two commits, cloned into a bare repository in the given way, and a workspace of its last commit.
struct Cloned {
    origin: Git,
    bare: Git,
    dir: TempDir,
    commit: Oid,
}

impl Cloned {
    fn new(depth: &[&str]) -> Self {
        let origin = Git::new();
        origin.write("a", "1\n");
        origin.run(["add", "."]);
        origin.run(["commit", "-qm", "first"]);
        origin.write("a", "2\n");
        origin.write("dir/b c", "x\n");
        symlink("a", origin.join("link")).unwrap();
        origin.run(["add", "."]);
        origin.run(["commit", "-qm", "second"]);
        origin.run(["tag", "v1"]);
        let bare = Git::new();
        fs::remove_dir_all(bare.join(".git")).unwrap();
        let url = format!("file://{}", origin.path().display());
        bare.run([&["clone", "-q", "--bare"], depth, &[url.as_str(), ".git"]].concat());
        let commit = Oid::from_str(std::str::from_utf8(&origin.run(["rev-parse", "HEAD"])).unwrap()).unwrap();
        Self { origin, bare, dir: TempDir::new().unwrap(), commit }
    }

    fn source(&self) -> Repository {
        self.bare.repo()
    }

    fn workspace(&self, tree: Option<TreeId>, branch: Option<&str>) -> PathBuf {
        let source = self.source();
        let head = TreeId::new(source.find_commit(self.commit).unwrap().tree_id());
        let path = self.dir.path().join("ws");
        let stage = Stage::new(&path).unwrap();
        let snapshot = checkout(&source, tree.unwrap_or(head), stage.open().unwrap().as_fd()).unwrap();
        let origin = Some("https://user:token@git.example/a \"b\".git");
        let options = RepositoryOptions { commit: self.commit, branch, origin };
        make_repository(&source, stage.path(), &snapshot, &options).unwrap();
        stage.publish().unwrap();
        path
    }

    /// git in the workspace.
    fn git(&self, workspace: &Path, args: &[&str]) -> String {
        let directory = workspace.to_str().unwrap();
        String::from_utf8(self.origin.run([&["-C", directory], args].concat())).unwrap()
    }
}

#[test]
fn on_a_branch_the_status_is_clean_without_reading_files() {
    let cloned = Cloned::new(&[]);
    let workspace = cloned.workspace(None, Some("main"));
    assert_eq!(cloned.git(&workspace, &["status", "--porcelain", "--branch"]), "## main...origin/main");
    assert_eq!(cloned.git(&workspace, &["log", "--format=%s"]), "second\nfirst");
    assert_eq!(cloned.git(&workspace, &["describe", "--tags"]), "v1");
    assert_eq!(
        cloned.git(&workspace, &["diff-files"]),
        "",
        "the index has stat data, so nothing needs a refresh"
    );
    cloned.git(&workspace, &["fsck", "--strict"]);
    assert_eq!(cloned.git(&workspace, &["remote", "get-url", "origin"]), "https://git.example/a \"b\".git");
    fs::write(workspace.join("a"), "3\n").unwrap();
    cloned.git(&workspace, &["commit", "-qam", "third"]);
    assert_eq!(cloned.git(&workspace, &["log", "--format=%s", "-1"]), "third");
}

#[test]
fn a_shallow_history_stays_shallow_and_usable() {
    let cloned = Cloned::new(&["--depth=1"]);
    let workspace = cloned.workspace(None, None);
    assert_eq!(cloned.git(&workspace, &["status", "--porcelain"]), "");
    assert_eq!(cloned.git(&workspace, &["log", "--format=%s"]), "second");
    assert_eq!(cloned.git(&workspace, &["rev-parse", "--abbrev-ref", "HEAD"]), "HEAD");
    cloned.git(&workspace, &["fsck"]);
}

#[test]
fn objects_are_copies() {
    let cloned = Cloned::new(&[]);
    let workspace = cloned.workspace(None, Some("main"));
    let mut pending = vec![workspace.join(".git")];
    let mut files = 0;
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            assert!(!metadata.is_symlink() && entry.file_name() != "alternates");
            if metadata.is_dir() {
                pending.push(entry.path());
            } else {
                assert_eq!(metadata.nlink(), 1, "{:?}", entry.path());
                let text = fs::read(entry.path()).unwrap();
                assert!(!text.windows(5).any(|window| window == b"token"), "{:?}", entry.path());
                files += 1;
            }
        }
    }
    assert!(files > 5);
}

#[test]
fn prior_patches_show_as_changes_of_the_work_tree() {
    let cloned = Cloned::new(&[]);
    cloned.origin.write("a", "patched\n");
    cloned.origin.write("new", "x\n");
    let tree = cloned.origin.tree();
    let objects = cloned.origin.join(".git").display().to_string();
    // A tree in no commit cannot be fetched.
    cloned.origin.run(["commit", "-qm", "patched"]);
    cloned.bare.run(["--git-dir=.git", "fetch", "-q", &objects, "main"]);
    let workspace = cloned.workspace(Some(tree), Some("main"));
    assert_eq!(cloned.git(&workspace, &["status", "--porcelain"]), " M a\n?? new");
}

#[test]
fn a_branch_name_that_git_does_not_allow_is_refused() {
    let cloned = Cloned::new(&[]);
    let source = cloned.source();
    let stage = Stage::new(&cloned.dir.path().join("ws")).unwrap();
    let snapshot = checkout(&source, TreeId::empty(), stage.open().unwrap().as_fd()).unwrap();
    for name in ["../../x", "a b", "", "a..b", "x\ny"] {
        let options = RepositoryOptions { commit: cloned.commit, branch: Some(name), origin: None };
        assert!(make_repository(&source, stage.path(), &snapshot, &options).is_err(), "{name}");
    }
}
