//! What a daemon and the controller say to each other: sessions, leases, renewals, reports.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::capacity::Capacity;
use crate::digest::Digest;
use crate::ids::{AttemptKey, BuildId, DaemonName, RuntimeName, SecretName, SessionId, TreeId};
use crate::problem::Problem;
use crate::provenance::{Envelope, KeyHistory};
use crate::run::Run;
use crate::run::outcome::Outcome;
use crate::run::status::AttemptResult;
use crate::run::step::Step;
use crate::runtime::Runtime;
use crate::trace::TraceContext;

/// The characters of [`OpenSession::instance`], at least and at most.
pub const INSTANCE_CHARS: RangeInclusive<usize> = 32..=128;

/// The header in which a daemon shows [`OpenSession::instance`] outside of a Session.
pub const INSTANCE: &str = "runtimed-instance";

/// How much of a blob that broke off has arrived: `GET /v1/blobs/{digest}/arrived`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arrived {
    /// Bytes from its beginning: the next `PUT` of it may begin there, with `from`.
    pub bytes: u64,
}

/// A daemon opens its Session: `POST /v1/sessions`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenSession {
    /// Who it is. A second Session of the same name and the same [`Self::instance`] ends the first.
    pub daemon: DaemonName,
    /// A secret of its own, of [`INSTANCE_CHARS`] characters: whoever has the Runtime's token can claim a name, so that what it
    /// leases is kept for whoever shows this again. What a daemon without one leases is kept for its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SecretText>,
    /// Whose Runs it leases; its token must be bound to it.
    pub runtime: RuntimeName,
    /// Runs at once.
    pub slots: u32,
    /// Where its own endpoints are, such as `http://127.0.0.1:8410`; logs are proxied from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its build.
    pub build: BuildId,
    /// What it has for its Runs together.
    #[serde(default)]
    pub capacity: Capacity,
}

/// The answer to [`OpenSession`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// How long the leases hold after a renewal was sent, in milliseconds.
    pub lease_millis: u64,
    /// The Runtime as the controller knows it.
    pub runtime: Runtime,
    /// The keys that it signs, and has signed, statements with.
    #[serde(default)]
    pub keys: KeyHistory,
    /// The controller's monotonic clock when this was asked for, in milliseconds; it counts for this Session alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_millis: Option<u64>,
}

/// A free slot asks for a Run: `POST /v1/sessions/{id}/lease`. The answer is a [`Lease`], or 204 when the wait is over.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseRequest {
    /// How long to wait at most, in milliseconds; the controller bounds it.
    pub wait_millis: u64,
}

/// The fenced right to one attempt of one Run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lease {
    /// Which attempt, under which fence.
    pub attempt: AttemptKey,
    /// The Run, without its status.
    pub run: Run,
    /// Who submitted it.
    pub requested_by: String,
    /// Opens the blobs and reports of this attempt alone.
    pub token: SecretText,
    /// Opens the daemon's own endpoints for this attempt alone; the controller proxies with it.
    pub read_token: SecretText,
    /// The secrets that were submitted with the Run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, SecretValue>,
    /// The prior patches, resolved, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<LeasedPatch>,
    /// The trace that the submitter was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// When it was given, on the clock of [`Session::at_millis`]: an answer that was long on its way is no lease any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_millis: Option<u64>,
}

/// A prior patch, resolved to bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeasedPatch {
    /// The blob that holds it.
    pub digest: Digest,
    /// How the submitter named it.
    pub label: String,
    /// The tree it was made for, if the controller knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<TreeId>,
    /// The tree it yields, if the controller knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TreeId>,
    /// The controller's statement about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Envelope>,
}

/// A daemon renews all its leases: `POST /v1/sessions/{id}/renew`. The renewal counts from when it was sent; the answer
/// comes when there is something to do, or after a third of the lease period.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Renew {
    /// The attempts that it holds.
    pub attempts: Vec<Held>,
    /// Why it takes no other Run, in a sentence; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unready: Option<String>,
    /// The answer is wanted at once: the first renewal of a Session says until when its leases hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompt: bool,
    /// The newest time on the clock of [`Session::at_millis`] that the daemon knew of when it made this list. What it was given
    /// more than a third of the period before that, or in an earlier Session, and the list does not name, it never begins:
    /// the answer with that lease was lost. Absent where the list may lack something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_millis: Option<u64>,
}

