//! Numbers for `/metrics`, in OpenMetrics text. Names are documented in docs/OPERATIONS.md and do not change.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use runtimed_api::run::status::AttemptResult;

type Count = Counter<u64, AtomicU64>;

/// The daemon's numbers.
pub struct Metrics {
    registry: Registry,
    attempts: Family<[(&'static str, String); 1], Count>,
    steps: Family<[(&'static str, &'static str); 1], Histogram>,
    ready: Gauge,
    slots: Gauge,
    free_slots: Gauge,
    quarantined: Gauge,
    outbox: Gauge,
    /// Modes of the daemon's own directories that somebody took away, and that were mended.
    pub modes_mended: Count,
    outbox_age: Gauge,
    /// Leases that were taken.
    pub leases: Count,
    log_bytes: Count,
    log_dropped: Count,
    log_gaps: Count,
    log_pool: Gauge,
    redactions: Count,
    uploads: Count,
    upload_bytes: Count,
    upload_failures: Count,
    uploads_incomplete: Count,
    scrubs: Family<[(&'static str, String); 2], Count>,
}

/// What is not counted but looked up when somebody asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Present {
    /// The daemon takes Runs.
    pub ready: bool,
    /// Runs at once.
    pub slots: u32,
    /// Slots that have no Run.
    pub free_slots: u32,
    /// Slots that are out of use, for what they staged could not be removed.
    pub quarantined: u32,
    /// Bytes that the logs of live attempts take.
    pub log_pool: u64,
    /// Reports that the controller has not answered.
    pub outbox: usize,
    /// How long the oldest of them has waited, in seconds.
    pub outbox_age: u64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("runtimed");
        let of = &mut registry;
        // From 50 µs, a step that does nothing, to half an hour.
        let steps: Family<_, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(50e-6, 4.0, 13)));
        Self {
            attempts: register(
                of,
                "attempts",
                "Attempts that are over, by how they ended",
                Family::default(),
            ),
            steps: register(of, "step_seconds", "How long each step of an attempt took", steps),
            ready: gauge(of, "ready", "1 while the daemon takes Runs"),
            slots: gauge(of, "slots", "Runs at once"),
            free_slots: gauge(of, "free_slots", "Slots that have no Run"),
            quarantined: gauge(of, "quarantined_slots", "Slots whose staged secrets could not be removed"),
            modes_mended: counter(
                of,
                "modes_mended",
                "Modes of the daemon's directories that somebody took away, and that were mended",
            ),
            outbox: gauge(of, "outbox_reports", "Reports that the controller has not answered"),
            outbox_age: gauge(of, "outbox_age_seconds", "How long the oldest of them has waited"),
            leases: counter(of, "leases", "Leases that were taken"),
            log_bytes: counter(of, "log_bytes", "Bytes of log that were kept"),
            log_dropped: counter(of, "log_dropped_bytes", "Bytes of log that were dropped and told in gaps"),
            log_gaps: counter(of, "log_gaps", "Places where bytes of log are missing"),
            log_pool: gauge(of, "log_pool_bytes", "Bytes that the logs of live attempts take"),
            redactions: counter(of, "redactions", "Secrets that were masked in logs"),
            uploads: counter(of, "uploads", "Files that were put into the store"),
            upload_bytes: counter(of, "upload_bytes", "Bytes of them"),
            upload_failures: counter(
                of,
                "upload_failures",
                "Uploads that failed and were tried again or given up",
            ),
            uploads_incomplete: counter(
                of,
                "uploads_incomplete",
                "Files that were not stored before the deadline",
            ),
            scrubs: register(
                of,
                "scrubs",
                "Scrubs, by the medium of what was staged and whether it was verified as gone",
                Family::default(),
            ),
            registry,
        }
    }
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Count {
    register(registry, name, help, Count::default())
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    register(registry, name, help, Gauge::default())
}

impl Metrics {
    /// An attempt is over.
    pub fn finished(&self, result: &AttemptResult) {
        self.attempts.get_or_create(&[("end", format!("{:?}", result.end))]).inc();
        for step in &result.steps {
            self.took(step.step.as_str(), Duration::from_micros(step.micros));
        }
        self.log_bytes.inc_by(result.log.bytes);
        self.log_dropped.inc_by(result.log.dropped);
        self.uploads_incomplete.inc_by(result.uploads_incomplete.len() as u64);
        if let Some(scrub) = &result.scrub {
            let labels = [("medium", scrub.medium.clone()), ("verified", scrub.verified.to_string())];
            self.scrubs.get_or_create(&labels).inc();
        }
    }

    /// The last report of an attempt took so long, from its journaling until the controller had answered it.
    pub fn reported(&self, took: Duration) {
        self.took("report", took);
    }

    fn took(&self, step: &'static str, took: Duration) {
        self.steps.get_or_create(&[("step", step)]).observe(took.as_secs_f64());
    }

    /// So many places of a log lack bytes.
    pub fn gaps(&self, count: u64) {
        self.log_gaps.inc_by(count);
    }

    /// So many secrets were masked in a log.
    pub fn redacted(&self, count: u64) {
        self.redactions.inc_by(count);
    }

    /// A file of so many bytes is in the store.
    pub fn uploaded(&self, bytes: u64) {
        self.uploads.inc();
        self.upload_bytes.inc_by(bytes);
    }

    /// An upload failed.
    pub fn upload_failed(&self) {
        self.upload_failures.inc();
    }

    /// All of them, as text.
    #[must_use]
    pub fn text(&self, present: Present) -> String {
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.ready, present.ready.into());
        set(&self.slots, present.slots.into());
        set(&self.free_slots, present.free_slots.into());
        set(&self.quarantined, present.quarantined.into());
        set(&self.log_pool, present.log_pool);
        set(&self.outbox, present.outbox as u64);
        set(&self.outbox_age, present.outbox_age);
        let mut text = String::new();
        // Writing to a String fails only when a metric's own code does.
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
