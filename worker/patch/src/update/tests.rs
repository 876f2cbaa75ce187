//! Updates that end well, that are refused, and that are killed at each of their steps.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use git2::{ObjectType, Repository};
use tempfile::TempDir;

use super::{Recovery, UpdateError, crash, present, recover, update};
use crate::{
    git_path::GitPath,
    objects::{Objects, persist},
    tree::{Changes, Entry, Mode, TreeId, rewrite},
};

type Files = &'static [(&'static str, Mode, &'static str)];

const OLD: Files = &[
    ("changed", Mode::File, "old\n"),
    ("deep/er/gone", Mode::File, "x\n"),
    ("dir/inner", Mode::File, "becomes a file\n"),
    ("file", Mode::File, "becomes a directory\n"),
    ("kept", Mode::File, "kept\n"),
    ("link", Mode::Symlink, "kept"),
    ("tool", Mode::File, "run\n"),
];

const NEW: Files = &[
    ("changed", Mode::File, "new\n"),
    ("dir", Mode::File, "a file\n"),
    ("file/inner", Mode::File, "a directory\n"),
    ("kept", Mode::File, "kept\n"),
    ("link/inner", Mode::File, "was a symlink\n"),
    ("new link", Mode::Symlink, "kept"),
    ("tool", Mode::Executable, "run\n"),
    ("x/y/z", Mode::File, ""),
];

/// A work tree with `OLD` and a file that nobody tracks, and a repository that has both trees.
struct Setup {
    dir: TempDir,
}

impl Setup {
    fn new() -> Self {
        let setup = Self { dir: TempDir::new().unwrap() };
        Repository::init_bare(setup.dir.path().join("repo")).unwrap();
        fs::create_dir(setup.work_tree()).unwrap();
        let (old, _) = trees(setup.dir.path());
        let directory = crate::checkout::open_path(&setup.work_tree()).unwrap();
        crate::checkout(&repo(setup.dir.path()), old, std::os::fd::AsFd::as_fd(&directory)).unwrap();
        fs::write(setup.work_tree().join("untracked"), "mine\n").unwrap();
        setup
    }

    fn work_tree(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn update(&self) -> Result<usize, UpdateError> {
        run(self.dir.path())
    }

    fn recover(&self) -> Recovery {
        recover(&self.work_tree(), &self.dir.path().join("state")).unwrap()
    }

    /// Every file: its kind and content.
    fn files(&self) -> BTreeMap<String, (Mode, String)> {
        let mut files = BTreeMap::new();
        let mut pending = vec![self.work_tree()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.work_tree()).unwrap().to_str().unwrap().to_owned();
                let metadata = path.symlink_metadata().unwrap();
                if metadata.is_dir() {
                    pending.push(path);
                } else if metadata.is_symlink() {
                    let target = fs::read_link(path).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, (Mode::Symlink, target));
                } else {
                    let executable = metadata.permissions().mode() & 0o100 != 0;
                    let mode = if executable { Mode::Executable } else { Mode::File };
                    files.insert(name, (mode, fs::read_to_string(path).unwrap()));
                }
            }
        }
        files
    }
}

fn repo(dir: &Path) -> Repository {
    Repository::open_bare(dir.join("repo")).unwrap()
}

fn trees(dir: &Path) -> (TreeId, TreeId) {
    let repo = repo(dir);
    let objects = Objects::new(&repo).unwrap();
    let tree = |files: Files| {
        let entry = |(path, mode, content): &(&str, Mode, &str)| {
            let id = objects.write(ObjectType::Blob, content.as_bytes()).unwrap();
            (GitPath::new(path.as_bytes()), Some(Entry { mode: *mode, id }))
        };
        rewrite(&objects, TreeId::empty(), &files.iter().map(entry).collect::<Changes>()).unwrap()
    };
    let trees = (tree(OLD), tree(NEW));
    persist(&repo, &objects.into_written()).unwrap();
    trees
}

fn run(dir: &Path) -> Result<usize, UpdateError> {
    let (old, new) = trees(dir);
    update(&repo(dir), &dir.join("work"), &dir.join("state"), old, new)
}

fn expected(files: Files) -> BTreeMap<String, (Mode, String)> {
    let untracked = [("untracked", Mode::File, "mine\n")];
    let all = files.iter().chain(&untracked);
    all.map(|(path, mode, content)| ((*path).to_owned(), (*mode, (*content).to_owned()))).collect()
}

#[test]
fn the_work_tree_becomes_the_new_tree_and_keeps_what_is_not_tracked() {
    let setup = Setup::new();
    assert_eq!(setup.update().unwrap(), 11);
    assert_eq!(setup.files(), expected(NEW));
    assert!(!setup.work_tree().join("deep").exists(), "empty directories go");
    assert_eq!(fs::read_dir(setup.dir.path().join("state")).unwrap().count(), 0);
    assert_eq!(setup.recover(), Recovery::Nothing);
}

