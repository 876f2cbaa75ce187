//! Why an attempt ends before its command has a verdict: policy refused it, or something of ours or of a remote failed.

use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::{Refusal, Rule};
use serde::{Deserialize, Serialize};

/// Why there is no result. What it says ends up in a Run's status, so it never holds a secret.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Failure {
    /// Policy forbids it, or what was asked for is not there.
    #[error("{}", Problem::refused(.0.clone()))]
    Refused(Vec<Refusal>),
    /// A failure that is no verdict.
    #[error("{0}")]
    Fault(Problem),
}

impl Failure {
    /// A fault of `code`.
    pub(crate) fn fault(code: Code, message: impl Into<String>) -> Self {
        Self::Fault(Problem::new(code, message))
    }

    /// A refusal by one rule.
    pub(crate) fn refused(rule: Rule, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Refused(vec![Refusal::new(rule, subject, message)])
    }

    /// The same, with what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        match &mut self {
            Self::Refused(refusals) => {
                if let Some(last) = refusals.last_mut() {
                    last.hint = Some(hint.into());
                }
            }
            Self::Fault(problem) => problem.hint = Some(hint.into()),
        }
        self
    }

    /// The same fault, which trying again will not mend.
    #[must_use]
    pub(crate) fn lasting(mut self) -> Self {
        if let Self::Fault(problem) = &mut self {
            problem.retryable = false;
        }
        self
    }

    /// Bounds and cleans what a phase child said: it may have been taken over by what it read.
    #[must_use]
    pub(crate) fn cleaned(self) -> Self {
        match self {
            Self::Refused(mut refusals) => {
                refusals.truncate(MAX_REFUSALS);
                refusals.iter_mut().for_each(clean_refusal);
                Self::Refused(refusals)
            }
            Self::Fault(mut problem) => {
                clean(&mut problem.message);
                problem.hint.iter_mut().for_each(clean);
                problem.refusals.truncate(MAX_REFUSALS);
                problem.refusals.iter_mut().for_each(clean_refusal);
                Self::Fault(problem)
            }
        }
    }
}

/// Refusals that a phase child may report.
const MAX_REFUSALS: usize = 100;
/// Characters of one sentence that a phase child may report.
const MAX_SENTENCE: usize = 1000;

fn clean_refusal(refusal: &mut Refusal) {
    clean(&mut refusal.subject);
    clean(&mut refusal.message);
    refusal.hint.iter_mut().for_each(clean);
}

/// Cuts a sentence, and replaces control characters: it is shown on people's terminals.
pub(crate) fn clean(text: &mut String) {
    if text.len() > MAX_SENTENCE || text.contains(char::is_control) {
        *text =
            text.chars().take(MAX_SENTENCE).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    }
}

/// A system call of ours failed on the attempt's trees; a full file system has its own code, and so has a lack of memory.
pub(crate) fn storage(action: &str, error: &std::io::Error) -> Failure {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::StorageFull,
        std::io::ErrorKind::OutOfMemory => Code::MemoryExceeded,
        _ => Code::StorageFailed,
    };
    Failure::fault(code, format!("cannot {action}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_says_is_cut_and_shown_plainly() {
        let said = Failure::fault(Code::SourceFailed, format!("\u{1b}[2J{}", "x".repeat(5000)));
        let Failure::Fault(problem) = said.cleaned() else { panic!("another kind") };
        assert_eq!(problem.message.chars().count(), MAX_SENTENCE);
        assert!(problem.message.starts_with("\u{fffd}[2Jx"), "{}", problem.message);
    }

    #[test]
    fn a_flood_of_refusals_is_cut() {
        let one = Refusal::new(Rule::PATCH_MODE, "a", "b");
        let Failure::Refused(refusals) = Failure::Refused(vec![one; 1000]).cleaned() else {
            panic!("another kind")
        };
        assert_eq!(refusals.len(), MAX_REFUSALS);
    }
}
