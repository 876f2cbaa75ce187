//! Kernel primitives for running one attempt of a Run beside others of the same uid.
//!
//! Four things are kept apart. *Intent* is a [`policy::Policy`]. *What the kernel offers* is a [`support::Support`]. A
//! *plan* ([`plan::plan`]) joins the two and is pure: it yields a [`plan::Plan`] or a [`plan::Refusal`]. *Enforcement*
//! applies a plan, in a launched child ([`spawn`]) or to the calling process, and says what the kernel really holds.
//!
//! Everything here needs no privilege. Nothing here knows what a Run is, parses a file that a Run made, or logs.

pub mod beneath;
mod dirs;
pub mod enforcement;
pub mod passing;
pub mod plan;
pub mod policy;
mod prepare;
pub mod process;
pub mod spawn;
pub mod staging;
pub mod support;
#[expect(unsafe_code, reason = "system calls that no safe wrapper offers in the form that a sandbox needs")]
mod sys;
mod syscalls;
pub mod tree;
pub mod view;

pub use self::prepare::{Prepared, enforce_self};
