//! The documents tell of everything that an operator, a program, or the author of a Run may meet.

use runtimed_api::exit::Exit;
use runtimed_api::problem::Code;
use runtimed_api::rule;
use runtimed_tests::binaries;
use runtimed_tests::process::command;

use crate::place::{Place, ended};

const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");
const PROTOCOL: &str = include_str!("../../../docs/PROTOCOL.md");
const RUNS: &str = include_str!("../../../docs/RUNS.md");
const ANNOTATED: &str = include_str!("../../../docs/examples/annotated.yaml");

/// The rows of the first table after a heading.
fn rows(document: &'static str, heading: &str) -> impl Iterator<Item = &'static str> {
    let (_, section) = document.split_once(heading).unwrap_or_else(|| panic!("{heading} is not there"));
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    table.skip(2).take_while(|line| line.starts_with('|'))
}

/// What the rows are about.
fn names(document: &'static str, heading: &str) -> Vec<&'static str> {
    rows(document, heading).filter_map(|line| line.split('`').nth(1)).collect()
}

#[test]
fn exit_codes_are_those_of_the_protocol() {
    let known: Vec<_> = Exit::TABLE.iter().map(|(code, meaning)| format!("| {code} | {meaning} |")).collect();
    assert_eq!(rows(PROTOCOL, "## Exit codes").collect::<Vec<_>>(), known);
}

#[test]
fn rules_are_those_of_the_protocol() {
    let known: Vec<_> = rule::ALL.iter().map(|rule| rule.as_str()).collect();
    assert_eq!(names(PROTOCOL, "## Rules"), known);
}

#[test]
fn every_error_code_says_what_to_do() {
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.row().name).collect();
    assert_eq!(names(OPERATIONS, "## What to do for each error code"), known);
    for name in known {
        assert!(PROTOCOL.contains(&format!("| `{name}` |")), "{name} has no row in PROTOCOL.md");
    }
}

#[test]
fn every_line_of_a_posture_that_is_explained_is_shown() {
    let place = Place::new();
    let (_, out, err) = ended(&mut place.runtimed("check"));
    let rows = names(OPERATIONS, "## Read a posture");
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        assert!(out.lines().any(|line| line.trim_start().starts_with(row)), "{row}: {out}{err}");
    }
}

#[test]
fn every_variable_of_a_command_is_explained() {
    let place = Place::new();
    let network = ["--network", "443", "--set", "ceiling.network=Ports", "--set", "ceiling.ports=[443]"];
    let (code, out, err) = ended(place.job().args(network).args(["--secret", "transaction", "--", "env"]));
    assert_eq!(code, 0, "{err}");
    let names: Vec<&str> = out.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(names.len() >= 15, "{out}");
    for name in names {
        assert!(RUNS.contains(&format!("`{name}`")), "{name} is not in docs/RUNS.md");
    }
}

#[test]
fn the_annotated_run_is_the_one_in_the_text_and_is_valid() {
    let (_, yaml) = ANNOTATED.split_once('\n').expect("a first line");
    assert!(RUNS.contains(yaml), "docs/RUNS.md shows another Run than docs/examples/annotated.yaml");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/annotated.yaml");
    let (code, out, err) = ended(command(binaries::path("runtimectl")).args(["validate", "-f", file]));
    assert_eq!(code, 0, "{out}{err}");
}
