//! The phases are held to the memory of their Run: what does not fit is told by its own code, and nothing hangs.

use std::fs::File;
use std::os::fd::AsFd;

use runtimed_api::link::{Assign, Capture, Down, Source};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::source::GitSource;

use crate::git::Repository;
use crate::harness::Daemon;
use crate::server::{Behaviour, Server};
use crate::source::at;

/// More than a phase may hold, and next to nothing in a pack.
const LARGE: u64 = 72 << 20;
const TIGHT: u64 = 48 << 20;

fn with_large_file() -> Repository {
    let repository = Repository::new();
    File::create(repository.work().join("large")).unwrap().set_len(LARGE).unwrap();
    repository.git(&["add", "."]);
    repository.git(&["commit", "-qm", "large"]);
    repository
}

fn fetching(source: GitSource, ca_file: Option<String>, memory: u64) -> Daemon {
    let mut daemon = Daemon::new();
    let assign = Assign { ca_file, memory: Some(memory), ..daemon.assignment(Source::Git(source)) };
    daemon.send(&Down::Assign(Box::new(assign)));
    daemon
}

fn told(mut daemon: Daemon) -> Problem {
    let problem = daemon.fault().problem;
    assert_eq!(daemon.exit_code(), 0);
    assert!(daemon.trees.files().is_empty());
    problem
}

#[test]
fn a_file_that_does_not_fit_ends_the_phase_that_has_to_hold_it() {
    let repository = with_large_file();
    let bare = repository.bare();
    let server = Server::new(bare.parent().unwrap(), Behaviour::Serve);
    let authority = Some(server.authority().to_str().unwrap().to_owned());
    let remote = server.url("bare.git");
    for (url, ca_file, phase) in [
        // Packed here, file by file.
        (bare.to_str().unwrap(), None, "fetch"),
        // The pack comes as it is, and the file is first held when it is written out.
        (&remote, authority.clone(), "apply"),
    ] {
        let problem = told(fetching(at(url, None), ca_file, TIGHT));
        assert_eq!((problem.code, problem.retryable), (Code::MemoryExceeded, false), "{problem:?}");
        let said = format!("the {phase} needs more than the 48 MiB of memory that it may use");
        assert_eq!(problem.message, said);
    }
    let mut fits = fetching(at(&remote, None), authority, 4 * LARGE);
    assert_eq!(fits.baseline().commit.unwrap().as_str(), repository.id("main"));
}

/// The command's verdict stands.
#[test]
fn a_capture_that_would_take_too_much_memory_says_so() {
    let mut daemon = Daemon::new();
    daemon.assign(Source::Empty);
    daemon.baseline();
    daemon.start(&["sh", "-c", "truncate -s 200M sparse"]);
    daemon.exited();
    let asked = Capture {
        max_bytes: 1 << 20,
        max_files: 1000,
        max_changed_bytes: 1 << 30,
        include_ignored: false,
        memory: Some(64 << 20),
        reveal: false,
    };
    let file = tempfile::tempfile().unwrap();
    daemon.send_with(&Down::Capture(asked), &[file.as_fd()]);
    let problem = daemon.fault().problem;
    assert_eq!(problem.code, Code::MemoryExceeded, "{problem:?}");
    assert_eq!(daemon.exit_code(), 0);
}
