//! kill −9 at every step: a process that applies a patch is killed before each system call that writes, and what it leaves
//! is the old tree or the new one, byte for byte, with a `.git` whose `HEAD` and index are as they were, or are the new ones.
//!
//! Nothing changes on a disk between two such calls, so these are all the states that a kill at any instruction can leave.
//! strace counts the calls and sends the signal; the call that it comes with is not made.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write as _,
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use git2::Repository;
use runtimed_patch::{
    Enforce, Limits, Recovery, RepositoryOptions, Stage, TreeId, check, checkout, make_repository, parse,
    present, recover, update,
};
use tempfile::TempDir;

use crate::git::{Git, permissive};

/// The calls that change files or names, but for those that open to write, which are told apart by their flags.
const WRITING: &str = "write,pwrite64,writev,pwritev,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,\
                       symlink,symlinkat,link,linkat,ftruncate,truncate,fallocate,chmod,fchmod,fchmodat,copy_file_range,\
                       sendfile,openat";

/// Where an update of `work` keeps its journal, within it.
const STATE: &str = ".git/runtimed-patch";

/// A path: its permission bits, and what is in it; of a directory nothing.
type Files = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

/// A directory with a bare repository `repo`, a patch, the tree that it is for, and a person's own repository `work`, at that.
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
        git.run(["read-tree", &old.to_string()]);
        git.run([b"update-ref".as_slice(), b"HEAD", &commit].map(OsStr::from_bytes));
        fs::remove_dir_all(git.join(".git/hooks")).unwrap();
        let setup = Self { dir: TempDir::new().unwrap() };
        fs::write(setup.at("patch"), git.diff(old, new, &["--full-index", "--no-renames"])).unwrap();
        fs::write(setup.at("old"), old.to_string()).unwrap();
        fs::write(setup.at("commit"), commit).unwrap();
        copy(&git.join(".git"), &setup.at("repo"));
        let repo = Repository::open_bare(setup.at("repo")).unwrap();
        fs::create_dir(setup.at("work")).unwrap();
        copy(&git.join(".git"), &setup.at("work/.git"));
        checkout(&repo, old, fs::File::open(setup.at("work")).unwrap().as_fd()).unwrap();
        fs::write(setup.at("work/untracked"), "mine\n").unwrap();
        fs::create_dir(setup.at("workspace")).unwrap();
        setup
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What one of the two needs: `update` has the repository in its work tree.
    fn copy(&self, what: &str) -> Self {
        let other = Self { dir: TempDir::new().unwrap() };
        let unused = if what == "update" { "repo" } else { "work" };
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let name = entry.unwrap().file_name();
            if name == unused {
                continue;
            }
            copy(&self.dir.path().join(&name), &other.dir.path().join(&name));
        }
        other
    }

    /// Runs the child under strace with these options.
    fn strace(&self, what: &str, options: &[&str]) -> Output {
        let calls = self.at("calls");
        let mut words: Vec<&OsStr> = ["strace", "-f", "-qq", "-s", "0", "-o"].map(OsStr::new).to_vec();
        words.push(calls.as_os_str());
        words.extend(options.iter().map(OsStr::new));
        self.child(what, &words)
    }

    /// Runs the child, as an argument of `before`.
    #[expect(clippy::disallowed_methods, reason = "the process that dies must be another one")]
    fn child(&self, what: &str, before: &[&OsStr]) -> Output {
        let program = std::env::current_exe().unwrap();
        let words: Vec<&OsStr> = before.iter().copied().chain([program.as_os_str()]).collect();
        Command::new(words[0])
            .args(&words[1..])
            .args(["--exact", "killed::killed_child", "--test-threads=1"])
            .env("RUNTIMED_PATCH_KILL_DIR", self.dir.path())
            .env("RUNTIMED_PATCH_KILL_WHAT", what)
            .stdin(Stdio::null())
            .output()
            .expect("it runs")
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
        if path.ends_with(".git/runtimed-patch") {
            // Where an update keeps its journal.
            continue;
        }
        let content = if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            None
        } else if metadata.is_symlink() {
            Some(fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
        } else if path.ends_with(".git/index") {
            // It has the inodes and times of its own work tree as well.
            Some(listed(&path))
        } else {
            Some(fs::read(&path).unwrap())
        };
        let name = path.strip_prefix(place).unwrap().to_owned();
        files.insert(name, (metadata.permissions().mode(), content));
    }
    files
}

