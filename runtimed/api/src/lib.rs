//! What every part of runtimed says to every other: the Run and Runtime types, typed ids, policy rules, error
//! codes, exit codes, and the link between daemon and worker.
//!
//! Nothing here touches a file, a socket or a clock. A type that crosses a process boundary is defined here and
//! nowhere else, so that a change of a word is one change.
#![forbid(unsafe_code)]

pub mod capacity;
pub mod digest;
pub mod duration;
pub mod enforcement;
pub mod environment;
pub mod exit;
pub mod git_url;
pub mod https_url;
pub mod ids;
pub mod link;
pub mod log;
pub mod manifest;
pub mod parse;
pub mod policy;
pub mod problem;
pub mod provenance;
pub mod quantity;
pub mod rule;
pub mod run;
pub mod runtime;
pub mod schema;
pub mod session;
pub mod tokens;
pub mod trace;

/// The only version of the stored types so far.
pub const API_VERSION: &str = "runtimed.dev/v1alpha1";

/// A submitted Run, and a stored object, is at most this many bytes of JSON (a Kubernetes object has a like bound).
pub const MAX_OBJECT_BYTES: usize = 256 * 1024;
