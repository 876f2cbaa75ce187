//! What a pod has for its Runs together, and what one Run may use of it.
//!
//! Both sides reckon with it: the controller hands a Run only to a daemon with room for it, and the daemon, which may
//! know better, lets it begin only then.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Bytes;
use crate::run::limits::Limits;

/// What a pod has for its Runs together. What is absent bounds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Disk of their trees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// The limits that a Run gets where it does not say.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub defaults: Limits,
}

/// What is used, or asked for, of a [`Capacity`]: only of what it bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    memory: u64,
    processes: u64,
    disk: u64,
}

/// What Runs ask for together, kept up as they come and go: what that is of a [`Capacity`] is then known without a look at
/// each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    memory: Sum,
    processes: Sum,
    disk: Sum,
}

/// One limit of several Runs. 128 bits: so many limits of 64 bits as fit in a memory do not overflow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    /// Of those that say.
    said: u128,
    /// How many do not say, and get the default.
    unsaid: u64,
}

impl Load {
    /// One Run more.
    pub fn add(&mut self, limits: &Limits) {
        self.each(limits, |sum, limit| match limit {
            Some(limit) => sum.said += u128::from(limit),
            None => sum.unsaid += 1,
        });
    }

    /// One Run less, of those that were added.
    pub fn remove(&mut self, limits: &Limits) {
        self.each(limits, |sum, limit| match limit {
            Some(limit) => sum.said -= u128::from(limit),
            None => sum.unsaid -= 1,
        });
    }

    fn each(&mut self, limits: &Limits, change: impl Fn(&mut Sum, Option<u64>)) {
        change(&mut self.memory, limits.memory.map(|memory| memory.0));
        change(&mut self.processes, limits.processes.map(u64::from));
        change(&mut self.disk, limits.disk.map(|disk| disk.0));
    }
}

impl Sum {
    fn with_default(self, default: u64) -> u64 {
        let all = self.said + u128::from(self.unsaid) * u128::from(default);
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

/// Something of a capacity does not suffice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {asked} asked for, {free} of {all} free")]
pub struct Short {
    /// The limit's name, as in `spec.limits`.
    pub what: &'static str,
    asked: Amount,
    free: Amount,
    all: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Bytes(u64),
    Count(u64),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => Bytes(*bytes).fmt(f),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl Capacity {
    /// An equal share for each of so many slots: the limit of a Run where nobody set one.
    #[must_use]
    pub fn share(&self, slots: u32) -> Limits {
        let slots = slots.max(1);
        Limits {
            memory: self.memory.map(|all| Bytes(all.0 / u64::from(slots))),
            processes: self.processes.map(|all| (all / slots).max(1)),
            disk: self.disk.map(|all| Bytes(all.0 / u64::from(slots))),
            ..Limits::default()
        }
    }

    /// What a Run of these limits may use.
    #[must_use]
    pub fn need(&self, limits: &Limits) -> Amounts {
        let limits = limits.or(&self.defaults);
        let bytes = |all: Option<Bytes>, limit: Option<Bytes>| all.and(limit).map_or(0, |limit| limit.0);
        Amounts {
            memory: bytes(self.memory, limits.memory),
            processes: self.processes.and(limits.processes).map_or(0, u64::from),
            disk: bytes(self.disk, limits.disk),
        }
    }

    /// What several Runs may use: as much as [`Self::need`] of each, together.
    #[must_use]
    pub fn used(&self, load: &Load) -> Amounts {
        let one = |all: Option<u64>, sum: Sum, default: Option<u64>| {
            all.map_or(0, |_| sum.with_default(default.unwrap_or(0)))
        };
        let bytes = |bytes: Option<Bytes>| bytes.map(|bytes| bytes.0);
        Amounts {
            memory: one(bytes(self.memory), load.memory, bytes(self.defaults.memory)),
            processes: one(
                self.processes.map(u64::from),
                load.processes,
                self.defaults.processes.map(u64::from),
            ),
            disk: one(bytes(self.disk), load.disk, bytes(self.defaults.disk)),
        }
    }

    /// Whether `need` fits beside what is used.
    ///
    /// # Errors
    /// The first thing that does not suffice.
    pub fn fits(&self, used: Amounts, need: Amounts) -> Result<(), Short> {
        let one = |what, all: Option<u64>, used: u64, asked: u64, unit: fn(u64) -> Amount| {
            let Some(all) = all else { return Ok(()) };
            let free = all.saturating_sub(used);
            if asked <= free {
                return Ok(());
            }
            Err(Short { what, asked: unit(asked), free: unit(free), all: unit(all) })
        };
        one("memory", self.memory.map(|all| all.0), used.memory, need.memory, Amount::Bytes)?;
        one("processes", self.processes.map(u64::from), used.processes, need.processes, Amount::Count)?;
        one("disk", self.disk.map(|all| all.0), used.disk, need.disk, Amount::Bytes)
    }
}

impl Amounts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(other.memory),
            processes: self.processes.saturating_add(other.processes),
            disk: self.disk.saturating_add(other.disk),
        }
    }