/// What an index says of each path, but for what it noted of the file.
fn listed(index: &Path) -> Vec<u8> {
    let lines = git2::Index::open(index).unwrap();
    let lines = lines.iter().map(|it| {
        let (path, stage) = (String::from_utf8_lossy(&it.path).into_owned(), (it.flags >> 12) & 3);
        format!("{:o} {} {stage} {} {path}\n", it.mode, it.id, it.file_size)
    });
    let lines: String = lines.collect();
    assert!(!lines.is_empty(), "an index of nothing would be like any other");
    lines.into_bytes()
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
    let old: TreeId = fs::read_to_string(dir.join("old")).unwrap().parse().unwrap();
    let (bytes, limits) = (fs::read(dir.join("patch")).unwrap(), Limits::default());
    let stack = [parse(&bytes, &limits).unwrap()];
    if std::env::var("RUNTIMED_PATCH_KILL_WHAT").unwrap() == "update" {
        // As `runtimectl patch apply` does it.
        let work = dir.join("work");
        let repo = Repository::open(&work).unwrap();
        let from = present(&repo, &work, old, stack[0].paths()).unwrap();
        let checked = check(&repo, from, &stack, &permissive(), Enforce::AlwaysOnly, &limits).unwrap();
        update(&repo, &work, &work.join(STATE), from, checked.tree).unwrap();
        return;
    }
    // As the worker does it.
    let repo = Repository::open_bare(dir.join("repo")).unwrap();
    let checked = check(&repo, old, &stack, &permissive(), Enforce::All, &limits).unwrap();
    checked.persist(&repo).unwrap();
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
fn kill_everywhere(template: &Setup, what: &str, judge: impl Fn(&Setup) -> bool) -> (usize, usize) {
    let points = points(&template.copy(what), what);
    let (mut old, mut new) = (0, 0);
    for (name, count) in &points {
        let setup = template.copy(what);
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
    let template = Setup::new();
    let done = template.copy("update");
    let before = files(&done.at("work"));
    let output = done.strace("update", &["-e", "trace=none"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let after = files(&done.at("work"));
    assert_ne!(before, after);
    let (head, index) = (Path::new(".git/HEAD"), Path::new(".git/index"));
    assert!([head, index].iter().all(|file| after.contains_key(*file) && before[*file] == after[*file]));
    let (old, new) = kill_everywhere(&template, "update", |setup| {
        let same = |file| {
            fs::read(setup.at("work").join(file)).unwrap()
                == fs::read(template.at("work").join(file)).unwrap()
        };
        assert!(same(head) && same(index), "a killed update leaves HEAD and the index alone");
        let state = setup.at("work").join(STATE);
        let found =
            if state.exists() { recover(&setup.at("work"), &state).unwrap() } else { Recovery::Nothing };
        assert!(same(head) && same(index), "so does its recovery");
        let left = files(&setup.at("work"));
        assert!(left == before || left == after, "{found:?}: {:?}", left.keys());
        assert!(found != Recovery::Discarded || left == before);
        assert!(found != Recovery::Completed || left == after);
        if state.exists() {
            assert_eq!(recover(&setup.at("work"), &state).unwrap(), Recovery::Nothing);
            assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        }
        left == after
    });
    assert!(old >= 15 && new >= 10, "{old} kills left the old tree, {new} the new one");
}

#[test]
fn a_workspace_is_empty_or_whole_wherever_its_making_is_killed() {
    let template = Setup::new();
    let done = template.copy("workspace");
    let before = files(&done.at("workspace"));
    assert!(done.strace("workspace", &["-e", "trace=none"]).status.success());
    let after = files(&done.at("workspace"));
    assert!(before.len() == 1 && after.contains_key(Path::new(".git/HEAD")));
    assert!(!after[Path::new(".git/index")].1.as_ref().unwrap().is_empty());
    let looked = Cell::new(0);
    let (old, new) = kill_everywhere(&template, "workspace", |setup| {
        let left = files(&setup.at("workspace"));
        assert!(left == before || left == after, "{:?}", left.keys());
        looked.set(looked.get() + 1);
        if left == before && looked.get() % 8 == 0 {
            // What is left beside it is not used: whoever tries again, on the same store even, gets the whole one.
            let again = setup.child("workspace", &[]);
            assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
            assert_eq!(files(&setup.at("workspace")), after);
        }
        left == after
    });
    // Its one rename is the last thing that is done; what libtest writes comes after.
    assert!(old >= 40, "{old} kills left it empty, {new} whole");
}
