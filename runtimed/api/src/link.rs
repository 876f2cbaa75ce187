//! The link between the daemon and its worker: one inherited socketpair, length-prefixed JSON frames.
//!
//! ```text
//! daemon                          worker
//!   Hello{build}        ───────►
//!                       ◄───────  Hello{build}
//!   Assign              ───────►            (Credential, with its descriptor, before it where the source needs one)
//!                       ◄───────  Baseline  (or Refused, or Fault)
//!   Start               ───────►            secrets are staged by now
//!                       ◄───────  Enforced, Started
//!   Stop                ───────►            at any time after Assign
//!                       ◄───────  Exited    the tree is dead
//!   Capture             ───────►            the Outcome is journaled by now; one descriptor, for the patch
//!                       ◄───────  Captured
//! ```
//!
//! A frame is at most [`MAX_FRAME_BYTES`]; bulk travels in files. No frame carries a secret: those travel in sealed
//! memory files whose descriptors go beside the frame. To the daemon every frame is hostile input. When the socket
//! closes, the worker kills its tree and exits.

mod assign;
pub mod frame;
mod place;
mod up;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::BuildId;
use crate::run::limits::LimitName;

pub use assign::{Assign, Confinement, FetchedArtifacts, Input, Mirror, PriorPatch, Source, Uploaded};
pub use place::{Trees, Whole, inside, layout};
pub use up::{Baseline, Captured, Enforced, ExitStatus, Exited, Fault, PatchFacts, Refused, Started};

/// The largest frame, without its length prefix.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// The worker's descriptor of the link.
pub const LINK_FD: i32 = 3;
/// The worker's descriptor of the write end that becomes the command's stdout.
pub const STDOUT_FD: i32 = 4;
/// The worker's descriptor of the write end that becomes the command's stderr.
pub const STDERR_FD: i32 = 5;
/// The worker's descriptor of the timer that the daemon sets at each renewal: when it expires before the command's tree
/// is dead, the worker kills the tree, and ends with a [`Fault`] of [`crate::problem::Code::LeaseLost`].
pub const HOLD_FD: i32 = 6;

/// From the daemon to the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "frame")]
pub enum Down {
    /// First of all.
    Hello(Hello),
    /// A credential for the fetch; its bytes are in the sealed file whose descriptor goes with the frame.
    Credential(Credential),
    /// What to do.
    Assign(Box<Assign>),
    /// Start the command. One descriptor may go with it: a sealed file of JSON, name to value, of the variables that
    /// hold secrets.
    Start(Start),
    /// Collect the Patch; goes with one descriptor, open for writing, that takes its bytes.
    Capture(Capture),
    /// End the tree: TERM, grace, KILL.
    Stop(Stop),
}

impl Down {
    /// What it is called, for a message about a frame that is out of turn.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Credential(_) => "Credential",
            Self::Assign(_) => "Assign",
            Self::Start(_) => "Start",
            Self::Capture(_) => "Capture",
            Self::Stop(_) => "Stop",
        }
    }
}

/// From the worker to the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "frame")]
pub enum Up {
    /// First of all.
    Hello(Hello),
    /// The source is there and every prior patch applied.
    Baseline(Baseline),
    /// The plan for the command, as it will be entered.
    Enforced(Enforced),
    /// The command was executed.
    Started(Started),
    /// The command has ended, and its tree is empty.
    Exited(Exited),
    /// The Patch is written.
    Captured(Captured),
    /// Policy forbids it, or what it asks for is not there. The last frame.
    Refused(Refused),
    /// A failure that is no verdict. The last frame.
    Fault(Fault),
}

impl Up {
    /// What it is called, for a message about a frame that is out of turn.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Baseline(_) => "Baseline",
            Self::Enforced(_) => "Enforced",
            Self::Started(_) => "Started",
            Self::Exited(_) => "Exited",
            Self::Captured(_) => "Captured",
            Self::Refused(_) => "Refused",
            Self::Fault(_) => "Fault",
        }
    }
}

/// Both sides name their build; different ones refuse each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hello {
    /// The sender's.
    pub build: BuildId,
}

/// A credential for the fetch alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    /// What it is.
    pub kind: CredentialKind,
    /// The hosts it may be shown to.
    pub hosts: Vec<String>,
}

/// What a credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialKind {
    /// JSON: `{"username": …, "password": …}`.
    GitHttps,
    /// JSON: `{"key": …, "known_hosts": …}`.
    GitSsh,
}

/// Start the command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Relative to the workspace.
    pub directory: String,
    /// The whole environment but for secrets.
    pub env: BTreeMap<String, String>,
    /// A descriptor with further variables goes with the frame.
    pub secret_env: bool,
    /// Secrets are staged: the command is granted their directory.
    pub staged: bool,
}

/// End the tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stop {
    /// Between TERM and KILL.
    pub grace_millis: u64,
    /// The limit for which, if for one.
    pub limit: Option<LimitName>,
}

/// Collect the Patch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capture {
    /// The most bytes it may have.
    pub max_bytes: u64,
    /// The most files it may touch.
    pub max_files: u32,
    /// The most bytes of new content that may be held in memory for it.
    pub max_changed_bytes: u64,
    /// Take untracked files that the Baseline ignores as well.
    pub include_ignored: bool,
    /// Bytes of memory that the capture may use; any without it.
    pub memory: Option<u64>,
    /// Behind the patch, write what cannot be read in it, so that it can be searched for secrets.
    pub reveal: bool,
}
