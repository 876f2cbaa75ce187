//! Numbers for `/metrics`, in OpenMetrics text. Names are documented in docs/OPERATIONS.md and do not change.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use runtimed_api::run::status::AttemptResult;

/// The daemon's numbers.
pub struct Metrics {
    registry: Registry,
    attempts: Family<End, Counter>,
    steps: Family<StepLabel, Histogram>,
    /// Slots that have no Run.
    pub free_slots: Gauge,
    /// Slots that are out of use, for what they staged could not be removed.
    pub quarantined: Gauge,
    ready: Gauge,
    slots: Gauge,
    outbox: Gauge,
    /// Modes of the daemon's own directories that somebody took away, and that were mended.
    pub modes_mended: Counter<u64, AtomicU64>,
    outbox_age: Gauge,
    /// Leases that were taken.
    pub leases: Counter,
    log_bytes: Counter<u64, AtomicU64>,
    log_dropped: Counter<u64, AtomicU64>,
    log_gaps: Counter<u64, AtomicU64>,
    log_pool: Gauge,
    redactions: Counter<u64, AtomicU64>,
    uploads: Counter<u64, AtomicU64>,
    upload_bytes: Counter<u64, AtomicU64>,
    upload_failures: Counter<u64, AtomicU64>,
    uploads_incomplete: Counter<u64, AtomicU64>,
    scrubs: Family<ScrubLabel, Counter>,
}

/// What is not counted but looked up when somebody asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Present {
    /// The daemon takes Runs.
    pub ready: bool,
    /// Runs at once.
    pub slots: u32,
    /// Bytes that the logs of live attempts take.
    pub log_pool: u64,
    /// Reports that the controller has not answered.
    pub outbox: usize,
    /// How long the oldest of them has waited, in seconds.
    pub outbox_age: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScrubLabel {
    medium: String,
    verified: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    end: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("runtimed");
        let attempts = Family::<End, Counter>::default();
        // From 50 µs, a step that does nothing, to half an hour.
        let steps = Family::<StepLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(50e-6, 4.0, 13))
        });
        let metrics = Self {
            registry: Registry::default(),
            attempts,
            steps,
            free_slots: Gauge::default(),
            quarantined: Gauge::default(),
            ready: Gauge::default(),
            slots: Gauge::default(),
            outbox: Gauge::default(),
            modes_mended: Counter::default(),
            outbox_age: Gauge::default(),
            leases: Counter::default(),
            log_bytes: Counter::default(),
            log_dropped: Counter::default(),
            log_gaps: Counter::default(),
            log_pool: Gauge::default(),
            redactions: Counter::default(),
            uploads: Counter::default(),
            upload_bytes: Counter::default(),
            upload_failures: Counter::default(),
            uploads_incomplete: Counter::default(),
            scrubs: Family::default(),
        };
        let of = &metrics;
        registry.register("attempts", "Attempts that are over, by how they ended", of.attempts.clone());
        registry.register("step_seconds", "How long each step of an attempt took", of.steps.clone());
        registry.register("ready", "1 while the daemon takes Runs", of.ready.clone());
        registry.register("slots", "Runs at once", of.slots.clone());
        registry.register("free_slots", "Slots that have no Run", of.free_slots.clone());
        registry.register(
            "quarantined_slots",
            "Slots whose staged secrets could not be removed",
            of.quarantined.clone(),
        );
        registry.register(
            "modes_mended",
            "Modes of the daemon's directories that somebody took away, and that were mended",
            of.modes_mended.clone(),
        );
        registry.register(
            "outbox_reports",
            "Reports that the controller has not answered",
            of.outbox.clone(),
        );
        registry.register(
            "outbox_age_seconds",
            "How long the oldest of them has waited",
            of.outbox_age.clone(),
        );
        registry.register("leases", "Leases that were taken", of.leases.clone());
        registry.register("log_bytes", "Bytes of log that were kept", of.log_bytes.clone());
        registry.register(
            "log_dropped_bytes",
            "Bytes of log that were dropped and told in gaps",
            of.log_dropped.clone(),
        );
        registry.register("log_gaps", "Places where bytes of log are missing", of.log_gaps.clone());
        registry.register("log_pool_bytes", "Bytes that the logs of live attempts take", of.log_pool.clone());
        registry.register("redactions", "Secrets that were masked in logs", of.redactions.clone());
        registry.register("uploads", "Files that were put into the store", of.uploads.clone());
        registry.register("upload_bytes", "Bytes of them", of.upload_bytes.clone());
        registry.register(
            "upload_failures",
            "Uploads that failed and were tried again or given up",
            of.upload_failures.clone(),
        );
        registry.register(
            "uploads_incomplete",
            "Files that were not stored before the deadline",
            of.uploads_incomplete.clone(),
        );
        registry.register(
            "scrubs",
            "Scrubs, by the medium of what was staged and whether it was verified as gone",
            of.scrubs.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// An attempt is over.
    pub fn finished(&self, result: &AttemptResult) {
        self.attempts.get_or_create(&End { end: format!("{:?}", result.end) }).inc();
        for step in &result.steps {
            self.took(step.step.as_str(), Duration::from_micros(step.micros));
        }
        self.log_bytes.inc_by(result.log.bytes);
        self.log_dropped.inc_by(result.log.dropped);
        self.uploads_incomplete.inc_by(result.uploads_incomplete.len() as u64);
        if let Some(scrub) = &result.scrub {
            let (medium, verified) = (scrub.medium.clone(), scrub.verified.to_string());
            self.scrubs.get_or_create(&ScrubLabel { medium, verified }).inc();
        }
    }

    /// The last report of an attempt took so long, from its journaling until the controller had answered it.
    pub fn reported(&self, took: Duration) {
        self.took("report", took);
    }

    fn took(&self, step: &'static str, took: Duration) {
        self.steps.get_or_create(&StepLabel { step }).observe(took.as_secs_f64());
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
        let gauge = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.ready, present.ready.into());
        gauge(&self.slots, present.slots.into());
        gauge(&self.log_pool, present.log_pool);
        gauge(&self.outbox, present.outbox as u64);
        gauge(&self.outbox_age, present.outbox_age);
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
