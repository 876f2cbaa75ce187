//! What is counted, in the OpenMetrics text format.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtimed_api::problem::Code;
use runtimed_api::run::status::Phase;

type Labelled = Family<[(&'static str, String); 1], Counter<u64, AtomicU64>>;

/// The counters. Clones count into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    submitted: Counter,
    handed_out: Counter,
    finished: Labelled,
    rejected: Labelled,
    daemons: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let (submitted, handed_out) = (Counter::default(), Counter::default());
        let (finished, rejected) = (Labelled::default(), Labelled::default());
        let daemons = Gauge::default();
        let mut registry = Registry::with_prefix("runtimed_controller");
        registry.register("runs_submitted", "Runs that were stored", submitted.clone());
        registry.register("leases", "Leases that were given out", handed_out.clone());
        registry.register("runs_finished", "Runs that reached a terminal phase", finished.clone());
        registry.register("reports_rejected", "Reports that were not applied", rejected.clone());
        registry.register("daemons", "Daemons that are connected", daemons.clone());
        Self { registry: Arc::new(registry), submitted, handed_out, finished, rejected, daemons }
    }
}

impl Metrics {
    /// All of it as text; empty if it cannot be written.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(std::fmt::Error) => String::new(),
        }
    }

    pub(crate) fn submitted(&self) {
        self.submitted.inc();
    }

    pub(crate) fn handed_out(&self) {
        self.handed_out.inc();
    }

    pub(crate) fn finished(&self, phase: Phase) {
        self.finished.get_or_create(&[("phase", phase.to_string())]).inc();
    }

    pub(crate) fn report_rejected(&self, code: Code) {
        self.rejected.get_or_create(&[("code", code.to_string())]).inc();
    }

    pub(crate) fn sessions(&self, count: usize) {
        self.daemons.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
