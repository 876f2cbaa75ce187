//! Patches that can be trusted: read strictly, judged by what they result in, applied to trees before files.
//!
//! The crate is pure: bytes and a git object store in, values out. It runs in the confined children of the worker,
//! and on a person's repository in the command line. git2 gives it objects, packs and the line diff; reading and
//! applying are its own, because libgit2's reader and applier accept more than they should: see `docs/SECURITY.md`.
#![forbid(unsafe_code)]

mod apply;
mod capture;
mod check;
mod checkout;
mod emit;
mod git_path;
mod ignore;
mod limits;
mod objects;
mod parse;
mod policy;
mod repository;
mod rule;
mod snapshot;
mod tree;
mod update;

pub use capture::{CaptureError, CaptureOptions, Captured, Ignored, SkipReason, Skipped, capture};
pub use check::{Applied, CheckError, Checked, Enforce, check};
pub use checkout::{CheckoutError, Stage, checkout};
pub use git_path::GitPath;
pub use limits::Limits;
pub use parse::{Parsed, parse};
pub use policy::{DEFAULT_PROTECTED, PathPolicy};
pub use repository::{RepositoryError, RepositoryOptions, make_repository, without_credentials};
pub use rule::{Refusal, Rule, RuleKind};
pub use snapshot::{Snapshot, SnapshotError};
pub use tree::TreeId;
pub use update::{Recovery, UpdateError, recover, update};
