//! Our verdict beside git's, over real changes: every disagreement is on the list in `tests/patch/stricter.rs`, or is a bug.
//!
//! ```text
//! cargo run --release -p runtimed-patch --example differential -- history REPOSITORY [COMMITS]
//! cargo run --release -p runtimed-patch --example differential -- debian PACKAGE.dsc...
//! ```
//! Each change is applied as git writes it in several styles, where it was made and where the tree has moved on. Of a
//! Debian source package each quilt patch is a change; it is also tried as its maintainer wrote it. `worker/patch/tests/debian-sources`
//! fetches some.
#![expect(clippy::print_stdout, reason = "it prints what it found")]
#![expect(clippy::disallowed_methods, reason = "dpkg-source and patch unpack the packages")]

#[path = "../tests/patch/git.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod git;
#[path = "../tests/patch/stricter.rs"]
mod stricter;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Mutex, MutexGuard, PoisonError},
};

use git::{Git, check_with, permissive};
use runtimed_patch::{CheckError, TreeId};

/// How git is asked to write a change.
const STYLES: &[&[&str]] =
    &[&["--no-renames", "--full-index"], &["--find-renames", "--full-index"], &["-U1"], &["-U0"]];
/// How far a tree has moved on, in changes.
const DRIFT: &[usize] = &[3, 15];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut found = Findings::default();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["history", repository] => history(Path::new(repository), 1000, &mut found),
        ["history", repository, count] => {
            history(Path::new(repository), count.parse().expect("a number of commits"), &mut found);
        }
        ["debian", packages @ ..] if !packages.is_empty() => found = all_of(packages),
        _ => panic!("give `history REPOSITORY [COMMITS]` or `debian PACKAGE.dsc...`"),
    }
    println!("{} changes, {} comparisons", found.changes, found.counts.values().sum::<u64>());
    for (verdict, count) in &found.counts {
        println!("{count:>8}  {verdict}");
    }
    println!("{:>8}  disagreements that are on no list", found.bugs);
    if found.bugs == 0 && found.changes > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Findings {
    changes: u64,
    counts: BTreeMap<String, u64>,
    bugs: u64,
}

impl Findings {
    fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.bugs += other.bugs;
        for (verdict, count) in other.counts {
            *self.counts.entry(verdict).or_default() += count;
        }
    }

    /// Applies a patch to a tree, ours and theirs. `made`: the tree that it must yield, if it was made for this one.
    fn compare(
        &mut self,
        git: &Git,
        base: TreeId,
        patch: &[u8],
        style: &[&str],
        made: Option<TreeId>,
        what: &str,
    ) {
        if patch.is_empty() {
            return;
        }
        let verdict = match (check_with(git, base, &[patch], &permissive()), git.apply(base, patch)) {
            (Ok(ours), Ok(theirs)) if ours.tree == theirs && made.is_none_or(|made| made == theirs) => {
                "both apply it, to the same tree".to_owned()
            }
            (Err(CheckError::Refused(_)), Err(_)) => "both refuse it".to_owned(),
            (Err(CheckError::Refused(refusal)), Ok(_))
                if let Some(reason) = stricter::stricter(git, style, base, patch, &refusal) =>
            {
                format!("only git applies it: {reason}")
            }
            (ours, theirs) => {
                self.bugs += 1;
                println!("BUG {what}, {style:?}, on {base}\n  we  {ours:?}\n  git {theirs:?}");
                return;
            }
        };
        *self.counts.entry(verdict).or_default() += 1;
    }

    /// One change in every style, where it was made and on trees that have moved on.
    fn change(&mut self, git: &Git, trees: [TreeId; 2], moved: &[TreeId], what: &str) {
        self.changes += 1;
        for style in STYLES {
            let patch = git.diff(trees[0], trees[1], style);
            // Without context a change may apply to more than one place, and then is not what it was.
            let made = (!style.contains(&"-U0")).then_some(trees[1]);
            self.compare(git, trees[0], &patch, style, made, what);
            for base in moved {
                self.compare(git, *base, &patch, style, None, what);
            }
        }
    }
}

