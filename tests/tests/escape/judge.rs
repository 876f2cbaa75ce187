//! What was seen, and what it has to be.

use std::collections::BTreeMap;

use crate::known;
use crate::program::{Kind, Probe};

/// What became of each probe in one round, as the program prints it.
pub(crate) type Round = BTreeMap<String, String>;

/// The word for an attempt that succeeded.
pub(crate) const OPEN: &str = "open";

/// The rounds of one place: unconfined first, then a tier each.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) place: &'static str,
    pub(crate) unconfined: Round,
    pub(crate) tiers: Vec<(&'static str, Round)>,
}

impl Seen {
    pub(crate) fn of(round: &Round, probe: &Probe) -> String {
        round.get(&probe.name).map_or_else(|| "not tried".to_owned(), Clone::clone)
    }

    /// Every sentence that is not true of what was seen.
    pub(crate) fn wrong(&self, probes: &[Probe]) -> Vec<String> {
        let mut wrong = Vec::new();
        for probe in probes {
            let outside = Self::of(&self.unconfined, probe);
            if self.place == "machine" {
                wrong.extend(wrong_outside(probe, &outside));
            }
            let base = self.tiers.first().map(|(_, round)| Self::of(round, probe));
            for (tier, round) in &self.tiers {
                let inside = Self::of(round, probe);
                let said = wrong_inside(probe, tier, &outside, base.as_deref().unwrap_or_default(), &inside);
                wrong.extend(
                    said.map(|why| format!("{}, {tier}: {} is {inside}: {why}", self.place, probe.name)),
                );
            }
        }
        wrong
    }
}

/// Unconfined, an attack succeeds, or it is listed why it cannot.
fn wrong_outside(probe: &Probe, outside: &str) -> Option<String> {
    let listed = known::refused_to_everybody(&probe.name);
    match (outside, listed, probe.kind) {
        (OPEN, None, _) => None,
        (OPEN, Some(_), _) => None,
        (_, Some(_), Kind::Attack) => None,
        (_, _, _) => Some(format!("unconfined, {} is {outside}, and proves nothing inside", probe.name)),
    }
}

fn wrong_inside(probe: &Probe, tier: &str, outside: &str, base: &str, inside: &str) -> Option<&'static str> {
    if inside == "not tried" || inside == "timeout" {
        return Some("it has to be tried");
    }
    if probe.kind == Kind::Work {
        return (inside != OPEN).then_some("work has to succeed");
    }
    if inside.starts_with("cannot") {
        // There is nothing to attack in this place, or no neighbour in a pod of one.
        let of_a_neighbour = ["PROBE_N_", "PROBE_WORKER_PID"].iter().any(|name| inside.contains(name));
        let alone = tier == "Exclusive" && of_a_neighbour;
        return (!outside.starts_with("cannot") && !alone).then_some("it has to be tried");
    }
    if inside != OPEN {
        return None;
    }
    if known::open(&probe.name).is_some() && base == OPEN {
        return None;
    }
    (known::its_own(tier, &probe.name).is_none()).then_some("it has to be refused")
}
