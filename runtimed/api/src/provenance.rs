//! Who vouches for a Patch: a statement that the controller signs, and the keys that it is held to.
//!
//! A statement has the shape of in-toto's (Statement v1, <https://in-toto.io/Statement/v1>), its envelope is DSSE's
//! (<https://github.com/secure-systems-lab/dsse>), its signature is ed25519: tools that know these can read and verify it.
//! It binds the bytes of a Patch to a namespace and, for one that a Run captured, to the trees before and after. What it
//! says is believed only through [`Envelope::verify`], which gives a [`Vouched`].

mod envelope;
mod keys;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{AttemptNumber, Namespace, RunName, RunUid, RuntimeName, TreeId};
use crate::rule::{Refusal, Rule};

pub use envelope::{Envelope, Signature, Signer};
pub use keys::{KeyHistory, KeyRecord, PublicKey};

/// What the controller states of a Patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Form", into = "Form")]
#[schemars(with = "Form")]
pub struct Statement {
    /// Of its bytes.
    pub patch: Digest,
    /// What is said of it.
    pub predicate: Predicate,
}

/// What is said of a Patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Predicate {
    /// The namespace it may be used in.
    pub namespace: Namespace,
    /// When the controller accepted it.
    pub time: Timestamp,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a Patch comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Origin {
    /// A Run's attempt made it, and its daemon reported it under the attempt's fence.
    Captured(Captured),
    /// A person brought it.
    Uploaded(Uploaded),
}

/// A Patch that a Run's attempt made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Captured {
    /// The Run.
    pub run: RunName,
    /// The Run, for ever: names are used again.
    pub uid: RunUid,
    /// Its attempt.
    pub attempt: AttemptNumber,
    /// Where it ran.
    pub runtime: RuntimeName,
    /// Who submitted the Run.
    pub requested_by: String,
    /// The tree that the Patch applies to.
    pub base: TreeId,
    /// The tree that it yields.
    pub result: TreeId,
}

/// A Patch that a person brought. Nothing is known of its trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uploaded {
    /// The subject of the person's token.
    pub by: String,
}

/// A statement whose signature was verified. There is no other way to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched(Statement);

impl Vouched {
    /// What is stated.
    #[must_use]
    pub fn statement(&self) -> &Statement {
        &self.0
    }

    /// Holds the statement to what it is used for: these bytes, in this namespace, named as this Run's if by a Run.
    ///
    /// # Errors
    /// It is about something else.
    pub fn covers(
        &self,
        patch: &Digest,
        namespace: &Namespace,
        run: Option<&RunName>,
    ) -> Result<(), Distrust> {
        let Statement { patch: stated, predicate } = &self.0;
        if stated != patch {
            return Err(Distrust::OtherPatch(*stated));
        }
        if predicate.namespace != *namespace {
            return Err(Distrust::OtherNamespace(predicate.namespace.clone()));
        }
        match (run, &predicate.origin) {
            (Some(wanted), Origin::Captured(captured)) if captured.run != *wanted => {
                Err(Distrust::OtherRun(captured.run.clone()))
            }
            (Some(_), Origin::Uploaded(_)) => Err(Distrust::NoRun),
            _ => Ok(()),
        }
    }

    /// The trees before and after, where a Run captured it.
    #[must_use]
    pub fn trees(&self) -> Option<(&TreeId, &TreeId)> {
        match &self.0.predicate.origin {
            Origin::Captured(captured) => Some((&captured.base, &captured.result)),
            Origin::Uploaded(_) => None,
        }
    }
}

/// Why a Patch's provenance is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// There is no statement.
    #[error("it has no signed statement")]
    Unsigned,
    /// The envelope or the statement in it is not well formed.
    #[error("its statement cannot be read: {0}")]
    Malformed(&'static str),
    /// No signature is by a key that is known.
    #[error("its statement is signed with the key {0}, which is none of the controller's")]
    UnknownKey(Digest),
    /// The key is too old.
    #[error("its statement is signed with the key {key}, which expired at {at}")]
    Expired {
        /// The key.
        key: Digest,
        /// Since when its statements are not good any more.
        at: Timestamp,
    },
    /// The signature is not by the key it names.
    #[error("the signature of its statement is not by the key {0}")]
    Signature(Digest),
    /// About other bytes.
    #[error("its statement is about other bytes: {0}")]
    OtherPatch(Digest),
    /// For another namespace.
    #[error("its statement is for namespace {0}")]
    OtherNamespace(Namespace),
    /// About another Run's Patch.
    #[error("its statement is about a patch of Run {0}")]
    OtherRun(RunName),
    /// About an uploaded patch, where a Run's was asked for.
    #[error("its statement is about an uploaded patch, not one of that Run")]
    NoRun,
}

impl Distrust {
    /// The rule that is broken.
    #[must_use]
    pub fn rule(&self) -> Rule {
        match self {
            Self::Unsigned | Self::OtherRun(_) | Self::NoRun => Rule::PATCH_PROVENANCE,
            Self::Malformed(_) | Self::Signature(_) => Rule::PATCH_SIGNATURE,
            Self::UnknownKey(_) => Rule::PATCH_KEY_UNKNOWN,
            Self::Expired { .. } => Rule::PATCH_KEY_EXPIRED,
            Self::OtherPatch(_) => Rule::PATCH_DIGEST,
            Self::OtherNamespace(_) => Rule::PATCH_NAMESPACE,
        }
    }

    /// The refusal of the patch that `label` names, at `subject` of the Run.
    #[must_use]
    pub fn refusal(&self, subject: impl Into<String>, label: &str) -> Refusal {
        let hint = match self {
            Self::Unsigned | Self::Expired { .. } => {
                "upload the patch again, which has it signed anew, or make it with another Run"
            }
            Self::UnknownKey(_) => {
                "ask the operator which controller the patch came from, and which keys the pod trusts"
            }
            _ => "do not use this patch; ask the operator how it came to be there",
        };
        Refusal::new(self.rule(), subject, format!("prior patch {label}: {self}")).hint(hint)
    }
}

/// A statement as it is written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Form {
    #[serde(rename = "_type")]
    kind: StatementType,
    /// Exactly one.
    #[schemars(length(min = 1, max = 1))]
    subject: Vec<Subject>,
    predicate_type: PredicateType,
    predicate: Predicate,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
enum StatementType {
    #[serde(rename = "https://in-toto.io/Statement/v1")]
    V1,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
enum PredicateType {
    #[serde(rename = "https://runtimed.dev/patch/v1alpha1")]
    Patch,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: SubjectName,
    digest: SubjectDigest,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SubjectName {
    Patch,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubjectDigest {
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    sha256: String,
}

impl TryFrom<Form> for Statement {
    type Error = &'static str;

    fn try_from(form: Form) -> Result<Self, Self::Error> {
        let [subject] = form.subject.as_slice() else { return Err("a statement is about exactly one patch") };
        let patch = subject.digest.sha256.parse().map_err(|_| "the digest of the patch is not one")?;
        Ok(Self { patch, predicate: form.predicate })
    }
}

impl From<Statement> for Form {
    fn from(statement: Statement) -> Self {
        let digest = SubjectDigest { sha256: statement.patch.hex() };
        Self {
            kind: StatementType::V1,
            subject: vec![Subject { name: SubjectName::Patch, digest }],
            predicate_type: PredicateType::Patch,
            predicate: statement.predicate,
        }
    }
}

#[cfg(test)]
mod tests;
