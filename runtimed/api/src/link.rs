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

pub mod frame;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::enforcement::{Enforcement, Profile, Tier};
use crate::ids::{AttemptKey, BuildId, RunName, TreeId};
use crate::problem::Problem;
use crate::rule::Refusal;
use crate::run::limits::LimitName;
use crate::run::network::Network;
use crate::run::source::{ArchiveSource, GitSource, InlineSource};
use crate::run::step::StepTime;
use crate::runtime::PatchPolicy;

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

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Assign {
    /// Which attempt, for diagnostics.
    pub attempt: AttemptKey,
    /// The three private trees.
    pub trees: Trees,
    /// The daemon's process id: a signal to it must be refused before the worker may signal all it can reach.
    pub guard_pid: u32,
    /// The first content.
    pub source: Source,
    /// Prior patches, in order.
    pub patches: Vec<PriorPatch>,
    /// How they are judged.
    pub patch_policy: PatchPolicy,
    /// Earlier Runs' artifacts that the command may read.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// How the command is confined.
    pub confinement: Confinement,
    /// Where the fetch finds certificate authorities; the system's without it.
    #[serde(default)]
    pub ca_file: Option<String>,
    /// The proxy that the source is reached through, as `http://host:port`; none without it.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Where a git source may be warm; nowhere without it.
    #[serde(default)]
    pub mirror: Option<Mirror>,
    /// Bytes of memory that fetch and apply may use, each; any without it.
    #[serde(default)]
    pub memory: Option<u64>,
}

/// The three private trees of one attempt: absolute paths. See [`layout`] for what is in them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trees {
    /// On `/tmp`; with [`Tier::Exclusive`] all three are where the daemon's state is.
    pub tmp: String,
    /// On `/home/worker`.
    pub home: String,
    /// On `/workspace`.
    pub workspace: String,
    /// With [`Tier::Exclusive`]: directories that the command has whole, in the place of some of what is in the trees.
    #[serde(default)]
    pub whole: Option<Whole>,
}

/// The pod's three directories, for the only Run in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Whole {
    /// The command's `TMPDIR`: `/tmp`.
    pub tmp: String,
    /// The command's `HOME`: `/home/worker`.
    pub home: String,
    /// The workspace: `/workspace`.
    pub workspace: String,
}

impl Trees {
    /// The command's `TMPDIR`.
    #[must_use]
    pub fn command_tmp(&self) -> PathBuf {
        self.whole.as_ref().map_or_else(|| self.in_tmp(layout::TMP), |whole| PathBuf::from(&whole.tmp))
    }

    /// The command's `HOME`.
    #[must_use]
    pub fn command_home(&self) -> PathBuf {
        self.whole.as_ref().map_or_else(|| self.in_home(layout::HOME), |whole| PathBuf::from(&whole.home))
    }

    /// The workspace.
    #[must_use]
    pub fn command_workspace(&self) -> PathBuf {
        let within = || self.in_workspace(layout::WORKSPACE);
        self.whole.as_ref().map_or_else(within, |whole| PathBuf::from(&whole.workspace))
    }

    /// What has this name in the tmp tree.
    #[must_use]
    pub fn in_tmp(&self, name: &str) -> PathBuf {
        Path::new(&self.tmp).join(name)
    }

    /// What has this name in the home tree.
    #[must_use]
    pub fn in_home(&self, name: &str) -> PathBuf {
        Path::new(&self.home).join(name)
    }

    /// What has this name in the workspace tree.
    #[must_use]
    pub fn in_workspace(&self, name: &str) -> PathBuf {
        Path::new(&self.workspace).join(name)
    }
}