#[test]
fn whatever_is_not_as_expected_leaves_everything_as_it_was() {
    type Spoil = fn(&Path);
    let spoils: &[(&str, Spoil)] = &[
        ("changed", |work| fs::write(work.join("changed"), "mine\n").unwrap()),
        ("deep/er/gone", |work| fs::remove_file(work.join("deep/er/gone")).unwrap()),
        ("tool", |work| fs::set_permissions(work.join("tool"), fs::Permissions::from_mode(0o755)).unwrap()),
        ("x/y/z", |work| fs::create_dir_all(work.join("x/y/z")).unwrap()),
        ("x/y/z", |work| fs::write(work.join("x"), "mine\n").unwrap()),
        ("x/y/z", |work| symlink("deep", work.join("x")).unwrap()),
        ("new link", |work| fs::write(work.join("new link"), "mine\n").unwrap()),
        ("dir", |work| fs::write(work.join("dir/mine"), "mine\n").unwrap()),
        ("dir", |work| fs::create_dir(work.join("dir/empty")).unwrap()),
        ("link", |work| {
            fs::remove_file(work.join("link")).unwrap();
            symlink("elsewhere", work.join("link")).unwrap();
        }),
        ("deep/er/gone", |work| {
            fs::rename(work.join("deep"), work.join("deep2")).unwrap();
            symlink("deep2", work.join("deep")).unwrap();
        }),
    ];
    for (file, spoil) in spoils {
        let setup = Setup::new();
        spoil(&setup.work_tree());
        let before = setup.files();
        match setup.update() {
            Err(UpdateError::NotClean { path, started: false }) => {
                assert_eq!(path.as_bytes(), file.as_bytes());
            }
            other => panic!("{file}: {other:?}"),
        }
        assert_eq!(setup.files(), before, "{file}");
    }
}

#[test]
fn what_a_change_replaces_is_not_in_its_way() {
    let setup = Setup::new();
    let (old, _) = trees(setup.dir.path());
    let found = |names: &[&str]| {
        let paths: Vec<_> = names.iter().map(|name| GitPath::new(name.as_bytes())).collect();
        present(&repo(setup.dir.path()), &setup.work_tree(), old, &paths)
    };
    for names in [["dir", "dir/inner"], ["file", "file/inner"], ["link", "link/inner"], ["new", "x/y"]] {
        assert_eq!(found(&names).unwrap(), old, "{names:?}");
    }
    for name in ["dir", "file/inner", "link/inner", "deep/er"] {
        let in_the_way = found(&[name, "kept"]);
        assert!(
            matches!(&in_the_way, Err(UpdateError::NotClean { path, started: false }) if path.as_bytes() == name.as_bytes()),
            "{name}: {in_the_way:?}"
        );
    }
}

#[test]
fn two_updates_at_once_are_one_too_many() {
    let setup = Setup::new();
    let state = setup.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let lock = crate::checkout::open_path(&state).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(matches!(setup.update(), Err(UpdateError::Busy)));
}

/// Runs in the process that is killed; alone it does nothing.
#[test]
fn killed_child() {
    let Ok(dir) = std::env::var("RUNTIMED_PATCH_CRASH_DIR") else { return };
    let points = std::env::var("RUNTIMED_PATCH_CRASH_AFTER").unwrap().parse().unwrap();
    crash::tests::after(points);
    run(Path::new(&dir)).unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the process that dies must be another one")]
fn a_kill_at_any_step_leaves_the_old_tree_or_the_new_one() {
    let (mut discarded, mut completed) = (0, 0);
    for points in 0.. {
        let setup = Setup::new();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "update::tests::killed_child"])
            .env("RUNTIMED_PATCH_CRASH_DIR", setup.dir.path())
            .env("RUNTIMED_PATCH_CRASH_AFTER", points.to_string())
            .output()
            .unwrap()
            .status;
        match (setup.recover(), status.success()) {
            (Recovery::Discarded, false) => {
                discarded += 1;
                assert_eq!(setup.files(), expected(OLD), "after {points} steps");
            }
            (Recovery::Completed, false) => {
                completed += 1;
                assert_eq!(setup.files(), expected(NEW), "after {points} steps");
            }
            // Before the first file is staged, or after the journal is gone.
            (found, finished) => {
                let files = if completed == 0 { OLD } else { NEW };
                assert_eq!(
                    (setup.files(), found),
                    (expected(files), Recovery::Nothing),
                    "after {points} steps"
                );
                if finished {
                    break;
                }
            }
        }
        assert_eq!(setup.recover(), Recovery::Nothing, "a recovery has nothing left to recover");
    }
    assert!(discarded >= 9 && completed >= 11, "{discarded} {completed}");
}
