//! Patches that can be trusted: read strictly, judged by what they result in, applied to trees before files.
//!
//! ```text
//! bytes ── parse ──> Parsed ─┐
//!                            ├─ check ──> Checked: a tree ──┬─ checkout ──> a new workspace and its Snapshot
//! a tree, a PathPolicy ──────┘   (in memory, all or nothing) └─ update ───> a person's work tree
//!
//! a workspace, its Snapshot ── capture ──> the patch from one tree to the other
//! ```
//! The crate is pure: bytes, an object store and directories in, values out; no network, no process, no configuration
//! of anybody's. It runs in the confined children of the worker, and on a person's repository in the command line.
//!
//! git2 gives it objects, packs and the line diff. Reading and applying are its own, in safe code, because libgit2's
//! are too generous for bytes that a Run made. Seen with libgit2 1.9: a patch that creates a file which exists is
//! merged into it; a deletion does not compare what it deletes; a file beneath a file replaces it; a rename, or a
//! change without an `index` line, loses the executable bit; a binary or empty file with a space in its name cannot
//! be read; a hunk whose text has moved does not apply.

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
pub use update::{Recovery, UpdateError, present, recover, update};
