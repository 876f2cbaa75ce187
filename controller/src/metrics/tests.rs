use std::collections::BTreeSet;

use super::*;

const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");
const ALERTS: &str = include_str!("../../deploy/alerts.rules.yml");

/// The names that begin like ours in a text, without what is appended to a histogram's.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("runtimed_controller_"));
    words.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

/// The names that are exposed, once there is something of each.
fn exposed() -> BTreeSet<String> {
    let metrics = Metrics::default();
    metrics.submitted();
    metrics.answered(Duration::from_millis(1), Some(Code::Refused));
    metrics.handed_out(Timestamp::now(), &[]);
    metrics.attempt_ended(AttemptEnd::Lost);
    metrics.lease_expired();
    metrics.finished(Phase::Succeeded);
    metrics.report_rejected(Code::StaleFence);
    metrics.kept(1);
    let runtime = "bash".parse().expect("a name");
    let text = metrics.text(&Census([(runtime, OfRuntime::default())].into()));
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
    assert!(alerts.len() >= 4, "{alerts:?}");
    let exposed = exposed();
    assert_eq!(alerts.difference(&exposed).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn a_wait_counts_from_the_attempt_before() {
    let metrics = Metrics::default();
    let at = |second| Timestamp::from_second(second).expect("a time");
    let attempt = |started: i64, finished: Option<i64>| AttemptStatus {
        number: runtimed_api::ids::AttemptNumber(1),
        fence: runtimed_api::ids::Fence(1),
        daemon: "pod".parse().expect("a name"),
        started_at: at(started),
        finished_at: finished.map(at),
        outcome: None,
        result: None,
        statement: None,
    };
    metrics.handed_out(at(100), &[attempt(103, Some(200))]);
    metrics.handed_out(at(100), &[attempt(103, Some(200)), attempt(207, None)]);
    let text = metrics.text(&Census::default());
    assert!(text.contains("runtimed_controller_queue_seconds_sum 10.0"), "{text}");
}
