//! Step 3: judged again against the daemon's own ceiling, then journaled, before any side effect.

use std::sync::Arc;

use runtimed_api::enforcement::Tier;
use runtimed_api::policy::{self, Granted};
use runtimed_api::problem::Code;
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::status::{AttemptEnd, AttemptResult};
use runtimed_api::run::step::Step;
use runtimed_api::session::Lease;
use runtimed_sandbox::tree::TreeName;

use super::clock::Clock;
use super::{Attempt, Ended};
use crate::daemon::Daemon;
use crate::journal::{JournalError, Record};
use crate::live::Live;
use crate::logs::{Bounds, Log};
use crate::redact::Redactor;
use crate::secrets::credential::{self, Credential};
use crate::secrets::{self, Staged};
use crate::session::Current;

/// What was granted, and the values that it needs.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) tree: TreeName,
    pub(super) granted: Granted,
    pub(super) secrets: Vec<Staged>,
    pub(super) credential: Option<Credential>,
}

/// Why a lease is not accepted: nothing of its attempt has begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAccepted {
    /// It may be another's by now.
    #[error("the lease came too late")]
    TooLate,
    /// A restart would not know of it.
    #[error("the attempt cannot be journaled")]
    Journal(#[from] JournalError),
}

/// Judges and journals a lease.
///
/// # Errors
/// It came too late, or the journal failed. A Run that may not be is the inner error.
pub(super) async fn accept(
    daemon: Arc<Daemon>,
    lease: Lease,
    session: &Current,
) -> Result<(Attempt, Result<Accepted, Ended>), NotAccepted> {
    let clock = Clock::start();
    let tree = TreeName::random();
    let key = lease.attempt.clone();
    let judged = judge(&daemon, &lease);
    let log_limit = judged.as_ref().ok().and_then(|granted| granted.limits.log).map_or(0, |bytes| bytes.0);
    let dir = daemon.state.path().join(format!("attempt-{}", tree.as_str()));
    let (share, overflow) = (daemon.log_pool.share(), daemon.config.logs.overflow);
    let log = Arc::new(Log::new(dir.join("log"), Bounds { limit: log_limit, share, overflow }));
    let live = Arc::new(Live::new(key.clone(), &lease.read_token, log, dir));
    // Known at once, so that whoever follows its log from the first moment finds it.
    daemon.attempts.insert(Arc::clone(&live));
    // Asked now that renewals name it: by one that does not, the controller may have handed it on.
    if session.is_too_late(&lease) {
        daemon.attempts.remove(&key);
        return Err(NotAccepted::TooLate);
    }
    // No side effect before this: from here a restart knows of it, whatever is found.
    let accepted = Record::Accepted { attempt: key.clone(), tree: tree.as_str().to_owned() };
    if let Err(error) = daemon.journal.append(vec![accepted]).await {
        daemon.attempts.remove(&key);
        return Err(error.into());
    }
    let redactor = Redactor::default();
    let result = AttemptResult::bare(AttemptEnd::Fault);
    let (runtime, keys) = (Arc::clone(&session.runtime), session.keys.clone());
    let mut attempt = Attempt { daemon, lease, runtime, keys, live, redactor, clock, result, shipping: None };
    let accepted = judged.map_err(Ended::Refused).and_then(|granted| attempt.values(tree, granted));
    attempt.leave(Step::Accept);
    Ok((attempt, accepted))
}

fn judge(daemon: &Daemon, lease: &Lease) -> Result<Granted, Vec<Refusal>> {
    let config = &daemon.config;
    let spec = &lease.run.spec;
    policy::judge_shape(&lease_run_as_submitted(lease))?;
    let mut refusals = secrets::judge(spec, &lease.attempt.namespace, &config.secrets, &lease.secrets);
    refusals.extend(other_tier(spec.tier, daemon.isolation.tier));
    let granted =
        policy::judge(spec, &config.defaults, &config.ceiling, &daemon.own_ports).and_then(|granted| {
            let limits = daemon.admission.judge(&granted.limits).map_err(|refusal| vec![refusal])?;
            Ok(Granted { limits, ..granted })
        });
    match granted {
        Ok(granted) if refusals.is_empty() => Ok(granted),
        Ok(_) => Err(refusals),
        Err(more) => Err([refusals, more].concat()),
    }
}

/// Refuses a Run that needs another tier than the pod's.
fn other_tier(asked: Option<Tier>, given: Tier) -> Option<Refusal> {
    let asked = asked.filter(|asked| *asked != given)?;
    let why = format!("the Run asks for the tier {asked:?}, and this pod gives {given:?}");
    let refusal = Refusal::new(Rule::SANDBOX_TIER, "spec.tier", why);
    Some(refusal.hint("leave `tier` out, or ask for a Runtime whose pods give it; `runtimed check` says why this one does not"))
}

/// The Run without what the controller added: the shape that a submission has is judged.
fn lease_run_as_submitted(lease: &Lease) -> runtimed_api::run::Run {
    let mut run = lease.run.clone();
    run.status = None;
    run.metadata.uid = None;
    run.metadata.creation_timestamp = None;
    run.metadata.generate_name = None;
    run
}

impl Attempt {
    /// Reads every value that the Run needs, so that a bad one ends it before anything starts, and registers it for
    /// masking before it can be shown anywhere.
    fn values(&mut self, tree: TreeName, granted: Granted) -> Result<Accepted, Ended> {
        let config = &self.daemon.config;
        let spec = &self.lease.run.spec;
        let secrets = secrets::read(&spec.secrets, &config.secrets, &self.lease.secrets)?;
        let credential = match &spec.source {
            Some(source) => credential::read(source, &config.secrets, &self.lease.secrets)?,
            None => None,
        };
        let too_many = |_| {
            runtimed_api::problem::Problem::new(
                Code::SecretInvalid,
                "the secrets are too many and too long to be masked together",
            )
        };
        let mut needles: Vec<(&str, &[u8])> = Vec::new();
        for secret in &secrets {
            let name = secret.uses.first().map_or("secret", |of| of.name.as_str());
            needles.push((name, secret.value.expose()));
        }
        needles.extend(credential.iter().flat_map(Credential::needles).map(|part| ("credential", part)));
        if needles.iter().map(|(_, value)| value.len()).sum::<usize>() > secrets::MAX_TOGETHER {
            let why = "the secrets of the Run are larger than 256 KiB together";
            return Err(runtimed_api::problem::Problem::new(Code::SecretInvalid, why).into());
        }
        if !needles.is_empty() {
            // Building the automaton for large keys takes a good part of a second, and nobody else waits for it.
            tokio::task::block_in_place(|| self.redactor.register(&needles)).map_err(too_many)?;
        }
        Ok(Accepted { tree, granted, secrets, credential })
    }
}
