//! What is not counted but looked up when somebody asks: Runs, daemons and slots as they are now.

use std::collections::BTreeMap;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtimed_api::ids::RuntimeName;
use runtimed_api::run::status::Phase;

use super::PREFIX;

/// Each Runtime that has Runs or daemons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Census(pub(crate) BTreeMap<RuntimeName, OfRuntime>);

/// One Runtime, as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OfRuntime {
    /// Runs that wait for a daemon.
    pub(crate) pending: u64,
    /// Runs that a daemon has.
    pub(crate) running: u64,
    /// Runs whose results are still on their way.
    pub(crate) finishing: u64,
    /// How long the oldest Run that waits has waited, in seconds.
    pub(crate) oldest_pending: u64,
    /// Daemons that are connected.
    pub(crate) daemons: u64,
    /// Of those: the ones that say that they take no Run.
    pub(crate) unready: u64,
    /// Their slots.
    pub(crate) slots: u64,
    /// Of those: the ones that wait for a Run.
    pub(crate) free_slots: u64,
}

type Gauges<const N: usize> = Family<[(&'static str, String); N], Gauge>;

impl Census {
    /// As metrics of their own: what is gone is not there any more.
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        let runs = Gauges::<2>::default();
        for (runtime, of) in &self.0 {
            for (phase, count) in
                [(Phase::Pending, of.pending), (Phase::Running, of.running), (Phase::Finishing, of.finishing)]
            {
                let labels = [("runtime", runtime.to_string()), ("phase", phase.to_string())];
                runs.get_or_create(&labels).set(gauge(count));
            }
        }
        registry.register("runs", "Runs that are not over, by phase", runs);
        let mut register = |name: &str, help: &str, value: fn(&OfRuntime) -> u64| {
            let family = Gauges::<1>::default();
            for (runtime, of) in &self.0 {
                family.get_or_create(&[("runtime", runtime.to_string())]).set(gauge(value(of)));
            }
            registry.register(name, help, family);
        };
        let oldest = "How long the oldest Run that is Pending has waited";
        register("oldest_pending_seconds", oldest, |of| of.oldest_pending);
        register("daemons", "Daemons that are connected", |of| of.daemons);
        register("daemons_unready", "Of those: the ones that take no Run", |of| of.unready);
        register("slots", "Slots of the daemons that are connected", |of| of.slots);
        register("free_slots", "Of those: the ones that wait for a Run", |of| of.free_slots);
        registry
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
