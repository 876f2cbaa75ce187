//! The Run: one requested execution, as it is submitted, stored and shown.
//!
//! The types are made so that a Kubernetes CRD can hold them: no untagged union, no value that is a string here and
//! an object there; a choice is a struct of which exactly one field is given.

pub mod limits;
pub mod network;
pub mod outcome;
pub mod source;
pub mod spec;
pub mod status;
pub mod step;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{Namespace, RunName, RunUid};
use spec::RunSpec;
use status::RunStatus;

/// One requested execution: what was asked for, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Run {
    /// Always `runtimed.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// Always `Run`.
    pub kind: RunKind,
    /// Its name and labels.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: RunSpec,
    /// What became of it; written by the controller alone, refused in a submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RunStatus>,
}

/// Whose and which Run it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique in the namespace. Either this or `generateName` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RunName>,
    /// The start of a name that the controller completes with five random characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 57))]
    pub generate_name: Option<String>,
    /// `default` when it is not given; a submission's path must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Free words for selecting; at most 32, keys and values of at most 63 bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Given by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<RunUid>,
    /// Given by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Timestamp>,
}

/// The version of the stored types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The first.
    #[default]
    #[serde(rename = "runtimed.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of a Run object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunKind {
    /// The only one.
    #[default]
    Run,
}

/// A page of Runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunList {
    /// Newest first.
    pub items: Vec<Run>,
    /// Give it back as `continue` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
