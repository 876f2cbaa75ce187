//! The exit codes of `runtimectl` and `runtimed job`.

use crate::run::outcome::Verdict;
use crate::run::status::{AttemptEnd, AttemptResult, Phase, RunStatus};

/// An exit code of our own. The command's own code is passed on as it is, so that these can collide with it; `outcome`
/// in the JSON settles which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for was done.
    Ok = 0,
    /// The command line, or a file named on it, is wrong.
    Usage = 120,
    /// Policy forbids the Run, or what it asks for is not there.
    Refused = 121,
    /// The Run was cancelled.
    Cancelled = 122,
    /// The Run was ended at a limit.
    Limit = 123,
    /// The Run's timeout ran out.
    TimedOut = 124,
    /// Our failure, a lost daemon, or a server that cannot be reached.
    Fault = 125,
}

impl Exit {
    /// The table, for help texts and documents: code and meaning.
    pub const TABLE: &[(&str, &str)] = &[
        ("0–119", "the command's own"),
        ("120", "usage: the command line, or a file named on it, is wrong"),
        ("121", "refused: policy forbids the Run, or what it asks for is not there"),
        ("122", "cancelled"),
        ("123", "a limit was exceeded"),
        ("124", "timed out"),
        ("125", "a fault of ours, a lost daemon, or an unreachable server"),
        ("128+n", "signal n ended the command"),
        ("141", "also of runtimectl when whoever reads its output has left"),
    ];

    /// The table as lines of text.
    #[must_use]
    pub fn table() -> String {
        let line = |(code, meaning): &(&str, &str)| format!("  {code:5}  {meaning}");
        Self::TABLE.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// The exit code for a Run in this state; `None` while it is not over.
#[must_use]
pub fn of(status: &RunStatus) -> Option<u8> {
    let result = status.attempts.last().and_then(|attempt| attempt.result.as_ref());
    match status.phase {
        Phase::Pending | Phase::Running | Phase::Finishing => None,
        Phase::Succeeded => Some(Exit::Ok.code()),
        Phase::TimedOut => Some(Exit::TimedOut.code()),
        Phase::Cancelled => Some(Exit::Cancelled.code()),
        Phase::Refused => Some(Exit::Refused.code()),
        Phase::Lost | Phase::Fault => Some(Exit::Fault.code()),
        Phase::Failed => Some(match result {
            Some(result) if result.end == AttemptEnd::Completed => {
                result.outcome.as_ref().map_or(Exit::Fault.code(), |outcome| of_verdict(outcome.verdict))
            }
            _ => Exit::Fault.code(),
        }),
    }
}

/// The exit code for an attempt that ended so, where there is no other attempt to follow.
#[must_use]
pub fn of_result(result: &AttemptResult) -> u8 {
    match (result.end, &result.outcome) {
        (AttemptEnd::Completed, Some(outcome)) => of_verdict(outcome.verdict),
        (AttemptEnd::TimedOut, _) => Exit::TimedOut.code(),
        (AttemptEnd::Cancelled | AttemptEnd::Drained, _) => Exit::Cancelled.code(),
        (AttemptEnd::Refused, _) => Exit::Refused.code(),
        (AttemptEnd::Completed | AttemptEnd::Lost | AttemptEnd::Fault, _) => Exit::Fault.code(),
    }
}

/// The exit code for a command that ended so: its own, 128 + n for signal n as shells have it.
#[must_use]
pub fn of_verdict(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Exited(code) => code,
        Verdict::Signalled(signal) => 128_u8.saturating_add(signal),
        Verdict::LimitExceeded(_) => Exit::Limit.code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_code_is_passed_on() {
        assert_eq!(of_verdict(Verdict::Exited(7)), 7);
        assert_eq!(of_verdict(Verdict::Signalled(9)), 137);
    }

    #[test]
    fn an_end_without_a_verdict_is_none_of_the_commands() {
        for (end, code) in [
            (AttemptEnd::TimedOut, 124),
            (AttemptEnd::Cancelled, 122),
            (AttemptEnd::Drained, 122),
            (AttemptEnd::Refused, 121),
            (AttemptEnd::Lost, 125),
            (AttemptEnd::Fault, 125),
            (AttemptEnd::Completed, 125),
        ] {
            assert_eq!(of_result(&AttemptResult::bare(end)), code, "{end:?}");
        }
    }
}
