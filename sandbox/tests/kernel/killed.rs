//! A process that is killed at any instant of staging, rotating and scrubbing leaves nothing that a later one cannot
//! destroy.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runtimed_sandbox::staging::Staging;
use runtimed_sandbox::tree::Root;

const PLACE: &str = "SANDBOX_TEST_KILLED";
const VALUE: &[u8] = b"correct horse battery staple";
const KILLS: u32 = 250;

#[test]
fn a_kill_at_any_instant_leaves_nothing_that_cannot_be_scrubbed() {
    if let Some(place) = std::env::var_os(PLACE) {
        return stage_rotate_scrub(&PathBuf::from(place));
    }
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let whole = {
        let (mut child, begun) = begin(place.path());
        child.wait().unwrap();
        begun.elapsed()
    };
    assert_eq!(Root::open(place.path()).unwrap().list().unwrap(), []);
    let mut met = BTreeSet::new();
    for kill in 0..KILLS {
        let (mut child, begun) = begin(place.path());
        let due = begun + whole.min(Duration::from_millis(20)) * kill / KILLS;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let root = Root::open(place.path()).unwrap();
        for name in root.list().unwrap() {
            let tree = root.reopen(&name).unwrap().expect("it is there");
            let files = fs::read_dir(tree.path().join("s")).map_or(0, Iterator::count);
            met.insert(files);
            if let Some(staging) = Staging::reopen(&tree).unwrap() {
                let report = staging.scrub();
                assert!(report.verified, "kill {kill}: {report:?}");
            }
            assert!(!tree.path().join("s").exists());
            assert!(!holds_value(&tree.path()), "kill {kill}");
            tree.remove().unwrap();
        }
        assert_eq!(root.list().unwrap(), [], "kill {kill}");
    }
    assert!(met.len() >= 3, "the kills met {met:?} staged files");
}

/// Starts this test in another process, and returns when that one begins to stage.
fn begin(place: &Path) -> (Child, Instant) {
    #[expect(clippy::disallowed_methods, reason = "the process that is killed has to be another one")]
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "killed::a_kill_at_any_instant_leaves_nothing_that_cannot_be_scrubbed",
            "--nocapture",
        ])
        .env(PLACE, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("begins")), "the process does not begin");
    (child, Instant::now())
}

fn stage_rotate_scrub(place: &Path) {
    let root = Root::open(place).unwrap();
    #[expect(clippy::print_stdout, reason = "the killing process waits for it")]
    {
        println!("begins");
    }
    let tree = root.create().unwrap();
    let mut staging = Staging::create(&tree).unwrap();
    for index in 0..8 {
        staging.stage(&format!("secret-{index}").parse().unwrap(), VALUE, 0o600).unwrap();
    }
    for index in 0..8 {
        staging.rotate(&format!("secret-{index}").parse().unwrap(), VALUE, 0o400).unwrap();
    }
    assert!(staging.scrub().verified);
    tree.remove().unwrap();
}

fn holds_value(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().map(Result::unwrap).any(|entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            holds_value(&entry.path())
        } else {
            fs::read(entry.path()).unwrap().windows(VALUE.len()).any(|part| part == VALUE)
        }
    })
}
