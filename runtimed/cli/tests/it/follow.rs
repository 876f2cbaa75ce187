//! Staying with a Run.

use std::io::Read as _;
use std::process::Child;

use runtimed_api::log::Stream::{Stderr, Stdout};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Said, run, runtimectl};
use crate::script::{Script, Server};

const RUN: [&str; 6] = ["run", "--runtime", "bash", "--", "make", "test"];

fn interrupt(child: &Child) {
    let pid = Pid::from_child(child);
    kill_process(pid, Signal::INT).expect("it lives");
}

/// Runs it with these arguments against a server.
fn against(server: &Server, arguments: &[&str]) -> Said {
    let server = ["--server", &server.url];
    run(&server.iter().chain(arguments).copied().collect::<Vec<_>>())
}

#[test]
fn a_log_goes_on_where_its_connection_broke() {
    let log = vec![(Stdout, "one\n"), (Stderr, "two\n"), (Stdout, "three\n"), (Stdout, "no newline")];
    let server = Server::start(Script { log, cut: true, ..Script::default() });
    server.end(7);
    let said = against(&server, &RUN);
    assert_eq!(said.code, Some(7), "{}", said.err);
    assert_eq!(said.out, "one\nthree\nno newline");
    assert!(said.err.contains("two\n") && said.err.contains("Failed  default/fix-typo"), "{}", said.err);
    assert!(said.err.starts_with("note: no source is given"), "{}", said.err);

    let followed = against(&server, &["logs", "-f", "fix-typo"]);
    assert_eq!(
        (followed.code, followed.out.as_str(), followed.err.as_str()),
        (Some(0), "one\nthree\nno newline", "two\n")
    );
    let waited = against(&server, &["wait", "fix-typo"]);
    assert_eq!((waited.code, waited.out.as_str()), (Some(7), "fix-typo Failed\n"));
}

#[test]
fn a_program_gets_one_object_and_the_log_stays_off_it() {
    let server = Server::start(Script { log: vec![(Stdout, "text\n")], ..Script::default() });
    server.end(0);
    let said = against(&server, &[&["-o", "json"][..], &RUN].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    let object: serde_json::Value = serde_json::from_str(&said.out).expect("one object");
    assert_eq!(object["status"]["phase"], "Succeeded");
    assert!(said.err.contains("text\n"), "{}", said.err);
}

#[test]
fn the_first_interrupt_cancels() {
    let script = Script { log: vec![(Stdout, "working\n")], endless: true, obeys: true, ..Script::default() };
    let server = Server::start(script);
    let child = runtimectl(&[&["--server", &server.url][..], &RUN].concat()).spawn().expect("it runs");
    server.wait_for("log");
    interrupt(&child);
    server.wait_for("cancel");
    let said: Said = child.wait_with_output().expect("it ends").into();
    assert_eq!(said.code, Some(122), "{}", said.err);
    assert_eq!(said.out, "working\n");
    assert!(said.err.contains("Cancelled  default/fix-typo"), "{}", said.err);
}

#[test]
fn the_second_interrupt_leaves_the_run_alone() {
    let server = Server::start(Script { endless: true, ..Script::default() });
    let child = runtimectl(&[&["--server", &server.url][..], &RUN].concat()).spawn().expect("it runs");
    server.wait_for("log");
    interrupt(&child);
    server.wait_for("cancel");
    interrupt(&child);
    let said: Said = child.wait_with_output().expect("it ends").into();
    assert_eq!(said.code, Some(122), "{}", said.err);
    assert!(said.err.contains("runtimectl wait fix-typo -n default"), "{}", said.err);
}

#[test]
fn a_reader_that_leaves_does_not_end_the_wait() {
    let server = Server::start(Script { log: vec![(Stdout, "text\n"); 64], ..Script::default() });
    server.end(3);
    let mut child = runtimectl(&[&["--server", &server.url][..], &RUN].concat()).spawn().expect("it runs");
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut err).expect("UTF-8");
    assert_eq!(child.wait().expect("it ends").code(), Some(3), "{err}");
}

#[test]
fn detached_it_prints_the_name_alone() {
    let server = Server::start(Script::default());
    let said = against(&server, &["run", "--runtime", "bash", "--detach", "--", "true"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "fix-typo\n"));
}
