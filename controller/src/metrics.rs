//! What is counted, in the OpenMetrics text format. Names are documented in docs/OPERATIONS.md and do not change.

mod census;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use runtimed_api::problem::Code;
use runtimed_api::run::status::{AttemptEnd, AttemptStatus, Phase};

pub(crate) use census::{Census, OfRuntime};

/// Before every name.
const PREFIX: &str = "runtimed_controller";

type Labelled = Family<[(&'static str, String); 1], Counter<u64, AtomicU64>>;

/// The counters. Clones count into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    submitted: Counter,
    denied: Labelled,
    handed_out: Counter,
    expired: Counter,
    attempts: Labelled,
    finished: Labelled,
    rejected: Labelled,
    submit: Histogram,
    queue: Histogram,
    kept: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 200 µs, a commit to a good disk, to minutes.
        let submit = Histogram::new(exponential_buckets(200e-6, 3.0, 12));
        // From a millisecond to hours.
        let queue = Histogram::new(exponential_buckets(1e-3, 4.0, 13));
        let mut registry = Registry::with_prefix(PREFIX);
        let of = &mut registry;
        let metrics = Self {
            registry: Arc::default(),
            submitted: register(of, "runs_submitted", "Runs that were stored"),
            denied: register(of, "submissions_denied", "Submissions that were not taken, by code"),
            handed_out: register(of, "leases", "Leases that were given out"),
            expired: register(of, "leases_expired", "Leases that ran out"),
            attempts: register(of, "attempts", "Attempts that are over, by how they ended"),
            finished: register(of, "runs_finished", "Runs that reached a terminal phase"),
            rejected: register(of, "reports_rejected", "Reports that were not applied"),
            kept: register(of, "result_bytes", "Bytes that daemons put into the store"),
            submit,
            queue,
        };
        let (submit, queue) = (metrics.submit.clone(), metrics.queue.clone());
        registry.register("submit_seconds", "From a submission to its answer", submit);
        registry.register("queue_seconds", "From when a Run waits to its lease", queue);
        Self { registry: Arc::new(registry), ..metrics }
    }
}

fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// All of it as text, with what is looked up now; empty if it cannot be written.
    #[must_use]
    pub(crate) fn text(&self, census: &Census) -> String {
        let mut text = String::new();
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &census.registry()))
            .and_then(|()| encode_eof(&mut text));
        match written {
            Ok(()) => text,
            Err(fmt::Error) => String::new(),
        }
    }

    pub(crate) fn submitted(&self) {
        self.submitted.inc();
    }

    /// A submission was answered after so long: with nothing, or with this code.
    pub(crate) fn answered(&self, took: Duration, denied: Option<Code>) {
        self.submit.observe(took.as_secs_f64());
        if let Some(code) = denied {
            self.denied.get_or_create(&[("code", code.to_string())]).inc();
        }
    }

    /// A Run that was created then was handed out; these are its attempts, the new one last.
    pub(crate) fn handed_out(&self, created: Timestamp, attempts: &[AttemptStatus]) {
        self.handed_out.inc();
        if let [before @ .., now] = attempts {
            let since = before.last().and_then(|before| before.finished_at).unwrap_or(created);
            self.queue.observe(since.duration_until(now.started_at).as_secs_f64().max(0.0));
        }
    }

    /// An attempt is over.
    pub(crate) fn attempt_ended(&self, end: AttemptEnd) {
        self.attempts.get_or_create(&[("end", format!("{end:?}"))]).inc();
    }

    /// An attempt was taken from a daemon that had not renewed its lease.
    pub(crate) fn lease_expired(&self) {
        self.expired.inc();
    }

    pub(crate) fn finished(&self, phase: Phase) {
        self.finished.get_or_create(&[("phase", phase.to_string())]).inc();
    }

    pub(crate) fn report_rejected(&self, code: Code) {
        self.rejected.get_or_create(&[("code", code.to_string())]).inc();
    }

    /// A daemon put so many bytes into the store.
    pub(crate) fn kept(&self, bytes: u64) {
        self.kept.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests;
