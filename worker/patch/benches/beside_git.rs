//! Checking, applying and capturing beside git, in one run: `cargo bench -p runtimed-patch --bench beside_git`.
//!
//! Both sides work on the same files. git's figures have the start of its processes in them, as a person who uses it does.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

#[path = "../tests/patch/git.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod git;

use std::{
    fs,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use git::{Git, permissive};
use git2::{Oid, Repository};
use runtimed_patch::{
    CaptureOptions, Enforce, Limits, RepositoryOptions, Snapshot, Stage, TreeId, capture, check, checkout,
    make_repository, parse, update,
};
use tempfile::TempDir;

const ROUNDS: usize = 5;
/// Files that the patch changes, of twice as many.
const CHANGED: usize = 1_000;
/// Files of the tree that is captured, and how many of them change.
const FILES: usize = 50_000;
const EDITS: usize = 10;

fn main() {
    check_and_apply();
    capture_a_large_tree();
}

fn check_and_apply() {
    let git = Git::new();
    let text = |file: usize, edit: &str| -> String {
        (0..60)
            .map(|line| format!("line {line} of file {file}{}\n", if line == 30 { edit } else { "" }))
            .collect()
    };
    let fill = |edit: &str| {
        for file in 0..CHANGED * 2 {
            let edit = if file % 2 == 0 { edit } else { "" };
            git.write(format!("d{}/e{}/f{file}", file % 20, file % 7), text(file, edit));
        }
        git.tree()
    };
    let (old, new) = (fill(""), fill(", changed"));
    let patch = git.diff(old, new, &["--full-index"]);
    fs::write(git.join(".git/it.patch"), &patch).expect("written");
    let commit = git.run(["commit-tree", &old.to_string(), "-m", "old"]);
    git.run(["update-ref", "HEAD", &String::from_utf8(commit).expect("an id")]);
    // Neither side finds the result in the store already.
    let reset = || {
        git.run(["read-tree", "--reset", "-u", &old.to_string()]);
        git.run(["prune", "--expire=now"]);
    };
    let [mut ours, mut theirs] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        reset();
        ours.push(timed(|| {
            let (repo, limits) = (git.repo(), Limits::default());
            let parsed = parse(&patch, &limits).expect("well formed");
            let checked =
                check(&repo, old, &[parsed], &permissive(), Enforce::All, &limits).expect("it applies");
            assert_eq!(checked.tree, new);
            let changed = update(&repo, git.path(), &git.join(".git/runtimed-patch"), old, new);
            assert_eq!(changed.expect("updated"), CHANGED);
        }));
        reset();
        theirs.push(timed(|| {
            git.run(["apply", "--check", ".git/it.patch"]);
            git.run(["apply", "--index", ".git/it.patch"]);
        }));
        assert_eq!(git.index_tree(), new);
    }
    report(
        &format!("check and apply {CHANGED} files"),
        "git apply --check, git apply --index",
        ours,
        theirs,
        1.0,
    );
}

fn capture_a_large_tree() {
    let git = Git::new();
    for file in 0..FILES {
        git.write(format!("d{}/e{}/f{file}", file % 100, file % 7), format!("content of file {file}\n"));
    }
    let tree = git.tree();
    let commit = git.run(["commit-tree", &tree.to_string(), "-m", "many"]);
    let commit = Oid::from_str(&String::from_utf8(commit).expect("an id")).expect("an id");
    let dir = TempDir::new().expect("there is room");
    let snapshot = workspace(&git.repo(), tree, commit, &dir.path().join("ws"));
    let workspace = dir.path().join("ws");
    for file in 0..EDITS {
        let file = file * (FILES / EDITS);
        fs::write(workspace.join(format!("d{}/e{}/f{file}", file % 100, file % 7)), "changed\n")
            .expect("written");
    }
    let place = workspace.to_str().expect("it is text");
    let [mut ours, mut theirs] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        ours.push(timed(|| {
            let snapshot = Snapshot::from_bytes(&snapshot).expect("ours");
            let directory = fs::File::open(&workspace).expect("there");
            let mut patch = Vec::new();
            let open = || Repository::open_bare(git.join(".git"));
            let options = CaptureOptions::default();
            let captured =
                capture(directory.as_fd(), &snapshot, &options, open, &mut patch).expect("captured");
            assert_eq!(captured.files, EDITS);
        }));
        theirs.push(timed(|| {
            let status = git.run(["-C", place, "status", "--porcelain"]);
            assert_eq!(status.split(|byte| *byte == b'\n').count(), EDITS);
        }));
    }
    report(&format!("capture {EDITS} changes among {FILES} files"), "git status", ours, theirs, 2.0);
}

/// A workspace with a repository of its own, as the worker makes it; its snapshot as bytes.
fn workspace(repo: &Repository, tree: TreeId, commit: Oid, path: &Path) -> Vec<u8> {
    let stage = Stage::new(path).expect("made");
    let snapshot = checkout(repo, tree, stage.open().expect("open").as_fd()).expect("checked out");
    let options = RepositoryOptions { commit, branch: None, origin: None };
    make_repository(repo, stage.path(), &snapshot, &options).expect("made");
    stage.publish().expect("published");
    snapshot.to_bytes()
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn report(what: &str, peer: &str, mut ours: Vec<Duration>, mut theirs: Vec<Duration>, target: f64) {
    let middle = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (ours, theirs) = (middle(&mut ours), middle(&mut theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{what}: {ours:?}; {peer}: {theirs:?}; ratio {ratio:.2} (target: at most {target:.1})");
}
