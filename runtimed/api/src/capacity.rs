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
