//! What the kernel really applied to a command.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the kernel really applied to a command, protection by protection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Enforcement {
    /// By which means the Run is set apart.
    pub tier: Tier,
    /// What was required.
    pub profile: Profile,
    /// Each protection.
    pub protections: Vec<Protection>,
}

/// By which means a Run is set apart from the pod and its neighbours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Landlock, seccomp and limits: works in every pod.
    #[default]
    Base,
    /// Base, and private mounts, processes and network by user namespaces.
    Namespaces,
    /// Base, in a pod that holds this Run alone.
    Exclusive,
}

/// How much must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// Every protection is required.
    #[default]
    Strict,
    /// For kernels before 6.12: what it gives up is shown.
    Compatible,
}

/// One protection, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Protection {
    /// What is protected, such as `files` or `other-processes`.
    pub name: String,
    /// Whether it holds.
    pub state: State,
    /// By which mechanism, such as `landlock` or `seccomp`.
    pub mechanism: String,
    /// Why it does not hold, or only in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether a protection holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It holds.
    Active,
    /// It holds in part.
    Degraded,
    /// The policy switched it off.
    Disabled,
    /// Neither kernel nor pod can give it.
    Unavailable,
}
