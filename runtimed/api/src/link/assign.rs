//! What the worker is to do: everything that it learns of a Run before it begins.

use serde::{Deserialize, Serialize};

use super::Trees;
#[cfg(doc)]
use super::layout;
use crate::enforcement::{Profile, Tier};
use crate::ids::{AttemptKey, RunName, TreeId};
use crate::run::network::Network;
use crate::run::source::{ArchiveSource, GitSource, InlineSource};
use crate::runtime::PatchPolicy;

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
    pub ca_file: Option<String>,
    /// The proxy that the source is reached through, as `http://host:port`; none without it.
    pub proxy: Option<String>,
    /// Where a git source may be warm; nowhere without it.
    pub mirror: Option<Mirror>,
    /// Bytes of memory that fetch and apply may use, each; any without it.
    pub memory: Option<u64>,
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
    pub base: Option<TreeId>,
    /// The tree it yields, if a statement says so.
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
