//! A git source of some 100 MB over https, whole history: cold beside `git clone` from the same server, and warm beside `git
//! clone --no-hardlinks` from a local mirror, in the same run. `cargo bench -p runtimed-worker --bench remote`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

#[path = "../tests/worker/git.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod git;
#[path = "../tests/worker/harness.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod harness;
#[path = "../tests/worker/server.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests' own, and they use the rest of it")]
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use runtimed_api::link::{Assign, Down, Mirror, Source};
use runtimed_api::run::source::GitSource;
use tempfile::TempDir;

use crate::git::Repository;
use crate::harness::Daemon;
use crate::server::{Behaviour, Server};

/// Files of the repository, in 40 directories.
const FILES: u64 = 2_000;
/// Bytes of each, half of which cannot be compressed.
const BYTES: usize = 100_000;
/// Rounds that are measured.
const ROUNDS: usize = 5;

fn main() {
    let repository = Repository::new();
    let mut random = Random(1);
    for number in 0..FILES {
        let text: Vec<u8> = (0..BYTES / 2).flat_map(|_| [b'a', random.byte()]).collect();
        let path = repository.work().join(format!("d{}/f{number}", number % 40));
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    repository.git(&["add", "."]);
    repository.git(&["commit", "-qm", "many"]);
    let bare = repository.bare();
    git::git(&bare, &["repack", "-adq"]);
    let server = Server::new(bare.parent().expect("it has one"), Behaviour::Serve);
    let mirror = TempDir::new().expect("there is room");
    let mut times: [Vec<Duration>; 4] = Default::default();
    fetch(&server, Some(mirror.path()));
    for _ in 0..ROUNDS {
        let [cold, clone, warm, local] = &mut times;
        cold.push(fetch(&server, None));
        clone.push(clone_from(&server, &server.url("bare.git"), &[]));
        warm.push(fetch(&server, Some(mirror.path())));
        local.push(clone_from(&server, bare.to_str().expect("it is text"), &["--no-hardlinks"]));
    }
    let mut median = |index: usize| {
        let times: &mut Vec<Duration> = &mut times[index];
        times.sort_unstable();
        times[times.len() / 2]
    };
    let [cold, clone, warm, local] = [median(0), median(1), median(2), median(3)];
    println!(
        "cold source              {cold:>8.2?}   git clone over https            {clone:>8.2?}   {:.2} x",
        ratio(cold, clone)
    );
    println!(
        "warm source              {warm:>8.2?}   git clone --no-hardlinks local  {local:>8.2?}   {:.2} x",
        ratio(warm, local)
    );
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

/// From the Assign to the Baseline.
fn fetch(server: &Server, mirror: Option<&Path>) -> Duration {
    let mut daemon = Daemon::new();
    let source = GitSource {
        url: server.url("bare.git"),
        reference: None,
        depth: Some(0),
        sub_path: None,
        credential: None,
    };
    let assign = Assign {
        ca_file: Some(server.authority().to_str().expect("it is text").to_owned()),
        mirror: mirror.map(|path| Mirror {
            path: path.to_str().expect("it is text").to_owned(),
            epoch: "bench".to_owned(),
            max_bytes: 1 << 30,
        }),
        ..daemon.assignment(Source::Git(source))
    };
    let started = Instant::now();
    daemon.send(&Down::Assign(Box::new(assign)));
    daemon.baseline();
    started.elapsed()
}

fn clone_from(server: &Server, url: &str, more: &[&str]) -> Duration {
    let place = TempDir::new().expect("there is room");
    let authority = format!("http.sslCAInfo={}", server.authority().display());
    let to = place.path().join("clone");
    let mut arguments = vec!["-c", &authority, "clone", "-q"];
    arguments.extend(more);
    arguments.extend([url, to.to_str().expect("it is text")]);
    let started = Instant::now();
    git::git(place.path(), &arguments);
    started.elapsed()
}

/// Numbers that look random, and are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }
}
