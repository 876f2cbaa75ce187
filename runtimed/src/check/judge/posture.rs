//! What the pod is and can enforce, for people and for programs.

use std::path::PathBuf;

use runtimed_api::enforcement::{Profile, Tier};
use runtimed_sandbox::enforcement::{Enforcement, State};
use serde::Serialize;

use super::{staging, tier};
use crate::check::facts::Facts;
use crate::config::Config;

/// What the pod is and can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::check) struct Posture {
    pub(in crate::check) kernel: String,
    /// The Landlock ABI, or why there is none.
    pub(in crate::check) landlock: String,
    /// `allowed`, or why they are not.
    pub(in crate::check) user_namespaces: String,
    pub(in crate::check) uid: u32,
    pub(in crate::check) gid: u32,
    /// The uid's name in the image, if it has one.
    pub(in crate::check) passwd: Option<String>,
    pub(in crate::check) no_new_privs: bool,
    /// The bounding set, as the kernel writes it.
    pub(in crate::check) capabilities: String,
    /// Filters that the container runtime installed.
    pub(in crate::check) seccomp_filters: u32,
    /// The profile that fits: `strict` where it can be had.
    pub(in crate::check) profile: Option<Profile>,
    /// The strongest tier that the pod allows.
    pub(in crate::check) tier: Tier,
    /// Where staged secrets would lie.
    pub(in crate::check) staging_medium: String,
    /// Paths that this uid may write, beside the three directories and the state.
    pub(in crate::check) writable: Vec<PathBuf>,
    pub(in crate::check) service_account_token: bool,
    pub(in crate::check) metadata_service: bool,
    /// Each protection of a Run without a network.
    pub(in crate::check) protections: Vec<Protection>,
}

/// One protection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::check) struct Protection {
    pub(in crate::check) name: &'static str,
    pub(in crate::check) state: &'static str,
    pub(in crate::check) mechanism: String,
    pub(in crate::check) why: Option<String>,
}

pub(super) fn posture(
    config: &Config,
    facts: &Facts,
    profile: Option<Profile>,
    enforcement: Option<&Enforcement>,
) -> Posture {
    let tier = tier(config, facts);
    let protections =
        enforcement.into_iter().flat_map(|enforcement| &enforcement.items).map(|item| Protection {
            name: item.protection.name(),
            state: item.state.name(),
            mechanism: if item.state == State::Active { item.mechanism.to_string() } else { String::new() },
            why: item.why.as_ref().map(ToString::to_string),
        });
    let medium = staging(config, facts).map(|(_, _, medium)| medium);
    Posture {
        kernel: facts.support.kernel.clone(),
        landlock: match &facts.support.landlock {
            Ok(abi) => format!("ABI {abi}{}", errata(facts.support.landlock_errata)),
            Err(missing) => missing.to_string(),
        },
        user_namespaces: match &facts.views {
            Ok(_) => "allowed".to_owned(),
            Err(missing) => missing.to_string(),
        },
        uid: facts.uid,
        gid: facts.gid,
        passwd: facts.passwd.clone(),
        no_new_privs: facts.container.no_new_privs,
        capabilities: facts
            .container
            .capabilities
            .map_or_else(|| "not known".to_owned(), |set| format!("{set:016x}")),
        seccomp_filters: facts.container.seccomp_filters,
        profile,
        tier,
        staging_medium: medium.map_or_else(|| "none".to_owned(), |medium| medium.to_string()),
        writable: facts.writable.clone(),
        service_account_token: facts.service_account,
        metadata_service: facts.metadata_service,
        protections: protections.collect(),
    }
}

/// Which of the kernel's mistakes are mended, each by its number: a bit each, from the lowest (`LANDLOCK_CREATE_RULESET_ERRATA` of linux/landlock.h).
fn errata(mended: u32) -> String {
    let numbers = (0..u32::BITS).filter(|bit| mended & (1 << bit) != 0).map(|bit| (bit + 1).to_string());
    let numbers: Vec<String> = numbers.collect();
    if numbers.is_empty() { String::new() } else { format!(", errata {} mended", numbers.join(", ")) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn errata_are_named_by_their_numbers() {
        assert_eq!(super::errata(0), "");
        assert_eq!(super::errata(0b111), ", errata 1, 2, 3 mended");
        assert_eq!(super::errata(1 << 31), ", errata 32 mended");
    }
}
