//! The list of an attempt's artifacts: a blob of JSON in the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The list of an attempt's artifacts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The files that were kept, by path.
    pub files: Vec<Artifact>,
    /// What was not, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

/// One file that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// `/`-separated, relative; bytes that are no UTF-8 are percent-encoded.
    pub path: String,
    /// Of the kept bytes.
    pub digest: Digest,
    /// Of the kept bytes.
    pub size: u64,
    /// A media type, by name and first bytes.
    pub content_type: String,
    /// Its owner could execute it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
    /// Secrets in it were masked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// One file that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Skipped {
    /// As [`Artifact::path`].
    pub path: String,
    /// One sentence.
    pub reason: String,
}