    /// What is left without the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_sub(other.memory),
            processes: self.processes.saturating_sub(other.processes),
            disk: self.disk.saturating_sub(other.disk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Capacity {
        let mut pod = Capacity {
            memory: Some(Bytes::mib(1024)),
            processes: Some(100),
            disk: None,
            defaults: Limits::default(),
        };
        pod.defaults = pod.share(4);
        pod
    }

    fn limits(memory: u64, processes: u32) -> Limits {
        Limits { memory: Some(Bytes::mib(memory)), processes: Some(processes), ..Limits::default() }
    }

    #[test]
    fn what_is_admitted_stays_below_what_there_is() {
        let pod = pod();
        let half = pod.need(&limits(512, 10));
        let used = half.plus(half);
        assert_eq!(pod.fits(half, half), Ok(()));
        let short = pod.fits(used, pod.need(&limits(1, 1))).expect_err("full");
        assert_eq!(short.to_string(), "memory: 1Mi asked for, 0 of 1Gi free");
        assert_eq!(pod.fits(used.minus(half), half), Ok(()));
        let short = pod.fits(half, pod.need(&limits(1, 91))).expect_err("too many");
        assert_eq!(short.what, "processes");
    }

    #[test]
    fn what_is_kept_up_is_what_each_needs_together() {
        let all = [limits(512, 10), Limits::default(), limits(u64::MAX >> 20, u32::MAX), limits(0, 0)];
        let everything = Capacity { disk: Some(Bytes::mib(1)), ..pod() };
        for pod in [pod(), everything, Capacity::default()] {
            let sum = |runs: &[Limits]| {
                runs.iter().fold(Amounts::default(), |sum, limits| sum.plus(pod.need(limits)))
            };
            let mut load = Load::default();
            for count in 1..=all.len() {
                load.add(&all[count - 1]);
                assert_eq!(pod.used(&load), sum(&all[..count]));
            }
            for count in (0..all.len()).rev() {
                load.remove(&all[count]);
                assert_eq!(pod.used(&load), sum(&all[..count]));
            }
            assert_eq!(load, Load::default());
        }
    }

    #[test]
    fn a_run_that_says_nothing_counts_as_its_share() {
        let pod = pod();
        let share = pod.need(&Limits::default());
        assert_eq!(share, pod.need(&limits(256, 25)));
        let three = share.plus(share).plus(share);
        assert_eq!(pod.fits(three, share), Ok(()));
        assert!(pod.fits(three.plus(share), share).is_err());
        // What bounds nothing is not reckoned with.
        let any = Limits { disk: Some(Bytes::mib(1 << 20)), ..limits(1, 1) };
        assert_eq!(pod.need(&any), pod.need(&limits(1, 1)));
    }
}
