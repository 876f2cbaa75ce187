//! Typed ids. Each has one textual form, checked where it enters.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A name that breaks the rules of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {given:?} is not valid: {rule}")]
pub struct InvalidId {
    /// What was expected, as a person would say it.
    pub kind: &'static str,
    /// What came, cut to 80 characters.
    pub given: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// Defines a name: a string of a checked form that serialises as itself.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:path, $rule:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(#[schemars(regex(pattern = $pattern))] String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidId;

            fn try_from(given: String) -> Result<Self, InvalidId> {
                if $check(&given) {
                    Ok(Self(given))
                } else {
                    let given = given.chars().take(80).collect();
                    Err(InvalidId { kind: $kind, given, rule: $rule })
                }
            }
        }

        impl FromStr for $type {
            type Err = InvalidId;

            fn from_str(given: &str) -> Result<Self, InvalidId> {
                Self::try_from(given.to_owned())
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a Run, unique in its namespace.
    RunName, "the Run name", is_label, "use 1 to 63 of a-z, 0-9 and '-', not at either end",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
);
name!(
    /// A namespace: whose Runs, patches and secrets are kept apart from whose.
    Namespace, "the namespace", is_label, "use 1 to 63 of a-z, 0-9 and '-', not at either end",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
);
name!(
    /// The name of a Runtime: a pool of pods of one image and configuration.
    RuntimeName, "the Runtime name", is_label, "use 1 to 63 of a-z, 0-9 and '-', not at either end",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
);
name!(
    /// The name of a secret, as the Runtime's configuration or the submitter gave it.
    SecretName, "the secret name", is_label, "use 1 to 63 of a-z, 0-9 and '-', not at either end",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
);
name!(
    /// The identity of one Run for ever; opaque (a UUIDv7 with SQLite).
    RunUid, "the Run uid", is_opaque, "use 1 to 64 of a-z, A-Z, 0-9 and '-'", "^[A-Za-z0-9-]{1,64}$"
);
name!(
    /// One Session of one daemon with the controller; opaque.
    SessionId, "the session id", is_opaque, "use 1 to 64 of a-z, A-Z, 0-9 and '-'", "^[A-Za-z0-9-]{1,64}$"
);
name!(
    /// The name a daemon gives itself, normally its pod's name.
    DaemonName, "the daemon name", is_host, "use 1 to 253 of a-z, A-Z, 0-9, '.', '_' and '-'",
    "^[A-Za-z0-9._-]{1,253}$"
);
name!(
    /// A git tree id: 40 hex digits (SHA-1 object format).
    TreeId, "the tree id", is_tree_id, "use 40 lowercase hex digits", "^[0-9a-f]{40}$"
);
name!(
    /// Names the build that a binary belongs to; daemon and worker of different builds refuse each other.
    BuildId, "the build id", is_build_id, "use 1 to 128 printable characters without spaces", "^[!-~]{1,128}$"
);

fn is_label(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&s.len()) && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

fn is_opaque(s: &str) -> bool {
    (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_host(s: &str) -> bool {
    (1..=253).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_tree_id(s: &str) -> bool {
    s.len() == 40 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_build_id(s: &str) -> bool {
    (1..=128).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic())
}

/// The number of an attempt at a Run, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct AttemptNumber(pub u32);

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Raised at every hand-out of a Run. A report that carries an older one changes nothing.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one attempt is, wherever it is spoken of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttemptKey {
    /// The Run's namespace.
    pub namespace: Namespace,
    /// The Run's name.
    pub name: RunName,
    /// The Run's uid: a deleted and recreated name is another Run.
    pub uid: RunUid,
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// The fence it was handed out under.
    pub fence: Fence,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} attempt {} fence {}", self.namespace, self.name, self.attempt, self.fence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for good in ["a", "fix-typo", "0", &"a".repeat(63)] {
            assert!(good.parse::<RunName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<RunName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_invalid_name_is_not_deserialised() {
        let error = serde_json::from_str::<RunName>("\"../x\"").expect_err("refused");
        assert!(error.to_string().contains("the Run name \"../x\" is not valid"), "{error}");
    }
}
