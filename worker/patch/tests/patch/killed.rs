//! kill −9 at every step: a process that applies a patch is killed before each system call that writes, and what it leaves
//! is the old tree or the new one, byte for byte.
//!
//! Nothing changes on a disk between two such calls, so these are all the states that a kill at any instruction can leave.
//! strace counts the calls and sends the signal; the call that it comes with is not made.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use git2::Repository;
use runtimed_patch::{
    Enforce, Limits, Recovery, RepositoryOptions, Stage, TreeId, check, checkout, make_repository, parse,
    recover, update,
};
use tempfile::TempDir;

use crate::git::{Git, permissive};

/// The calls that change files or names, but for those that open to write, which are told apart by their flags.
const WRITING: &str = "write,pwrite64,writev,pwritev,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,\
                       symlink,symlinkat,link,linkat,ftruncate,truncate,fallocate,chmod,fchmod,fchmodat,copy_file_range,\
                       sendfile,openat";

/// A path: its permission bits, and what is in it; of a directory nothing.
type Files = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

/// A directory with a bare repository `repo`, a patch, the tree that it is for, and a work tree `work` of that.
struct Setup {
    dir: TempDir,
}

impl Setup {
    fn new() -> Self {
        let git = Git::new();
        git.write("changed", "one\ntwo\nthree\n");
        git.write("deep/er/gone", "x\n");
        git.write("dir/inner", "becomes a file\n");
        git.write("file", "becomes a directory\n");
        git.write("bytes", b"\0\x01\xff");
        git.write("tool", "run\n");
        git.write("kept", "kept\n");
        std::os::unix::fs::symlink("kept", git.join("link")).unwrap();
        let old = git.tree();
        git.write("changed", "one\n2\nthree\n");
        fs::remove_dir_all(git.join("deep")).unwrap();
        fs::remove_dir_all(git.join("dir")).unwrap();
        git.write("dir", "a file\n");
        fs::remove_file(git.join("file")).unwrap();
        git.write("file/inner", "a directory\n");
        git.write("bytes", b"\0\x02\xff");
        git.write("empty", "");
        fs::set_permissions(git.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(git.join("link")).unwrap();
        std::os::unix::fs::symlink("changed", git.join("link")).unwrap();
        let new = git.tree();
        let commit = git.run(["commit-tree", &old.to_string(), "-m", "old"]);
        let setup = Self { dir: TempDir::new().unwrap() };
        fs::write(setup.at("patch"), git.diff(old, new, &["--full-index", "--no-renames"])).unwrap();
        fs::write(setup.at("old"), old.to_string()).unwrap();
        fs::write(setup.at("commit"), commit).unwrap();
        copy(&git.join(".git"), &setup.at("repo"));
        let repo = Repository::open_bare(setup.at("repo")).unwrap();
        fs::create_dir(setup.at("work")).unwrap();
        checkout(&repo, old, fs::File::open(setup.at("work")).unwrap().as_fd()).unwrap();
        fs::write(setup.at("work/untracked"), "mine\n").unwrap();
        fs::create_dir(setup.at("workspace")).unwrap();
        setup
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn copy(&self) -> Self {
        let other = Self { dir: TempDir::new().unwrap() };
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&self.dir.path().join(&name), &other.dir.path().join(&name));
        }
        other
    }

    /// Runs the child under strace with these options.
    #[expect(clippy::disallowed_methods, reason = "the process that dies must be another one")]
    fn strace(&self, what: &str, options: &[&str]) -> Output {
        Command::new("strace")
            .args(["-f", "-qq", "-s", "0", "-o"])
            .arg(self.at("calls"))
            .args(options)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "killed::killed_child", "--test-threads=1"])
            .env("RUNTIMED_PATCH_KILL_DIR", self.dir.path())
            .env("RUNTIMED_PATCH_KILL_WHAT", what)
            .stdin(Stdio::null())
            .output()
            .expect("strace runs")
    }
}

fn copy(from: &Path, to: &Path) {
    let kind = fs::symlink_metadata(from).unwrap().file_type();
    if kind.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else {
        fs::copy(from, to).unwrap();
    }
}

fn files(place: &Path) -> Files {
    let mut files = Files::new();
    let mut pending = vec![place.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let content = if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            None
        } else if metadata.is_symlink() {
            Some(fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
        } else if path.ends_with(".git/index") {
            // It has the inodes and times of its own work tree.
            Some(Vec::new())
        } else {
            Some(fs::read(&path).unwrap())
        };
        let name = path.strip_prefix(place).unwrap().to_owned();
        files.insert(name, (metadata.permissions().mode(), content));
    }
    files
}

