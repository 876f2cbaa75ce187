//! The steps of an attempt, and how long each took.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A step of an attempt's life, in order. The steps before `Accept` and after `Report` belong to the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Step {
    /// Judged again and journaled.
    Accept,
    /// Three private trees.
    Allocate,
    /// The worker.
    Launch,
    /// The source's content.
    Source,
    /// Prior patches: checked, then applied.
    Patches,
    /// Secrets.
    Stage,
    /// The command: from its start to its exit, or to the end of its tree.
    Run,
    /// Outputs, Patch, Artifacts.
    Capture,
    /// What was staged, removed and verified.
    Scrub,
    /// From the spool to the store.
    Upload,
    /// Trees removed.
    Release,
}

impl Step {
    /// As a person reads it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Allocate => "allocate",
            Self::Launch => "launch",
            Self::Source => "source",
            Self::Patches => "patches",
            Self::Stage => "stage",
            Self::Run => "run",
            Self::Capture => "capture",
            Self::Scrub => "scrub",
            Self::Upload => "upload",
            Self::Release => "release",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How long a step took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepTime {
    /// Which step.
    pub step: Step,
    /// On a monotonic clock, in microseconds.
    pub micros: u64,
}
