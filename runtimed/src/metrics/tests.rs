use std::collections::BTreeSet;

use runtimed_api::run::status::{AttemptEnd, Scrub};
use runtimed_api::run::step::{Step, StepTime};

use super::*;

const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");
const ALERTS: &str = include_str!("../../../controller/deploy/alerts.rules.yml");

/// The names of a daemon's metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("runtimed_"));
    words.filter(|word| !word.starts_with("runtimed_controller_")).map(str::to_owned).collect()
}

/// The names that are exposed, once there is something of each.
fn exposed() -> BTreeSet<String> {
    let metrics = Metrics::default();
    let mut result = AttemptResult::bare(AttemptEnd::Completed);
    result.steps = vec![StepTime { step: Step::Run, micros: 1 }];
    let medium = "tmpfs".to_owned();
    result.scrub =
        Some(Scrub { staged: 1, removed: 1, rotated: 0, medium, verified: true, problems: Vec::new() });
    metrics.finished(&result);
    let text = metrics.text(Present::default());
    assert!(text.ends_with("# EOF\n"), "{text}");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .collect()
}

#[test]
fn what_is_exposed_is_documented_and_the_other_way_round() {
    assert_eq!(exposed(), names(OPERATIONS));
}

#[test]
fn alerts_are_about_what_is_exposed() {
    let alerts = names(ALERTS);
    assert!(alerts.len() >= 6, "{alerts:?}");
    assert_eq!(alerts.difference(&exposed()).collect::<Vec<_>>(), Vec::<&String>::new());
}