/// What is in the three trees. The command is granted all but the last, which is the worker's own.
pub mod layout {
    /// In the tmp tree: the command's `TMPDIR`; like [`HOME`] and [`WORKSPACE`] not there with
    /// [`Tier::Exclusive`](crate::enforcement::Tier::Exclusive).
    pub const TMP: &str = "t";
    /// In the tmp tree: staged secrets, 0700.
    pub const STAGED: &str = "s";
    /// In the tmp tree: what a fetch over ssh needs by path, 0700; removed before anything else starts.
    pub const KEYS: &str = "k";
    /// In the tmp tree: the command's `/dev/shm`, with [`crate::enforcement::Tier::Namespaces`].
    pub const SHARED_MEMORY: &str = "m";
    /// In the home tree: the command's `HOME`.
    pub const HOME: &str = "h";
    /// In the workspace tree: the workspace.
    pub const WORKSPACE: &str = "w";
    /// In the workspace tree: the artifacts directory.
    pub const ARTIFACTS: &str = "a";
    /// In the home tree: the directory of the outputs file.
    pub const OUTPUTS_DIR: &str = "o";
    /// In [`OUTPUTS_DIR`]: the outputs file.
    pub const OUTPUTS_FILE: &str = "outputs";
    /// In the workspace tree: what the command is given to read and execute, where it is given something.
    pub const GIVEN: &str = "g";
    /// In [`GIVEN`]: a directory for each Run whose artifacts are inputs, named after it.
    pub const INPUTS: &str = "inputs";
    /// In [`GIVEN`]: the certificate authorities that the daemon trusts, PEM.
    pub const AUTHORITIES: &str = "authorities.pem";
    /// In the workspace tree: the worker's private object store and index. No policy of a command grants it.
    pub const PRIVATE: &str = "p";
}

/// Where a command with a view of its own finds what is in the trees.
pub mod inside {
    /// [`layout::TMP`](super::layout::TMP).
    pub const TMP: &str = "/tmp";
    /// [`layout::SHARED_MEMORY`](super::layout::SHARED_MEMORY).
    pub const SHARED_MEMORY: &str = "/dev/shm";
    /// [`layout::HOME`](super::layout::HOME).
    pub const HOME: &str = "/home/worker";
    /// [`layout::WORKSPACE`](super::layout::WORKSPACE).
    pub const WORKSPACE: &str = "/workspace";
    /// [`layout::STAGED`](super::layout::STAGED).
    pub const STAGED: &str = "/run/runtimed/secrets";
    /// [`layout::ARTIFACTS`](super::layout::ARTIFACTS).
    pub const ARTIFACTS: &str = "/run/runtimed/artifacts";
    /// [`layout::OUTPUTS_DIR`](super::layout::OUTPUTS_DIR).
    pub const OUTPUTS_DIR: &str = "/run/runtimed/outputs";
    /// [`layout::GIVEN`](super::layout::GIVEN).
    pub const GIVEN: &str = "/run/runtimed/given";
}

/// The first content of a workspace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Source {
    /// Nothing.
    Empty,
    /// A git repository.
    Git(GitSource),
    /// Files written in the Run.
    Inline(InlineSource),
    /// An archive.
    Archive(ArchiveSource),
    /// An archive that was uploaded: the file that holds it, whose digest the daemon has verified.
    UploadedArchive(String),
    /// An earlier Run's artifacts, whose digests the daemon has verified.
    Artifacts(FetchedArtifacts),
    /// A work tree that was uploaded.
    Upload(Uploaded),
}

/// An earlier Run's artifacts, as they lie in the worker's private directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FetchedArtifacts {
    /// The file that holds the [`crate::manifest::Manifest`].
    pub manifest: String,
    /// The directory that holds each file's bytes under its digest's hexadecimal digits.
    pub files: String,
}

/// The artifacts of one earlier Run that the command may read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// That Run.
    pub run: RunName,
    /// What it has.
    pub artifacts: FetchedArtifacts,
}

/// Where fetches of one repository keep what they brought, for later ones of the same namespace, URL and credential.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Its directory.
    pub path: String,
    /// Names the daemon's life: what an earlier one left is verified before it is used.
    pub epoch: String,
    /// Bytes of the largest entry that is kept.
    pub max_bytes: u64,
}