/// How old a lease may be when its attempt begins, for leases that hold for so many milliseconds: both sides reckon with it,
/// see [`Renew::as_of_millis`].
#[must_use]
pub const fn begins_within(lease_millis: u64) -> u64 {
    lease_millis / 3
}

/// An attempt that a daemon holds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Held {
    /// Which.
    pub attempt: AttemptKey,
    /// It is being ended already: no need to say so again.
    pub stopping: bool,
    /// What it is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// When the command last wrote something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_output: Option<Timestamp>,
}

/// The answer to [`Renew`]: what to do about attempts of the list. One that is not named goes on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Renewed {
    /// What to do.
    #[serde(default)]
    pub orders: Vec<Order>,
    /// When the renewal arrived, on the clock of [`Session::at_millis`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_millis: Option<u64>,
}

/// What to do about one attempt.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// Which.
    pub attempt: AttemptKey,
    /// What.
    pub order: OrderKind,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OrderKind {
    /// A person ended it: stop, collect, report.
    Cancel,
    /// The fence is stale: stop, and change nothing.
    Abandon,
}

/// Reports, oldest first: `POST /v1/sessions/{id}/reports`. Delivered at least once, applied exactly once.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reports {
    /// At most 64.
    pub reports: Vec<Report>,
}

/// One fact about one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// Which attempt, under which fence.
    pub attempt: AttemptKey,
    /// From 1 within the attempt; a number that was seen is answered and not applied again.
    pub sequence: u64,
    /// When it happened, by the daemon's clock.
    pub at: Timestamp,
    /// What happened.
    pub event: ReportEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ReportEvent {
    /// The command has ended, and its Outcome is fixed: `Finishing`.
    Exited(Outcome),
    /// The daemon could not take the lease, and nothing of the attempt has begun: the Run waits again. A sentence says why.
    Declined(String),
    /// The attempt is over: staged secrets are scrubbed and results uploaded, or their deadline has passed.
    Finished(Box<AttemptResult>),
}

/// The answer to [`Reports`]: one entry a report, in order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reported {
    /// One entry a report.
    pub answers: Vec<ReportAnswer>,
}

/// What became of a report. Every answer ends its redelivery.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ReportAnswer {
    /// Applied, now or before.
    Applied,
    /// Not applied, and it never will be: a stale fence, an unknown Run.
    Rejected(Problem),
}

/// A person submits a Run: `POST /v1/namespaces/{namespace}/runs`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Submission {
    /// The Run, without uid, creation time and status.
    pub run: Run,
    /// Secrets for this Run alone; each at most 64 KiB.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, SecretValue>,
}

/// Bytes of all secrets of a Run at most, those it is submitted with and those that a daemon has for it: each is looked for
/// in some fourteen forms, which all take memory while it runs.
pub const MAX_SECRETS_BYTES: usize = 256 * 1024;

/// The value of a secret: base64 on the wire, wiped from memory when dropped, never shown.
#[derive(Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes. Whoever copies them wipes the copy.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(BASE64.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The decoder's own error names a byte of the value; say less.
        BASE64
            .decode(&*text)
            .map(Self::new)
            .map_err(|_| serde::de::Error::custom("a secret's value is not base64"))
    }
}

/// A token as text: wiped from memory when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "String")]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let value = SecretValue::new(b"hunter22".to_vec());
        assert_eq!(format!("{value:?}"), "SecretValue(…)");
        let text = serde_json::to_string(&value).expect("serialises");
        assert_eq!(text, "\"aHVudGVyMjI=\"");
        assert_eq!(serde_json::from_str::<SecretValue>(&text).expect("reads"), value);
        let error = serde_json::from_str::<SecretValue>("\"hunter2!\"").expect_err("refused");
        assert!(!error.to_string().contains("hunter"), "{error}");
    }
}
