//! docs/OPERATIONS.md tells of everything that an operator may meet.

use runtimed_api::problem::Code;

use crate::place::{Place, ended};

const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");
const PROTOCOL: &str = include_str!("../../../docs/PROTOCOL.md");

/// The rows of the first table after a heading.
fn rows(heading: &str) -> Vec<&'static str> {
    let (_, section) = OPERATIONS.split_once(heading).unwrap_or_else(|| panic!("{heading} is not there"));
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    rows.filter_map(|line| line.split('`').nth(1)).collect()
}

#[test]
fn every_error_code_says_what_to_do() {
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.row().name).collect();
    assert_eq!(rows("## What to do for each error code"), known);
    for name in known {
        assert!(PROTOCOL.contains(&format!("| `{name}` |")), "{name} has no row in PROTOCOL.md");
    }
}

#[test]
fn every_line_of_a_posture_that_is_explained_is_shown() {
    let place = Place::new();
    let (_, out, err) = ended(&mut place.runtimed("check"));
    let rows = rows("## Read a posture");
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        assert!(out.lines().any(|line| line.trim_start().starts_with(row)), "{row}: {out}{err}");
    }
}
