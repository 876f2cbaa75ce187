//! What a Run asks for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::network::Network;
use super::source::Source;
use crate::digest::Digest;
use crate::duration::Span;
use crate::enforcement::Tier;
use crate::ids::{RunName, RuntimeName, SecretName};

/// What a Run asks for. Absent fields take the Runtime's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunSpec {
    /// The pool that runs it.
    pub runtime: RuntimeName,
    /// Where the workspace's first content comes from; an empty workspace without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Patches of earlier Runs, applied in this order on the source; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub prior_patches: Vec<PriorPatch>,
    /// Earlier Runs of the namespace whose artifacts the command may read, below `$RUNTIMED_INPUTS_DIR`; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub inputs: Vec<Input>,
    /// The program and its arguments; not a shell line.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Added to the command's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets that the command may read, by name; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub secrets: Vec<SecretUse>,
    /// What the command may reach; nothing without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// How much it may use.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// The tier that the Run needs, such as for programs that write to a literal `/tmp/x`: a pod that gives another one
    /// refuses it. Any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Allow inotify, at the price of seeing neighbours' file names; the status shows it as degraded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watch: bool,
    /// What to keep beyond `$RUNTIMED_ARTIFACTS_DIR`.
    #[serde(default, skip_serializing_if = "Artifacts::is_empty")]
    pub artifacts: Artifacts,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How long the finished Run is kept; 24h without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_after_finished: Option<Span>,
}

/// One prior patch: of an earlier Run of the namespace, or by its digest. Exactly one field is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriorPatch {
    /// The Patch that this Run captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunName>,
    /// A Patch uploaded to, or captured in, this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// An earlier Run whose artifacts the command may read, in a directory of that Run's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// That Run.
    pub run: RunName,
}

/// One secret that the command may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretUse {
    /// Its name in the Runtime's configuration, or among the submitted ones.
    pub name: SecretName,
    /// Deliver the value in this environment variable as well. The status names such deliveries, for an environment is
    /// inherited by every child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// The file's name in the staging directory; the secret's name without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// `0600` (the default) or `0400`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SecretMode>,
}

/// The mode of a staged file. Nothing wider exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SecretMode {
    /// The command may rewrite its copy.
    #[default]
    #[serde(rename = "0600")]
    OwnerReadWrite,
    /// The command may only read it.
    #[serde(rename = "0400")]
    OwnerRead,
}

impl SecretMode {
    /// The permission bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::OwnerReadWrite => 0o600,
            Self::OwnerRead => 0o400,
        }
    }
}

/// What to keep beyond what is put in `$RUNTIMED_ARTIFACTS_DIR`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifacts {
    /// Globs relative to the workspace, such as `dist/**`; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub paths: Vec<String>,
}

impl Artifacts {
    /// Nothing beyond the directory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

/// When a Run is tried again, in a fresh workspace with a fresh deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// Before the second attempt; doubled for each later one, at most 10m. 1s without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Span>,
    /// After which ends. `Lost`, `Fault` and `Drained` without it.
    #[serde(default = "Retry::default_on")]
    pub on: Vec<RetryOn>,
}

impl Retry {
    /// Ends that are no verdict on the command.
    #[must_use]
    pub fn default_on() -> Vec<RetryOn> {
        vec![RetryOn::Lost, RetryOn::Fault, RetryOn::Drained]
    }
}

/// An end of an attempt after which another may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RetryOn {
    /// The daemon went away.
    Lost,
    /// Our failure.
    Fault,
    /// The pod was shut down; does not count as an attempt.
    Drained,
    /// The command's own failure.
    Failed,
    /// The timeout.
    TimedOut,
    /// A limit.
    LimitExceeded,
}