/// Every commit but merges, newest first.
fn history(repository: &Path, count: usize, found: &mut Findings) {
    let git = Git::new();
    let repository = repository.canonicalize().expect("a repository");
    let objects = repository.join(".git/objects");
    git.write(".git/objects/info/alternates", format!("{}\n", objects.display()));
    let place = repository.display().to_string();
    let limit = format!("--max-count={count}");
    let list = git.run(["-c", "safe.directory=*", "-C", &place, "rev-list", "--no-merges", &limit, "HEAD"]);
    let commits: Vec<String> = String::from_utf8(list).expect("ids").lines().map(str::to_owned).collect();
    let tree = |commit: &str| -> Option<TreeId> {
        let output = git.try_run(["rev-parse", "--verify", "--quiet", &format!("{commit}^{{tree}}")], b"");
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    let trees: Vec<Option<[TreeId; 2]>> =
        commits.iter().map(|commit| Some([tree(&format!("{commit}^"))?, tree(commit)?])).collect();
    for (at, pair) in trees.iter().enumerate() {
        let Some(pair) = pair else { continue };
        let later = DRIFT.iter().filter_map(|drift| Some(trees.get(at.checked_sub(*drift)?)?.as_ref()?[1]));
        let earlier = DRIFT.iter().filter_map(|drift| Some(trees.get(at + drift)?.as_ref()?[0]));
        found.change(&git, *pair, &later.chain(earlier).collect::<Vec<_>>(), &commits[at]);
    }
}

/// Every package, as many at a time as there are processors. What was found in each is said when it is done.
fn all_of(packages: &[&str]) -> Findings {
    let left = Mutex::new(packages.iter());
    let found = Mutex::new(Findings::default());
    let take = || {
        while let Some(package) = locked(&left).next() {
            let mut here = Findings::default();
            debian(Path::new(package), &mut here);
            let compared = here.counts.values().sum::<u64>();
            println!(
                "{package}: {} changes, {compared} comparisons, {} unexplained",
                here.changes, here.bugs
            );
            locked(&found).add(here);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(take);
        }
        take();
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every quilt patch of a source package.
fn debian(package: &Path, found: &mut Findings) {
    // One repository has the files, and an index that knows which of them changed; the other is for comparisons, which
    // put another tree into the index each time.
    let (files, git) = (Git::new(), Git::new());
    git.write(".git/objects/info/alternates", format!("{}\n", files.join(".git/objects").display()));
    let place = files.join("source");
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "--skip-patches", "-x"]).arg(package).arg(&place);
    let unpacked = unpack.output().expect("dpkg-source runs");
    if !unpacked.status.success() {
        println!("{} is not whole here, and left out", package.display());
        return;
    }
    let patches = std::fs::read_dir(place.join("debian"))
        .map_or_else(|_| PathBuf::new(), |_| place.join("debian/patches"));
    let Ok(series) = std::fs::read_to_string(patches.join("series")) else {
        println!("{} has no patches", package.display());
        return;
    };
    let names = series.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    let names: Vec<&str> = names.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    files.run(["config", "core.autocrlf", "false"]);
    let kept = files.join(".git/patches");
    std::fs::rename(&patches, &kept).expect("moved");
    // The package's own tree is the top, as its patches expect.
    let tree = || -> TreeId {
        files.run(["add", "--all", "--force", "source"]);
        let tree = files.run(["write-tree", "--prefix=source/"]);
        String::from_utf8(tree).expect("an id").parse().expect("an id")
    };
    let mut trees = vec![tree()];
    for name in names {
        // Options behind the name say how much of each path to strip.
        let (name, options) = name.split_once(' ').unwrap_or((name, ""));
        let Ok(bytes) = std::fs::read(kept.join(name)) else { continue };
        let what = format!("{} {name}", package.display());
        let base = trees[trees.len() - 1];
        if !options.contains("-p") {
            found.compare(&git, base, &bytes, &["as written"], None, &what);
        }
        let strip = options.split(' ').find(|option| option.starts_with("-p")).unwrap_or("-p1");
        let mut apply = Command::new("patch");
        apply.args([strip, "--quiet", "--batch", "--forward", "--no-backup-if-mismatch", "--fuzz=2", "-i"]);
        let applied = apply.arg(kept.join(name)).current_dir(&place).output().expect("patch runs");
        if !applied.status.success() {
            println!("{what} does not apply with patch either; the rest is left out");
            break;
        }
        let next = tree();
        let moved = DRIFT.iter().filter_map(|drift| trees.get(trees.len().checked_sub(drift + 1)?).copied());
        let moved: Vec<_> = std::iter::once(trees[0]).chain(moved).filter(|tree| *tree != base).collect();
        found.change(&git, [base, next], &moved, &what);
        trees.push(next);
    }
}
