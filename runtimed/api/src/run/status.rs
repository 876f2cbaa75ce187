//! What became of a Run.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::step::{Step, StepTime};
use crate::digest::Digest;
use crate::enforcement::Enforcement;
use crate::ids::{AttemptNumber, DaemonName, Fence, SecretName, TreeId};
use crate::problem::Problem;
use crate::provenance::Envelope;
use crate::rule::Refusal;
use crate::trace::TraceContext;

/// What became of a Run. Only the controller writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunStatus {
    /// Where in its life it is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// One sentence: why it is where it is. For `Pending` always given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The step of the running attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// When the command last wrote something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_output: Option<Timestamp>,
    /// Who submitted it: the subject of the token.
    pub requested_by: String,
    /// The trace that the submitter was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// A person asked for its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// The newest fence given out.
    pub fence: Fence,
    /// When it reached its terminal phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it was refused; with `Refused`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// Every attempt, first to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptStatus>,
}

/// Where in its life a Run, or an attempt, is.
///
/// `Pending → Running → Finishing →` one of the terminal phases, of which the first reached stays for ever. A retry
/// goes from `Running` or `Finishing` back to `Pending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Waits for a daemon.
    Pending,
    /// A daemon has it.
    Running,
    /// The Outcome is known; capture, scrub and upload go on.
    Finishing,
    /// The command exited with 0.
    Succeeded,
    /// The command exited otherwise, a signal ended it, or a limit did.
    Failed,
    /// Its timeout, or its time in the queue, ran out.
    TimedOut,
    /// A person ended it.
    Cancelled,
    /// Policy forbids it, or what it asks for is not there.
    Refused,
    /// Its daemon went away.
    Lost,
    /// Our failure.
    Fault,
}

impl Phase {
    /// Nothing changes any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Running | Self::Finishing)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Finishing => "Finishing",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::TimedOut => "TimedOut",
            Self::Cancelled => "Cancelled",
            Self::Refused => "Refused",
            Self::Lost => "Lost",
            Self::Fault => "Fault",
        })
    }
}

/// One attempt, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttemptStatus {
    /// From 1.
    pub number: AttemptNumber,
    /// The fence it was handed out under.
    pub fence: Fence,
    /// The daemon that has it.
    pub daemon: DaemonName,
    /// When it was handed out.
    pub started_at: Timestamp,
    /// When its last report came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The command's verdict, from `Finishing` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// All that it ended with; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<AttemptResult>,
    /// The controller's signed statement about the Patch of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Envelope>,
}

/// How an attempt ended, and all that is known of it. A daemon reports it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttemptResult {
    /// How it ended.
    pub end: AttemptEnd,
    /// One sentence, where the end alone does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The command's verdict, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// With `Fault`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Problem>,
    /// With `Refused`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// The steps it went through.
    #[serde(default)]
    pub steps: Vec<StepTime>,
    /// What the kernel really applied to the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// Secrets that were delivered in the environment, and where.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_deliveries: BTreeMap<SecretName, String>,
    /// What became of the staged secrets; absent when nothing was staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
    /// The commit that the source was at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<TreeId>,
    /// The tree after source and prior patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<TreeId>,
    /// Baseline to final tree; absent when nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
    /// The declared output files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<ArtifactSummary>,
    /// Small results.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    /// The log.
    #[serde(default)]
    pub log: LogSummary,
    /// How long it took from the decision to end the tree until it was empty, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_micros: Option<u64>,
    /// What did not get to the store before the deadline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uploads_incomplete: Vec<String>,
    /// Facts that a reader of the result must know: outputs that were refused, a capture that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl AttemptResult {
    /// A result of which nothing but the end is known.
    #[must_use]
    pub fn bare(end: AttemptEnd) -> Self {
        Self {
            end,
            reason: None,
            outcome: None,
            fault: None,
            refusals: Vec::new(),
            steps: Vec::new(),
            enforcement: None,
            env_deliveries: BTreeMap::new(),
            scrub: None,
            commit: None,
            baseline: None,
            patch: None,
            artifacts: None,
            outputs: BTreeMap::new(),
            log: LogSummary::default(),
            kill_micros: None,
            uploads_incomplete: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AttemptEnd {
    /// The command ended by itself or at a limit: the Outcome says how.
    Completed,
    /// Its timeout ran out.
    TimedOut,
    /// A person ended it.
    Cancelled,
    /// The daemon was shut down.
    Drained,
    /// Policy forbids it, or what it asks for is not there.
    Refused,
    /// The daemon went away, or could no longer hold the lease.
    Lost,
    /// Our failure.
    Fault,
}

/// What became of the staged secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scrub {
    /// Files that were staged.
    pub staged: u32,
    /// Files that were removed; more than `staged` when the command added some.
    pub removed: u32,
    /// New values that took the place of a staged one while the command ran.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rotated: u32,
    /// Where they lay: `tmpfs`, `ramfs` or `disk`.
    pub medium: String,
    /// Nothing of them is left at the place of staging, and that was looked at.
    pub verified: bool,
    /// What was found or went wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The change that a Run made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Patch {
    /// Of its bytes; absent when it was withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes.
    pub size: u64,
    /// Files changed.
    pub files: u32,
    /// Lines added.
    pub insertions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// The tree it applies to.
    pub base: TreeId,
    /// The tree it yields.
    pub result: TreeId,
    /// Why it was not kept, such as `patch.contains-secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Refusal>,
}

/// The artifacts of an attempt; the list is the manifest, a blob of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactSummary {
    /// The blob that holds the [`crate::manifest::Manifest`].
    pub manifest: Digest,
    /// Files kept.
    pub count: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Files not kept; the manifest says why.
    pub skipped: u32,
}

/// The log of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogSummary {
    /// Bytes of text, both streams together, after masking.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Bytes that were dropped at the limit.
    #[serde(default)]
    pub dropped: u64,
}
