//! How a command fails, and the one place that chooses its exit code.

use std::io;

use runtimed_api::exit::Exit;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::Refusal;
use runtimed_client::{ClientError, EndpointError};

/// A command that did not do what was asked: one sentence, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
    refusals: Vec<Refusal>,
}

/// Whose turn it is, and thereby which exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The command line, or a file named on it, is wrong.
    Usage,
    /// Policy forbids it, or what it asks for is not there.
    Refused,
    /// A person ended it.
    Cancelled,
    /// Ours, or a server that cannot be reached.
    Fault,
    /// Whoever read our output has left: nobody is there to be told.
    Unread,
}

impl Failure {
    /// The command line, or a file named on it, is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Policy forbids it, or what it asks for is not there.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// A person ended it.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(Kind::Cancelled, message)
    }

    /// A failure of ours, or a server that cannot be reached.
    pub fn fault(message: impl Into<String>) -> Self {
        Self::new(Kind::Fault, message)
    }

    /// Broken rules, each with its hint.
    #[must_use]
    pub fn rules(refusals: Vec<Refusal>) -> Self {
        Self::from_problem(&Problem::refused(refusals))
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, refusals: Vec::new() }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code: the table of [`runtimed_api::exit`], and for output that nobody read what a shell would show.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self.kind {
            Kind::Usage => Exit::Usage.code(),
            Kind::Refused => Exit::Refused.code(),
            Kind::Cancelled => Exit::Cancelled.code(),
            Kind::Fault => Exit::Fault.code(),
            // 128 + SIGPIPE.
            Kind::Unread => 141,
        }
    }

    /// The lines for a person: nothing when there is nobody to read them.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        if self.kind == Kind::Unread {
            return Vec::new();
        }
        let mut lines = vec![("error", self.message.clone())];
        // A single refusal is the message already.
        if self.refusals.len() > 1 {
            lines.extend(self.refusals.iter().map(|refusal| ("  rule", refusal.to_string())));
        }
        lines.extend(self.hint.iter().map(|hint| ("hint", hint.clone())));
        lines
    }

    fn from_problem(problem: &Problem) -> Self {
        let kind = match problem.code {
            Code::InvalidRequest | Code::TooLarge => Kind::Usage,
            Code::Unauthenticated | Code::Forbidden | Code::NotFound | Code::Conflict | Code::Refused => {
                Kind::Refused
            }
            _ => Kind::Fault,
        };
        let hint = problem.hint.clone().or_else(|| match problem.code {
            Code::Unauthenticated => Some("give a token with --token-file, or in a context".to_owned()),
            Code::RateLimited | Code::Unavailable => Some("try again in a moment".to_owned()),
            _ => None,
        });
        Self { hint, refusals: problem.refusals.clone(), ..Self::new(kind, problem.message.clone()) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Problem { problem, .. } => Self::from_problem(problem),
            ClientError::Unreachable { .. } => {
                Self::fault(error.to_string()).hint("check --server, and that the controller is running")
            }
            ClientError::Protocol { .. } => Self::fault(error.to_string())
                .hint("check that --server is a runtimed controller of this version"),
            ClientError::TooLong { .. } => Self::fault(error.to_string()),
            ClientError::Token => Self::usage(error.to_string()),
        }
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        Self::usage(error.to_string())
    }
}

/// Writing to standard output failed: what else is written is told by a sentence of its own.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::Unread, ""),
            _ => Self::fault(format!("standard output cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtimed_api::rule::Rule;

    #[test]
    fn each_kind_has_its_exit_code() {
        let of = |code| Failure::from_problem(&Problem::new(code, "x")).exit();
        assert_eq!(of(Code::InvalidRequest), 120);
        assert_eq!(of(Code::NotFound), 121);
        assert_eq!(of(Code::Unauthenticated), 121);
        assert_eq!(of(Code::Unavailable), 125);
        assert_eq!(Failure::cancelled("x").exit(), 122);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).lines(), []);
    }

    #[test]
    fn several_rules_are_listed_and_one_is_not_repeated() {
        let rule = |subject| Refusal::new(Rule::SPEC_PATH, subject, "it leads out").hint("stay inside");
        let one = Failure::rules(vec![rule("a")]).lines();
        assert_eq!(one.len(), 2, "{one:?}");
        assert_eq!(one[1], ("hint", "stay inside".to_owned()));
        let two = Failure::rules(vec![rule("a"), rule("b")]).lines();
        assert_eq!(two.len(), 4, "{two:?}");
        assert_eq!(two[2], ("  rule", "b: it leads out (spec.path)".to_owned()));
    }
}
