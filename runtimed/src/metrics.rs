//! Numbers for `/metrics`, in OpenMetrics text. Names are documented in docs/OPERATIONS.md and do not change.

use std::fmt;
use std::sync::atomic::AtomicU64;

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
    /// Reports that the controller has not answered.
    pub outbox: Gauge,
    /// Modes of the daemon's own directories that somebody took away, and that were mended.
    pub modes_mended: Counter<u64, AtomicU64>,
    log_bytes: Counter<u64, AtomicU64>,
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
        let (free_slots, quarantined, outbox) = (Gauge::default(), Gauge::default(), Gauge::default());
        let log_bytes = Counter::default();
        let modes_mended = Counter::default();
        registry.register("attempts", "Attempts that are over, by how they ended", attempts.clone());
        registry.register("step_seconds", "How long each step of an attempt took", steps.clone());
        registry.register("free_slots", "Slots that have no Run", free_slots.clone());
        registry.register(
            "quarantined_slots",
            "Slots whose staged secrets could not be removed",
            quarantined.clone(),
        );
        registry.register("outbox_reports", "Reports that the controller has not answered", outbox.clone());
        registry.register(
            "modes_mended",
            "Modes of the daemon's directories that somebody took away, and that were mended",
            modes_mended.clone(),
        );
        registry.register("log_bytes", "Bytes of log that were kept", log_bytes.clone());
        Self { registry, attempts, steps, free_slots, quarantined, outbox, modes_mended, log_bytes }
    }
}

impl Metrics {
    /// An attempt is over.
    pub fn finished(&self, result: &AttemptResult) {
        self.attempts.get_or_create(&End { end: format!("{:?}", result.end) }).inc();
        for step in &result.steps {
            let seconds = std::time::Duration::from_micros(step.micros).as_secs_f64();
            self.steps.get_or_create(&StepLabel { step: step.step.as_str() }).observe(seconds);
        }
        self.log_bytes.inc_by(result.log.bytes);
    }

    /// All of them, as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String fails only when a metric's own code does.
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => String::new(),
        }
    }
}
