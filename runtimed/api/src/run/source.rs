//! Where a workspace's first content comes from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{RunName, SecretName, TreeId};

/// Where a workspace's first content comes from. Exactly one field is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// A git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
    /// Files written in the Run itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineSource>,
    /// A tar or zip archive, by URL or uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveSource>,
    /// The artifacts of an earlier Run of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<ArtifactsSource>,
    /// A work tree that was uploaded: `runtimectl run --here`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadSource>,
}

/// The one field of a [`Source`] that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind<'a> {
    /// A git repository.
    Git(&'a GitSource),
    /// Files written in the Run itself.
    Inline(&'a InlineSource),
    /// An archive.
    Archive(&'a ArchiveSource),
    /// An earlier Run's artifacts.
    Artifacts(&'a ArtifactsSource),
    /// An uploaded work tree.
    Upload(&'a UploadSource),
}

impl Source {
    /// The one field that is given; `None` when none or several are.
    #[must_use]
    pub fn kind(&self) -> Option<SourceKind<'_>> {
        match self {
            Self { git: Some(git), inline: None, archive: None, artifacts: None, upload: None } => {
                Some(SourceKind::Git(git))
            }
            Self { git: None, inline: Some(inline), archive: None, artifacts: None, upload: None } => {
                Some(SourceKind::Inline(inline))
            }
            Self { git: None, inline: None, archive: Some(archive), artifacts: None, upload: None } => {
                Some(SourceKind::Archive(archive))
            }
            Self { git: None, inline: None, archive: None, artifacts: Some(artifacts), upload: None } => {
                Some(SourceKind::Artifacts(artifacts))
            }
            Self { git: None, inline: None, archive: None, artifacts: None, upload: Some(upload) } => {
                Some(SourceKind::Upload(upload))
            }
            _ => None,
        }
    }

    /// The secret that opens it, if it names one.
    #[must_use]
    pub fn credential(&self) -> Option<&SecretName> {
        match self.kind()? {
            SourceKind::Git(git) => git.credential.as_ref(),
            SourceKind::Archive(archive) => archive.credential.as_ref(),
            SourceKind::Inline(_) | SourceKind::Artifacts(_) | SourceKind::Upload(_) => None,
        }
    }

    /// What has to be uploaded for it: a work tree, or an archive that has no URL.
    #[must_use]
    pub fn uploaded(&self) -> Option<&Digest> {
        match self.kind()? {
            SourceKind::Upload(upload) => Some(&upload.digest),
            SourceKind::Archive(ArchiveSource { url: None, digest, .. }) => digest.as_ref(),
            SourceKind::Archive(_)
            | SourceKind::Git(_)
            | SourceKind::Inline(_)
            | SourceKind::Artifacts(_) => None,
        }
    }

    /// The directory in which the command starts, if it names one.
    #[must_use]
    pub fn sub_path(&self) -> Option<&str> {
        match self.kind()? {
            SourceKind::Git(git) => git.sub_path.as_deref(),
            SourceKind::Archive(archive) => archive.sub_path.as_deref(),
            SourceKind::Inline(_) | SourceKind::Artifacts(_) | SourceKind::Upload(_) => None,
        }
    }
}

/// A git repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitSource {
    /// `https://…`; `ssh://user@host/path` or `user@host:path`; or an absolute path where the Runtime allows it. Never with
    /// a password in it.
    #[schemars(length(max = 2048))]
    pub url: String,
    /// A branch, a tag or a full commit id; the remote's HEAD without it.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reference: Option<String>,
    /// How many commits of history; 0 is all of it, 1 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// The command starts in this directory of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// The secret that opens it, given to the fetch alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<SecretName>,
}

/// A work tree that a person uploaded to the namespace: one commit without parents, and all of its tree, as a git pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UploadSource {
    /// Of the pack: `PUT /v1/namespaces/{namespace}/sources/{digest}`.
    pub digest: Digest,
    /// The commit in it.
    pub commit: TreeId,
    /// The commit that the person was at, for readers: nothing of its history is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<TreeId>,
}

/// Files written in the Run itself; at most 256, within the size of the Run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InlineSource {
    /// The files.
    #[schemars(length(max = 256))]
    pub files: Vec<InlineFile>,
}

/// One file of an inline source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InlineFile {
    /// Relative to the workspace, without `..` and without `.git`.
    pub path: String,
    /// Its text.
    pub content: String,
    /// Make it executable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// An archive (tar, plain or with gzip or zstd, or zip): at a URL, or uploaded to the namespace under its digest. Only
/// directories and ordinary files are taken; an archive that holds anything else is refused whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArchiveSource {
    /// `https://…`, without user, query and fragment. Without it the archive is an uploaded one:
    /// `PUT /v1/namespaces/{namespace}/sources/{digest}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,
    /// Of the archive's bytes; other bytes are refused. Needed without a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The command starts in this directory of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// The secret that opens it, of kind `git-https`, given to the fetch alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<SecretName>,
}

/// The artifacts of an earlier Run of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactsSource {
    /// That Run.
    pub run: RunName,
}