/// Runs in the process that is killed; alone it does nothing.
#[test]
fn killed_child() {
    let Some(dir) = std::env::var_os("RUNTIMED_PATCH_KILL_DIR").map(PathBuf::from) else { return };
    // strace counts the calls of each thread, and libtest has one that makes some before: with these, none of this one's
    // later calls has the number of one of its.
    let mut nowhere = fs::File::options().write(true).open("/dev/null").unwrap();
    for _ in 0..50 {
        nowhere.write_all(b"x").unwrap();
        drop(fs::File::open("/dev/null").unwrap());
    }
    let repo = Repository::open_bare(dir.join("repo")).unwrap();
    let old: TreeId = fs::read_to_string(dir.join("old")).unwrap().parse().unwrap();
    let (bytes, limits) = (fs::read(dir.join("patch")).unwrap(), Limits::default());
    let stack = [parse(&bytes, &limits).unwrap()];
    let checked = check(&repo, old, &stack, &permissive(), Enforce::All, &limits).unwrap();
    checked.persist(&repo).unwrap();
    if std::env::var("RUNTIMED_PATCH_KILL_WHAT").unwrap() == "update" {
        update(&repo, &dir.join("work"), &dir.join("state"), old, checked.tree).unwrap();
        return;
    }
    let stage = Stage::new(&dir.join("workspace")).unwrap();
    let snapshot = checkout(&repo, checked.tree, stage.open().unwrap().as_fd()).unwrap();
    let commit = fs::read_to_string(dir.join("commit")).unwrap().parse().unwrap();
    let options = RepositoryOptions { commit, branch: None, origin: None };
    make_repository(&repo, stage.path(), &snapshot, &options).unwrap();
    stage.publish().unwrap();
}

/// The writing calls of the child that never dies, in their order: each by its name, and how often it was called before.
fn points(setup: &Setup, what: &str) -> Vec<(String, usize)> {
    let output = setup.strace(what, &["-e", &format!("trace={WRITING}")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = fs::read_to_string(setup.at("calls")).unwrap();
    let calls: Vec<(&str, &str, &str)> = log
        .lines()
        .filter_map(|line| {
            let (thread, call) = line.split_once(' ')?;
            let (name, arguments) = call.trim_start().split_once('(')?;
            Some((thread, name, arguments))
        })
        .collect();
    // The thread that does the work: strace counts for each by itself.
    let working = calls.iter().find(|(_, name, _)| name.starts_with("mkdir")).unwrap().0;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut points = Vec::new();
    let (place, mut begun) = (setup.dir.path().to_str().unwrap(), false);
    for (_, name, arguments) in calls.into_iter().filter(|(thread, ..)| *thread == working) {
        let count = counts.entry(name).or_default();
        *count += 1;
        begun |= arguments.contains(place);
        if !begun {
            continue;
        }
        if name != "openat" || arguments.contains("O_CREAT") || arguments.contains("O_TRUNC") {
            points.push((name.to_owned(), *count));
        }
    }
    points
}

/// Kills at every point, and has `judge` look at what is left: whether it is the new tree.
fn kill_everywhere(what: &str, judge: impl Fn(&Setup) -> bool) -> (usize, usize) {
    let template = Setup::new();
    let points = points(&template.copy(), what);
    let (mut old, mut new) = (0, 0);
    for (name, count) in &points {
        let setup = template.copy();
        let inject = format!("inject={name}:signal=KILL:when={count}");
        let output = setup.strace(what, &["-e", &format!("trace={name}"), "-e", &inject]);
        assert!(!output.status.success(), "{what} survived {name} {count}");
        if judge(&setup) {
            new += 1;
        } else {
            // The order of the points is that of time.
            assert_eq!(new, 0, "{what} went back to the old tree at {name} {count}");
            old += 1;
        }
    }
    (old, new)
}

#[test]
fn a_work_tree_is_the_old_or_the_new_one_wherever_its_update_is_killed() {
    let done = Setup::new();
    let before = files(&done.at("work"));
    assert!(done.strace("update", &["-e", "trace=none"]).status.success());
    let after = files(&done.at("work"));
    assert_ne!(before, after);
    let (old, new) = kill_everywhere("update", |setup| {
        let found = recover(&setup.at("work"), &setup.at("state")).unwrap();
        let left = files(&setup.at("work"));
        assert!(left == before || left == after, "{found:?}: {left:?}");
        assert!(found != Recovery::Discarded || left == before);
        assert!(found != Recovery::Completed || left == after);
        assert_eq!(recover(&setup.at("work"), &setup.at("state")).unwrap(), Recovery::Nothing);
        left == after
    });
    assert!(old >= 30 && new >= 10, "{old} kills left the old tree, {new} the new one");
}

#[test]
fn a_workspace_is_empty_or_whole_wherever_its_making_is_killed() {
    let done = Setup::new();
    let before = files(&done.at("workspace"));
    assert!(done.strace("workspace", &["-e", "trace=none"]).status.success());
    let after = files(&done.at("workspace"));
    assert!(before.len() == 1 && after.contains_key(Path::new(".git/HEAD")));
    let (old, new) = kill_everywhere("workspace", |setup| {
        let left = files(&setup.at("workspace"));
        assert!(left == before || left == after, "{left:?}");
        left == after
    });
    // Its one rename is the last thing that is done; what libtest writes comes after.
    assert!(old >= 40, "{old} kills left it empty, {new} whole");
}