/// An uploaded work tree whose digest the daemon has verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uploaded {
    /// The file that holds the pack.
    pub path: String,
    /// The commit in it.
    pub commit: TreeId,
}

/// A prior patch whose digest the daemon has verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriorPatch {
    /// The file that holds its bytes.
    pub path: String,
    /// How a person named it: a Run or a digest.
    pub label: String,
    /// The tree it was made for, if a statement says so.
    #[serde(default)]
    pub base: Option<TreeId>,
    /// The tree it yields, if a statement says so.
    #[serde(default)]
    pub result: Option<TreeId>,
}

/// How the command is confined: intent. The sandbox makes a plan of it, or refuses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Confinement {
    /// By which means.
    pub tier: Tier,
    /// With [`Tier::Namespaces`]: the kernel lets the worker mount a `/proc`.
    #[serde(default)]
    pub own_proc: bool,
    /// It is given something to read, in [`layout::GIVEN`].
    #[serde(default)]
    pub given: bool,
    /// How much must hold.
    pub profile: Profile,
    /// What it may reach.
    pub network: Network,
    /// It may use inotify.
    pub watch: bool,
    /// Paths of the image that it may read and execute.
    pub read: Vec<String>,
    /// Files of `/proc`, `/sys` and `/dev` beyond the built-in list that it may read.
    pub proc_files: Vec<String>,
    /// Secret sources and the daemon's state: no grant may be, hold or lie within one of these.
    #[serde(default)]
    pub protected: Vec<String>,
    /// CPU seconds of each process.
    pub cpu_seconds: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Bytes of each file.
    pub file_size: Option<u64>,
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
    #[serde(default)]
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
    /// Bytes of memory that the capture may use; any without it.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Behind the patch, write what cannot be read in it, so that it can be searched for secrets.
    pub reveal: bool,
}

/// The source is there and every prior patch applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Baseline {
    /// The tree; absent for an empty workspace.
    #[serde(default)]
    pub tree: Option<TreeId>,
    /// The commit of a git source.
    #[serde(default)]
    pub commit: Option<TreeId>,
    /// How long source and patches took.
    pub steps: Vec<StepTime>,
    /// What a reader of the result should know, such as a depth that a local path cannot have.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The plan for the command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Enforced {
    /// Protection by protection.
    pub enforcement: Enforcement,
}

/// The command was executed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Started {
    /// Its process id, as the supervisor sees it.
    pub pid: u32,
}

/// The command has ended, and its tree is empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exited {
    /// How.
    pub status: ExitStatus,
    /// CPU time in user mode of all that was reaped, in microseconds.
    pub user_micros: u64,
    /// CPU time in the kernel of all that was reaped, in microseconds.
    pub system_micros: u64,
    /// The largest resident set, in bytes.
    pub max_rss: u64,
    /// Processes that outlived the command, and were killed.
    pub leaked: u32,
    /// From the first signal until the tree was empty, in microseconds; absent when it was empty by itself.
    #[serde(default)]
    pub kill_micros: Option<u64>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitStatus {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// The Patch is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Captured {
    /// What changed; absent when nothing did.
    #[serde(default)]
    pub patch: Option<PatchFacts>,
    /// What was left out, and why; at most 100 sentences.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What a captured Patch holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchFacts {
    /// Bytes of the patch, which are the first that were written to the descriptor.
    pub size: u64,
    /// Bytes behind them that say what cannot be read in it. Absent if that was not asked for, or is too much.
    #[serde(default)]
    pub revealed: Option<u64>,
    /// Files changed.
    pub files: u32,
    /// Lines added.
    pub insertions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// The Baseline's tree.
    pub base: TreeId,
    /// The final tree.
    pub result: TreeId,
}

/// Policy forbids it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refused {
    /// Each broken rule.
    pub refusals: Vec<Refusal>,
}

/// A failure that is no verdict.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// What went wrong.
    pub problem: Problem,
}
