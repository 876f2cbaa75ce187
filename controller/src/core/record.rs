//! A Run as it is stored: what people see, and what only the controller needs.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use runtimed_api::digest::Digest;
use runtimed_api::duration::Span;
use runtimed_api::ids::{
    AttemptKey, AttemptNumber, DaemonName, Fence, Namespace, RunName, RunUid, RuntimeName,
};
use runtimed_api::provenance::Envelope;
use runtimed_api::run::spec::RunSpec;
use runtimed_api::run::status::{AttemptStatus, Phase, RunStatus};
use runtimed_api::run::{ApiVersion, Metadata, Run, RunKind};
use runtimed_api::session::LeasedPatch;
use runtimed_api::trace::TraceContext;
use runtimed_store::Place;
use serde::{Deserialize, Serialize};

use super::bounded;

/// How long a finished Run is kept that does not say.
const DEFAULT_TTL: Span = Span::from_secs(24 * 3600);

/// Namespace and name: how people know a Run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunKey {
    /// Whose.
    pub namespace: Namespace,
    /// Which.
    pub name: RunName,
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Namespace and name.
    pub key: RunKey,
    /// Its identity for ever.
    pub uid: RunUid,
    /// When it was submitted.
    pub created: Timestamp,
    /// The start its name was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
    /// Free words for selecting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What is asked for.
    pub spec: RunSpec,
    /// What became of it.
    pub status: RunStatus,
    /// What only the controller needs.
    pub private: Private,
}

/// What only the controller needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Private {
    /// The sequence of the last applied report of each attempt, in the attempts' order; 0 before the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applied: Vec<u64>,
    /// Attempts that ended with the shutdown of their pod and do not count.
    #[serde(default)]
    pub drained: u32,
    /// The digest of the secret of the daemon that each attempt was handed to, where it has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<Fence, Digest>,
    /// Leases of it that daemons declined, or never had.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub declined: u32,
    /// The end of the backoff before the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Since when it waited for the daemon that has it, and waits on if that one gives it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_since: Option<Timestamp>,
    /// How long it may wait for a daemon, as granted at submission.
    pub queue: Span,
    /// Secrets were submitted with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub submitted_secrets: bool,
    /// The prior patches of the current attempt, and where their bytes are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<PatchGrant>,
    /// It is to be removed as soon as it is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doomed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A prior patch as it was resolved for an attempt, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchGrant {
    /// As the daemon gets it.
    pub patch: LeasedPatch,
    /// Where the bytes are.
    pub place: Blobs,
}

/// A place that blobs are kept in: each lives and goes as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Blobs {
    /// What the attempts of a Run stored.
    Run(RunUid),
    /// Patches that people uploaded to a namespace.
    Uploaded(Namespace),
    /// Work trees that people uploaded to a namespace: never where its patches are, for a digest that names one of each
    /// must not let the end of the one take the other.
    Trees(Namespace),
}

impl Blobs {
    /// Where that is in the store.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::Run(uid) => Place::of_run(uid),
            Self::Uploaded(namespace) => Place::patches(namespace.as_str()),
            Self::Trees(namespace) => Place::trees(namespace.as_str()),
        }
    }
}

/// A submission that was judged and found good.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// Namespace and name.
    pub key: RunKey,
    /// The uid proposed for it.
    pub uid: RunUid,
    /// Its name was made from this.
    pub generate_name: Option<String>,
    /// Free words for selecting.
    pub labels: BTreeMap<String, String>,
    /// What is asked for.
    pub spec: RunSpec,
    /// The subject of the submitter's token.
    pub requested_by: String,
    /// The trace that the submitter was in.
    pub trace: Option<TraceContext>,
    /// How long it may wait for a daemon.
    pub queue: Span,
    /// Secrets were submitted with it.
    pub submitted_secrets: bool,
}

/// What follows from a Run's state alone: the engine's indexes are made of it, after a change and after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a daemon.
    Waiting {
        /// Not to be handed out before.
        ready_at: Timestamp,
        /// Its place in the queue: a hand-out that was taken back does not change it.
        since: Timestamp,
        /// Its time in the queue is over then.
        gives_up_at: Timestamp,
    },
    /// A daemon has it.
    Held(Held),
    /// It is over.
    Over {
        /// To be removed then.
        remove_at: Timestamp,
    },
}

/// The attempt that a daemon has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which attempt.
    pub number: AttemptNumber,
    /// Its fence.
    pub fence: Fence,
    /// The daemon's name.
    pub daemon: DaemonName,
    /// The digest of its secret, where it has one.
    pub instance: Option<Digest>,
}

/// A daemon as it proves to be itself: whoever has the Runtime's token may say the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its name.
    pub name: DaemonName,
    /// The digest of its secret, where it has one.
    pub instance: Option<Digest>,
}

impl Held {
    /// Whether it is this daemon that has it. What was handed to one without a secret is held to the name.
    #[must_use]
    pub fn is_with(&self, daemon: &Identity) -> bool {
        self.daemon == daemon.name && self.instance.is_none_or(|known| daemon.instance == Some(known))
    }
}

