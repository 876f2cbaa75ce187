//! A tree checked out by the library into a workspace, where a test can play the command.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs::{self, File},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use runtimed_patch::{
    CaptureError, CaptureOptions, Captured, Limits, Snapshot, Stage, TreeId, capture, check, checkout, parse,
};
use tempfile::TempDir;

use crate::git::{Git, permissive};

pub(crate) struct Workspace {
    pub(crate) git: Git,
    dir: TempDir,
    pub(crate) snapshot: Snapshot,
    /// How often a capture has opened the repository.
    pub(crate) opened: Cell<u32>,
}

impl Workspace {
    /// The tree that `fill` makes, checked out.
    pub(crate) fn new(fill: impl FnOnce(&Git)) -> Self {
        let git = Git::new();
        fill(&git);
        let tree = git.tree();
        Self::of(git, tree)
    }

    pub(crate) fn of(git: Git, tree: TreeId) -> Self {
        let dir = TempDir::new().unwrap();
        let stage = Stage::new(&dir.path().join("ws")).unwrap();
        let snapshot = checkout(&git.repo(), tree, stage.open().unwrap().as_fd()).unwrap();
        stage.publish().unwrap();
        let snapshot = Snapshot::from_bytes(&snapshot.to_bytes()).unwrap();
        Self { git, dir, snapshot, opened: Cell::new(0) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("ws")
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn try_capture(&self, options: &CaptureOptions) -> Result<(Captured, Vec<u8>), CaptureError> {
        let mut patch = Vec::new();
        let open = || {
            self.opened.set(self.opened.get() + 1);
            git2::Repository::open_bare(self.git.join(".git"))
        };
        let workspace = File::open(self.path()).unwrap();
        let captured = capture(workspace.as_fd(), &self.snapshot, options, open, &mut patch)?;
        Ok((captured, patch))
    }

    /// Captures, and checks that our own check and git both make the captured tree of the base.
    pub(crate) fn capture(&self) -> (Captured, Vec<u8>) {
        let (captured, patch) = self.try_capture(&CaptureOptions::default()).unwrap();
        assert_eq!(captured.bytes, patch.len() as u64);
        let limits = Limits::default();
        let parsed = [parse(&patch, &limits).unwrap()];
        let repo = self.git.repo();
        let checked =
            check(&repo, captured.base, &parsed, &permissive(), runtimed_patch::Enforce::All, &limits)
                .unwrap();
        assert_eq!(checked.tree, captured.result, "{}", patch.escape_ascii());
        assert_eq!(checked.per_patch[0].insertions, captured.insertions);
        assert_eq!(checked.per_patch[0].deletions, captured.deletions);
        if !patch.is_empty() {
            let theirs = self.git.apply(captured.base, &patch);
            assert_eq!(theirs, Ok(captured.result), "{}", patch.escape_ascii());
        }
        (captured, patch)
    }

    /// The tree that git makes of the workspace, all files taken in, its own `.git` left out.
    pub(crate) fn git_tree(&self) -> TreeId {
        self.added(TreeId::empty(), &["--force"])
    }

    /// The tree that git makes of the workspace where it ignores what is to be ignored.
    pub(crate) fn git_tree_unforced(&self) -> TreeId {
        self.added(self.snapshot.tree(), &[])
    }

    fn added(&self, start: TreeId, options: &[&str]) -> TreeId {
        self.git.run(["read-tree", &start.to_string()]);
        let (workspace, git_dir) = (self.path(), self.git.join(".git"));
        let place = ["-C".as_ref(), workspace.as_os_str(), "--git-dir".as_ref(), git_dir.as_os_str()];
        let add = [&["--work-tree", ".", "add", "--all"], options, &["."]].concat();
        self.git.run(place.into_iter().chain(add.into_iter().map(OsStr::new)));
        self.git.index_tree()
    }
}
