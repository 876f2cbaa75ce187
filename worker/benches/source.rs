//! A git source of 20,000 files on this machine: until the Baseline, and the capture of one changed file, beside `git
//! clone` and `cp -r` in the same run. `cargo bench -p runtimed-worker --bench source`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

#[path = "../tests/worker/git.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod git;
#[path = "../tests/worker/harness.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod harness;

use std::path::Path;
use std::time::{Duration, Instant};

use runtimed_api::link::Source;
use runtimed_api::run::source::GitSource;
use tempfile::TempDir;

use crate::git::Repository;
use crate::harness::Daemon;

/// Files of the repository, in a hundred directories.
const FILES: u32 = 20_000;
/// Rounds that are measured.
const ROUNDS: usize = 3;

fn main() {
    let repository = Repository::new();
    for number in 0..FILES {
        let text: String = (0..40).map(|line| format!("line {line} of file {number}\n")).collect();
        repository.write(&format!("d{}/f{number}", number % 100), &text);
    }
    repository.git(&["add", "."]);
    repository.git(&["commit", "-qm", "many"]);
    let bare = repository.bare();
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let [source, fetch, capture, clone, copy] = &mut times;
        let mut daemon = Daemon::new();
        let started = Instant::now();
        daemon.assign(Source::Git(GitSource {
            url: bare.to_str().expect("it is text").to_owned(),
            reference: None,
            depth: None,
            sub_path: None,
            credential: None,
        }));
        let baseline = daemon.baseline();
        source.push(started.elapsed());
        fetch.push(Duration::from_micros(baseline.steps.iter().map(|step| step.micros).sum()));
        daemon.start(&["sh", "-c", "echo x >> readme"]);
        daemon.exited();
        let started = Instant::now();
        assert_eq!(daemon.capture().0.patch.expect("a file has changed").files, 1);
        capture.push(started.elapsed());

        let place = TempDir::new().expect("there is room");
        let to = place.path().join("clone");
        clone.push(timed(|| clone_to(&bare, &to)));
        copy.push(timed(|| copy_to(&repository.work(), &place.path().join("copy"))));
    }
    let names = ["Assign to Baseline", "  its steps", "Capture to Captured", "git clone --depth 1", "cp -r"];
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_unstable();
        println!("{name:<22} {:>10.1?}", times.get(times.len() / 2).copied().unwrap_or_default());
    }
}

fn clone_to(bare: &Path, to: &Path) {
    let url = format!("file://{}", bare.display());
    git::git(bare, &["clone", "-q", "--depth", "1", &url, to.to_str().expect("it is text")]);
}

#[expect(clippy::disallowed_methods, reason = "the benchmark compares with cp")]
fn copy_to(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-r").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "cp failed");
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}
