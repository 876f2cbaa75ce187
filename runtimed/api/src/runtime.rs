//! The Runtime: a pool of pods of one image and configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::enforcement::Profile;
use crate::ids::RuntimeName;
use crate::quantity::Bytes;
use crate::run::ApiVersion;
use crate::run::limits::Limits;
use crate::run::network::{Network, NetworkMode};

/// A pool of pods of one image and configuration, as the controller is told of it by a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Runtime {
    /// Always `runtimed.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// Always `Runtime`.
    pub kind: RuntimeKind,
    /// Its name.
    pub metadata: RuntimeMetadata,
    /// What it serves, and up to where.
    pub spec: RuntimeSpec,
}

/// The kind of a Runtime object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuntimeKind {
    /// The only one.
    #[default]
    Runtime,
}

/// Which Runtime it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeMetadata {
    /// Unique.
    pub name: RuntimeName,
}

/// What a Runtime serves, and up to where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeSpec {
    /// One sentence for `runtimectl runtimes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The namespaces it serves; `["*"]` is all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// What a Run gets that does not say.
    #[serde(default)]
    pub defaults: Defaults,
    /// What a Run may ask for at most.
    #[serde(default)]
    pub ceiling: Ceiling,
    /// Which prior patches are taken.
    #[serde(default)]
    pub patches: PatchPolicy,
    /// Further names for the variables that we set: alias to our name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, String>,
}

/// What a Run gets that does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Defaults {
    /// What it may reach; nothing without it.
    #[serde(default)]
    pub network: Network,
    /// How much it may use.
    #[serde(default)]
    pub limits: Limits,
}

/// What a Run may ask for at most. Controller and daemon hold one each, and judge with the same code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ceiling {
    /// The most network; `Ports` without it.
    #[serde(default = "Ceiling::default_network")]
    pub network: NetworkMode,
    /// The ports that may be connected to; any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<u16>>,
    /// The largest limits; an absent one bounds nothing.
    #[serde(default)]
    pub limits: Limits,
    /// Directories beneath which a git source may be a local path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_paths: Vec<String>,
    /// A Run may ask for inotify.
    #[serde(default)]
    pub watch: bool,
    /// How much must hold.
    #[serde(default)]
    pub profile: Profile,
}

impl Ceiling {
    fn default_network() -> NetworkMode {
        NetworkMode::Ports
    }
}

impl Default for Ceiling {
    fn default() -> Self {
        Self {
            network: Self::default_network(),
            ports: None,
            limits: Limits::default(),
            local_paths: Vec::new(),
            watch: false,
            profile: Profile::Strict,
        }
    }
}

/// Which prior patches are taken, and what goes into those that are captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchPolicy {
    /// What must vouch for a patch; `Signed` without it.
    #[serde(default)]
    pub require: Provenance,
    /// Globs of protected paths that a patch may touch all the same, such as `.github/**`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_paths: Vec<String>,
    /// A patch may make symlinks that stay inside.
    #[serde(default)]
    pub allow_symlinks: bool,
    /// A captured patch also has the untracked files that the Baseline's `.gitignore` files name.
    #[serde(default)]
    pub include_ignored: bool,
    /// Files in one patch; 10000 without it.
    #[serde(default = "PatchPolicy::default_files")]
    pub max_files: u32,
    /// Bytes of one patch; 64Mi without it.
    #[serde(default = "PatchPolicy::default_bytes")]
    pub max_bytes: Bytes,
}

impl PatchPolicy {
    fn default_files() -> u32 {
        10_000
    }

    fn default_bytes() -> Bytes {
        Bytes::mib(64)
    }
}

impl Default for PatchPolicy {
    fn default() -> Self {
        Self {
            require: Provenance::default(),
            allow_paths: Vec::new(),
            allow_symlinks: false,
            include_ignored: false,
            max_files: Self::default_files(),
            max_bytes: Self::default_bytes(),
        }
    }
}

/// What must vouch for a prior patch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Provenance {
    /// The controller's signed statement.
    #[default]
    Signed,
    /// That the bytes are the named ones, and that they are applied to the tree they were made for, if the controller
    /// knows it.
    Digest,
    /// Nothing: any bytes of the digest, on any tree to which they apply.
    None,
}
