//! From intent and support to ordered steps, or to a refusal that names what is missing.
//!
//! [`plan`] is pure. [`Plan::prepare`] then opens paths and builds the Landlock ruleset and the filter, so that what is
//! left for the child are a few system calls on what is ready.

mod grants;
mod protections;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use crate::enforcement::{Enforcement, Protection, Tier};
use crate::policy::{Extent, Network, Policy, Rlimits};
use crate::support::{Architecture, Support};
use crate::syscalls::{self, Rule};
use crate::view::View;

pub(crate) use self::grants::{Access, Grant, check as check_path};

/// Why a policy is not carried out. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The stable id of the rule that refuses.
    pub rule: &'static str,
    /// The protection that is missing, if that is why.
    pub protection: Option<Protection>,
    /// What is wrong and what to do, in one sentence.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn new(rule: &'static str, reason: impl Into<String>) -> Self {
        Self { rule, protection: None, reason: reason.into() }
    }
}

/// One step, in the order in which a child takes them.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    View,
    Session,
    Limits(Rlimits),
    NoNewPrivs,
    DropCapabilities,
    Landlock(Domain),
    Seccomp(Vec<Rule>, Architecture),
}

/// What a Landlock domain handles and allows.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    /// The ABI whose rights are handled: never one that was not asked about.
    pub(crate) abi: u8,
    pub(crate) grants: Vec<Grant>,
    pub(crate) files: Files,
    pub(crate) ports: Option<Ports>,
    pub(crate) scopes: bool,
}

/// Which rights on files a domain handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    None,
    /// To move them between directories.
    Moving,
    All,
}

/// TCP ports of a domain that handles them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) connect: Vec<u16>,
    /// Port 0 stands for one of the kernel's choice.
    pub(crate) bind: Vec<u16>,
}

/// Steps that are known to be possible, and what they come to.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) enforcement: Enforcement,
    pub(crate) policy: Policy,
    pub(crate) mounts: BTreeSet<PathBuf>,
}

impl Plan {
    /// What will be enforced once every step has succeeded; a step that fails leads to no execution at all.
    #[must_use]
    pub fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    /// The system calls that are refused, always or for some arguments, each with the reason.
    pub fn refused_calls(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let rules = self.steps.iter().flat_map(|step| match step {
            Step::Seccomp(rules, _) => rules.as_slice(),
            _ => &[],
        });
        rules.map(|rule| (rule.name, rule.reason))
    }

    /// The steps in order, for people.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        self.steps.iter().map(ToString::to_string).collect()
    }
}

/// Plans a policy for a kernel.
///
/// # Errors
/// [`Refusal`]: rules beginning with `support.` name a protection that this kernel lacks, those with `grant.` or
/// `network.` a part of the policy that nobody could carry out safely.
pub fn plan(policy: &Policy, support: &Support) -> Result<Plan, Refusal> {
    let items = protections::judge(policy, support)?;
    let enforcement = Enforcement { tier: tier(policy), profile: policy.profile, items };
    let steps = match policy.extent {
        Extent::ScopesOnly => vec![Step::NoNewPrivs, Step::Landlock(scopes(support))],
        Extent::Full => {
            let view = policy.view.is_some().then_some(Step::View);
            let rest = [
                Step::Session,
                Step::Limits(policy.limits),
                Step::NoNewPrivs,
                Step::DropCapabilities,
                Step::Landlock(domain(policy, support)?),
                Step::Seccomp(syscalls::rules(policy), support.architecture),
            ];
            view.into_iter().chain(rest).collect()
        }
    };
    // A domain with nothing to handle is not a domain; the report says already that the scopes are missing.
    let steps = steps
        .into_iter()
        .filter(|step| !matches!(step, Step::Landlock(domain) if domain.is_empty()))
        .collect();
    Ok(Plan { steps, enforcement, policy: policy.clone(), mounts: support.mounts.clone() })
}

fn tier(policy: &Policy) -> Tier {
    match (&policy.view, policy.alone) {
        (Some(_), _) => Tier::Namespaces,
        (None, true) => Tier::Exclusive,
        (None, false) => Tier::Base,
    }
}

/// A domain of scopes, and of one right on files: to move them between directories, which it grants everywhere. A layer that
/// did not speak of this right would *deny* it to every domain below as soon as that one handles files:
/// `LANDLOCK_ACCESS_FS_REFER` of linux/landlock.h. The price is that nothing below this domain can mount.
fn scopes(support: &Support) -> Domain {
    let abi = support.landlock_abi();
    let scopes = abi >= protections::SCOPES;
    let anywhere = Grant { path: "/".into(), access: Access::Move };
    let files = if scopes { Files::Moving } else { Files::None };
    Domain { abi, grants: scopes.then_some(anywhere).into_iter().collect(), files, ports: None, scopes }
}

fn domain(policy: &Policy, support: &Support) -> Result<Domain, Refusal> {
    let abi = support.landlock_abi();
    let judged = abi >= protections::PORTS && !View::own_network(policy);
    let ports = ports(&policy.network)?.filter(|_| judged);
    let mut grants = grants::judge(policy, &support.mounts)?;
    if View::own_proc(policy) {
        // Files of another /proc than the one that is seen.
        grants.retain(|grant| grant.access != Access::ProcFile);
    }
    Ok(Domain { abi, grants, files: Files::All, ports, scopes: abi >= protections::SCOPES })
}

/// The ports to handle, or `None` where none are judged.
fn ports(network: &Network) -> Result<Option<Ports>, Refusal> {
    match network {
        Network::None => Ok(Some(Ports::default())),
        Network::Full => Ok(None),
        Network::Ports { connect, listen, bind_ephemeral, udp_dns: _ } => {
            if connect.contains(&0) || listen.contains(&0) {
                let reason = "port 0 is not allowed; ask for an ephemeral port instead";
                return Err(Refusal::new("network.port-zero", reason));
            }
            let mut bind = listen.clone();
            bind.extend(bind_ephemeral.then_some(0));
            Ok(Some(Ports { connect: connect.clone(), bind }))
        }
    }
}

impl Domain {
    fn is_empty(&self) -> bool {
        self.files == Files::None && self.ports.is_none() && !self.scopes
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::View => f.write_str("make a view of its own, in namespaces of its own"),
            Self::Session => f.write_str("start a session"),
            Self::Limits(_) => f.write_str("set resource limits"),
            Self::NoNewPrivs => f.write_str("give up new privileges"),
            Self::DropCapabilities => f.write_str("empty the capability sets"),
            Self::Landlock(domain) => {
                write!(f, "enter a Landlock domain of ABI {} with {} grants", domain.abi, domain.grants.len())
            }
            Self::Seccomp(rules, _) => write!(f, "refuse {} system calls", rules.len()),
        }
    }
}

#[cfg(test)]
mod tests;
