use std::collections::BTreeMap;

use proptest::prelude::*;
use runtimed_api::digest::Digest;
use runtimed_api::duration::Span;
use runtimed_api::ids::RunUid;
use runtimed_api::rule::Rule;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::outcome::{Outcome, Verdict};
use runtimed_api::run::spec::{Retry, RetryOn, RunSpec};

use super::*;

mod explore;
mod machine;
mod sequences;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn daemon(name: &str) -> Identity {
    Identity { name: name.parse().expect("a name"), instance: Some(Digest::of(name.as_bytes())) }
}

fn spec(retry: Option<Retry>) -> RunSpec {
    let spec = serde_json::json!({ "runtime": "bash", "command": ["true"] });
    RunSpec { retry, ..serde_json::from_value(spec).expect("a spec") }
}

fn retry(max_attempts: u32, on: &[RetryOn]) -> Option<Retry> {
    Some(Retry { max_attempts, backoff: Some(Span::from_secs(1)), on: on.to_vec() })
}

fn submitted(retry: Option<Retry>) -> Record {
    let submitted = Submitted {
        key: RunKey { namespace: "default".parse().expect("a name"), name: "a".parse().expect("a name") },
        uid: RunUid::try_from("uid-1".to_owned()).expect("a uid"),
        generate_name: None,
        labels: BTreeMap::new(),
        spec: spec(retry),
        requested_by: "alice".to_owned(),
        trace: None,
        queue: Span::from_secs(60),
        submitted_secrets: false,
    };
    Record::submitted(submitted, at(0))
}

fn next(record: &Record, event: &Event, second: i64) -> Record {
    let decision = decide(record, event, at(second)).expect("it fits");
    decision.record.unwrap_or_else(|| record.clone())
}

fn hand_out(record: &Record, second: i64) -> Record {
    next(record, &Event::HandOut { daemon: daemon("d1"), patches: Vec::new() }, second)
}

fn said(record: &Record, sequence: u64, event: ReportEvent) -> Event {
    let held = record.held().expect("a daemon has it");
    let attempt = record.attempt_key(&held);
    let daemon = Identity { name: held.daemon, instance: held.instance };
    Event::Report { daemon, report: Report { attempt, sequence, at: at(0), event } }
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome { verdict, leaked: 0, cpu_micros: 0, max_rss: 0 }
}

fn result(end: AttemptEnd, verdict: Option<Verdict>) -> AttemptResult {
    AttemptResult { outcome: verdict.map(outcome), ..AttemptResult::bare(end) }
}

fn finished(end: AttemptEnd, verdict: Option<Verdict>) -> ReportEvent {
    ReportEvent::Finished(Box::new(result(end, verdict)))
}
