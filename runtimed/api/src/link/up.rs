//! What the worker tells, frame by frame.

use serde::{Deserialize, Serialize};

use crate::enforcement::Enforcement;
use crate::ids::TreeId;
use crate::problem::Problem;
use crate::rule::Refusal;
use crate::run::step::StepTime;

/// The source is there and every prior patch applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Baseline {
    /// The tree; absent for an empty workspace.
    pub tree: Option<TreeId>,
    /// The commit of a git source.
    pub commit: Option<TreeId>,
    /// How long source and patches took.
    pub steps: Vec<StepTime>,
    /// What a reader of the result should know, such as a depth that a local path cannot have.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The plan for the command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Enforced {
    /// Protection by protection.
    pub enforcement: Enforcement,
}

/// The command was executed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Started {
    /// Its process id, as the supervisor sees it.
    pub pid: u32,
}

/// The command has ended, and its tree is empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exited {
    /// How.
    pub status: ExitStatus,
    /// CPU time in user mode of all that was reaped, in microseconds.
    pub user_micros: u64,
    /// CPU time in the kernel of all that was reaped, in microseconds.
    pub system_micros: u64,
    /// The largest resident set, in bytes.
    pub max_rss: u64,
    /// Processes that outlived the command, and were killed.
    pub leaked: u32,
    /// From the first signal until the tree was empty, in microseconds; absent when it was empty by itself.
    pub kill_micros: Option<u64>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitStatus {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// The Patch is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Captured {
    /// What changed; absent when nothing did.
    pub patch: Option<PatchFacts>,
    /// What was left out, and why; at most 100 sentences.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What a captured Patch holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchFacts {
    /// Bytes of the patch, which are the first that were written to the descriptor.
    pub size: u64,
    /// Bytes behind them that say what cannot be read in it. Absent if that was not asked for, or is too much.
    pub revealed: Option<u64>,
    /// Files changed.
    pub files: u32,
    /// Lines added.
    pub insertions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// The Baseline's tree.
    pub base: TreeId,
    /// The final tree.
    pub result: TreeId,
}

/// Policy forbids it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refused {
    /// Each broken rule.
    pub refusals: Vec<Refusal>,
}

/// A failure that is no verdict.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// What went wrong.
    pub problem: Problem,
}
