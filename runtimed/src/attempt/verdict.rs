//! How the end of a process becomes a verdict.

use runtimed_api::link::{ExitStatus, Exited};
use runtimed_api::policy::Granted;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::outcome::{Outcome, Verdict};

use crate::daemon::Stop;

/// The verdict on a command that ended so.
pub(super) fn outcome(exited: &Exited, stop: Option<Stop>, granted: &Granted) -> Outcome {
    // SIGXCPU and SIGXFSZ: what the kernel sends at RLIMIT_CPU and RLIMIT_FSIZE (setrlimit(2)).
    let verdict = match (stop, exited.status) {
        (Some(Stop::Limit(limit)), _) => Verdict::LimitExceeded(limit),
        (None, ExitStatus::Signal(24)) if granted.limits.cpu.is_some() => {
            Verdict::LimitExceeded(LimitName::Cpu)
        }
        (None, ExitStatus::Signal(25)) if granted.limits.file_size.is_some() => {
            Verdict::LimitExceeded(LimitName::FileSize)
        }
        (_, ExitStatus::Code(code)) => Verdict::Exited(code),
        (_, ExitStatus::Signal(signal)) => Verdict::Signalled(signal),
    };
    Outcome {
        verdict,
        leaked: exited.leaked,
        cpu_micros: exited.user_micros.saturating_add(exited.system_micros),
        max_rss: exited.max_rss,
    }
}
