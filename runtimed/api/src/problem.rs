//! Error codes: a closed set, the same in an HTTP answer and in a Run's status.

use std::error::Error;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::Refusal;

/// What went wrong, for a program and for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[error("{message}")]
pub struct Problem {
    /// Which of the closed set.
    pub code: Code,
    /// Whose fault it is.
    pub whose: Whose,
    /// The same request may succeed later, unchanged.
    pub retryable: bool,
    /// One sentence: what, and why. Never a secret's value.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With `refused`: each rule that was broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// An error with its causes, as one sentence: for errors that leave the cause to their source.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |cause| (*cause).source())
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl Problem {
    /// A problem of `code`, with the whose and the retryable of the table.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let row = code.row();
        Self {
            code,
            whose: row.whose,
            retryable: row.retryable,
            message: message.into(),
            hint: None,
            refusals: Vec::new(),
        }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A `refused` of these rules.
    #[must_use]
    pub fn refused(refusals: Vec<Refusal>) -> Self {
        let message = match refusals.as_slice() {
            [] => "the Run was refused".to_owned(),
            [one] => one.to_string(),
            [first, rest @ ..] => format!("{first}; and {} more", rest.len()),
        };
        let hint = refusals.iter().find_map(|refusal| refusal.hint.clone());
        Self { refusals, hint, ..Self::new(Code::Refused, message) }
    }
}

/// Whose fault a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// Who submitted the Run or sent the request.
    Requester,
    /// Who configured the Runtime or the servers.
    Operator,
    /// Another system: a git server, a store.
    Remote,
    /// Ours.
    Runtimed,
}

/// A row of the table of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// As it is on the wire.
    pub name: &'static str,
    /// The HTTP status it goes with.
    pub status: u16,
    /// Whose fault it normally is.
    pub whose: Whose,
    /// Whether the same may succeed later.
    pub retryable: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// Defines the codes and their table at one place.
macro_rules! codes {
    ($($code:ident = $name:literal, $status:literal, $whose:ident, $retryable:literal, $meaning:literal;)*) => {
        /// What kind of problem it is. A closed set; each has a row in the table of docs/PROTOCOL.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $name)] $code,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// What is known of the code.
            #[must_use]
            pub fn row(self) -> Row {
                match self {
                    $(Self::$code => Row {
                        name: $name,
                        status: $status,
                        whose: Whose::$whose,
                        retryable: $retryable,
                        meaning: $meaning,
                    },)*
                }
            }
        }
    };
}

codes! {
    InvalidRequest = "invalid-request", 400, Requester, false, "The request is not well formed.";
    Unauthenticated = "unauthenticated", 401, Requester, false, "No token was given, or an unknown one.";
    Forbidden = "forbidden", 403, Requester, false, "The token may not do this.";
    NotFound = "not-found", 404, Requester, false, "There is no such thing, or not for this token.";
    Conflict = "conflict", 409, Requester, false, "The name exists with another spec, or the state does not allow it.";
    StaleFence = "stale-fence", 409, Requester, false, "The Run was handed out again since; nothing was changed.";
    SessionUnknown = "session-unknown", 404, Requester, true, "The session ended or the controller restarted: open another.";
    TooLarge = "too-large", 413, Requester, false, "The body is larger than its bound.";
    Refused = "refused", 422, Requester, false, "Policy forbids it; each broken rule is listed.";
    RateLimited = "rate-limited", 429, Requester, true, "Too much at once; Retry-After says when.";
    Internal = "internal", 500, Runtimed, true, "A failure of ours; the server's log has more.";
    Unavailable = "unavailable", 503, Operator, true, "The server is starting, stopping or out of room.";
    SourceUnreachable = "source-unreachable", 502, Remote, true, "The source's server did not answer.";
    SourceCredential = "source-credential", 502, Requester, false, "The source's server did not accept the credential.";
    SourceFailed = "source-failed", 502, Remote, true, "The source was reached, and what it sent could not be used.";
    SecretInvalid = "secret-invalid", 500, Operator, false, "A secret is missing, empty, blank, too short, too large or unreadable.";
    CommandNotStarted = "command-not-started", 500, Requester, false, "The program is not there or cannot be executed.";
    ConfinementFailed = "confinement-failed", 500, Operator, false, "A step of the confinement failed; nothing was executed.";
    WorkerFailed = "worker-failed", 500, Runtimed, true, "The worker ended or spoke out of turn.";
    CaptureFailed = "capture-failed", 500, Runtimed, true, "The results could not be collected.";
    MemoryExceeded = "memory-exceeded", 422, Requester, false, "The source, the prior patches or the Patch need more memory than the Run may use.";
    StorageFull = "storage-full", 507, Operator, true, "No room is left on one of the pod's file systems.";
    StorageFailed = "storage-failed", 500, Operator, true, "A file system failed.";
    LeaseLost = "lease-lost", 409, Runtimed, true, "The daemon could not hold its lease.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.row().name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_its_row_says() {
        for code in Code::ALL {
            let text = serde_json::to_string(code).expect("serialises");
            assert_eq!(text, format!("{:?}", code.row().name));
            assert!((400..600).contains(&code.row().status), "{code}");
        }
    }
}