impl Record {
    /// A submission as it is first stored.
    #[must_use]
    pub fn submitted(submitted: Submitted, now: Timestamp) -> Self {
        let Submitted {
            key,
            uid,
            generate_name,
            labels,
            spec,
            requested_by,
            trace,
            queue,
            submitted_secrets,
        } = submitted;
        let status = RunStatus {
            phase: Phase::Pending,
            since: now,
            reason: Some("waits for a daemon".to_owned()),
            step: None,
            last_output: None,
            requested_by,
            trace,
            cancel_requested: false,
            fence: Fence::default(),
            finished_at: None,
            refusals: Vec::new(),
            attempts: Vec::new(),
        };
        let private = Private {
            applied: Vec::new(),
            drained: 0,
            instances: BTreeMap::new(),
            declined: 0,
            not_before: None,
            waits_since: None,
            queue,
            submitted_secrets,
            patches: Vec::new(),
            doomed: false,
        };
        Self { key, uid, created: now, generate_name, labels, spec, status, private }
    }

    /// The Run as people see it.
    #[must_use]
    pub fn view(&self) -> Run {
        Run { status: Some(self.status.clone()), ..self.order() }
    }

    /// The Run as a daemon gets it: without its status.
    #[must_use]
    pub fn order(&self) -> Run {
        Run {
            api_version: ApiVersion::V1Alpha1,
            kind: RunKind::Run,
            metadata: Metadata {
                name: Some(self.key.name.clone()),
                generate_name: self.generate_name.clone(),
                namespace: Some(self.key.namespace.clone()),
                labels: self.labels.clone(),
                uid: Some(self.uid.clone()),
                creation_timestamp: Some(self.created),
            },
            spec: self.spec.clone(),
            status: None,
        }
    }

    /// What was uploaded for it to start from.
    #[must_use]
    pub fn uploaded(&self) -> Option<&Digest> {
        self.spec.source.as_ref()?.uploaded()
    }

    /// What follows from its state.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if let Some(held) = self.held() {
            return Standing::Held(held);
        }
        let after = |start: Timestamp, span: Span| {
            let span = SignedDuration::try_from(span.get()).unwrap_or(SignedDuration::MAX);
            start.checked_add(span).unwrap_or(Timestamp::MAX)
        };
        match self.status.finished_at {
            Some(finished) if self.private.doomed => Standing::Over { remove_at: finished },
            Some(finished) => {
                let ttl = self.spec.ttl_after_finished.unwrap_or(DEFAULT_TTL);
                Standing::Over { remove_at: after(finished, ttl) }
            }
            None => {
                let ready_at = self.private.not_before.unwrap_or(self.status.since);
                let since = self.private.waits_since.unwrap_or(ready_at);
                Standing::Waiting { ready_at, since, gives_up_at: after(since, self.private.queue) }
            }
        }
    }

    /// The attempt that a daemon has, if one has it.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        let going_on = matches!(self.status.phase, Phase::Running | Phase::Finishing);
        let attempt = self.status.attempts.last().filter(|_| going_on)?;
        Some(self.hold(attempt))
    }

    /// Whether a daemon has an attempt that it has said nothing of yet.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.status.phase == Phase::Running && self.private.applied.last() == Some(&0)
    }

    /// Which daemon has, or had, an attempt.
    #[must_use]
    pub fn hold(&self, attempt: &AttemptStatus) -> Held {
        Held {
            number: attempt.number,
            fence: attempt.fence,
            daemon: attempt.daemon.clone(),
            instance: self.private.instances.get(&attempt.fence).copied(),
        }
    }

    /// The key of an attempt of this Run.
    #[must_use]
    pub fn attempt_key(&self, held: &Held) -> AttemptKey {
        AttemptKey {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            uid: self.uid.clone(),
            attempt: held.number,
            fence: held.fence,
        }
    }

    /// The pool that runs it.
    #[must_use]
    pub fn runtime(&self) -> &RuntimeName {
        &self.spec.runtime
    }

    /// Keeps the statement about the Patch of this attempt, which is the newest: what was said of those before is dropped,
    /// for nobody names them by the Run any more.
    pub fn vouch(&mut self, attempt: AttemptNumber, statement: &Envelope) {
        for known in &mut self.status.attempts {
            known.statement = (known.number == attempt).then(|| statement.clone());
        }
        bounded::fit(self);
    }

    /// Goes to a phase. Only callers within the state machine may.
    pub(super) fn enter(&mut self, phase: Phase, reason: Option<String>, now: Timestamp) {
        self.status.phase = phase;
        self.status.since = now;
        self.status.reason = reason;
        self.status.finished_at = phase.is_terminal().then_some(now);
        if phase.is_terminal() {
            // What was granted to an attempt ends with the last of them.
            self.private.patches.clear();
            self.private.not_before = None;
            self.private.waits_since = None;
        }
    }
}
