//! What a worker does with a daemon that is not one.

use std::io::Write;
use std::process::Stdio;

use runtimed_api::link::{Capture, Down, Hello, Source};

use crate::harness::Daemon;

#[expect(clippy::disallowed_methods, reason = "the test starts the program as a person would")]
fn by_hand(arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_runtimed-worker"));
    command.args(arguments).env_clear().stdin(Stdio::null()).output().unwrap()
}

#[test]
fn started_by_hand_it_says_what_it_is_for() {
    for arguments in [&[][..], &["--help"], &["version"], &["version", "--json", "x"]] {
        let output = by_hand(arguments);
        assert_eq!(output.status.code(), Some(120), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.lines().count() == 1 && said.contains("runtimectl local"), "{said}");
    }
}

#[test]
fn the_build_is_told() {
    let output = by_hand(&["version", "--json"]);
    assert!(output.status.success());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["build"], runtimed_worker::BUILD_ID);
}

#[test]
fn another_build_is_refused() {
    let mut daemon = Daemon::silent();
    daemon.send(&Down::Hello(Hello { build: "another".parse().unwrap() }));
    assert!(matches!(daemon.receive(), runtimed_api::link::Up::Hello(_)));
    let problem = daemon.fault().problem;
    assert!(problem.message.contains("the daemon of another") && !problem.retryable, "{problem:?}");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn frames_out_of_turn_are_faults() {
    let hello = || Down::Hello(Hello { build: runtimed_worker::BUILD_ID.parse().unwrap() });
    let capture = || {
        Down::Capture(Capture {
            max_bytes: 1,
            max_files: 1,
            max_changed_bytes: 1,
            include_ignored: false,
            memory: None,
            reveal: false,
        })
    };
    let start = || Down::Start(Daemon::start_frame(&["true"]));

    let mut daemon = Daemon::silent();
    daemon.send(&start());
    assert!(matches!(daemon.receive(), runtimed_api::link::Up::Hello(_)));
    assert!(daemon.fault().problem.message.contains("Start out of turn"));

    for frame in [hello(), start(), capture()] {
        let mut daemon = Daemon::new();
        daemon.send(&frame);
        assert!(daemon.fault().problem.message.contains("out of turn"));
        assert_eq!(daemon.exit_code(), 0);
    }
    let mut daemon = Daemon::new();
    daemon.assign(Source::Empty);
    daemon.baseline();
    daemon.send(&capture());
    assert!(daemon.fault().problem.message.contains("Capture out of turn"));

    // While the command runs, too; and then nothing of it is left.
    let mut daemon = Daemon::new();
    daemon.assign(Source::Empty);
    daemon.baseline();
    daemon.start(&["sleep", "1000"]);
    daemon.send(&start());
    assert!(daemon.fault().problem.message.contains("Start out of turn"));
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn bytes_that_are_no_frame_end_the_link() {
    for bytes in [&u32::MAX.to_le_bytes()[..], b"\x02\0\0\0{}", b"\x05\0\0\0hello"] {
        let mut daemon = Daemon::new();
        daemon.link.as_ref().unwrap().write_all(bytes).unwrap();
        let problem = daemon.fault().problem;
        assert!(problem.message.starts_with("a frame "), "{problem:?}");
        assert_eq!(daemon.exit_code(), 125);
    }
}

#[test]
fn a_frame_without_its_descriptor_ends_the_link() {
    let mut daemon = Daemon::new();
    daemon.assign(Source::Empty);
    daemon.baseline();
    daemon.start(&["true"]);
    daemon.exited();
    daemon.send(&Down::Capture(Capture {
        max_bytes: 1,
        max_files: 1,
        max_changed_bytes: 1,
        include_ignored: false,
        memory: None,
        reveal: false,
    }));
    assert!(daemon.fault().problem.message.contains("fewer descriptors"));
    assert_eq!(daemon.exit_code(), 125);
}

#[test]
fn a_stop_before_the_command_ends_the_worker_without_a_word() {
    let mut daemon = Daemon::new();
    daemon.assign(Source::Empty);
    daemon.baseline();
    daemon.stop(1000);
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn the_end_of_the_link_ends_a_waiting_worker() {
    let mut daemon = Daemon::new();
    drop(daemon.link.take());
    assert_eq!(daemon.exit_code(), 125);
}
