//! How the end of a process becomes a verdict.

use runtimed_api::link::{ExitStatus, Exited};
use runtimed_api::policy::Granted;
use runtimed_api::run::limits::LimitName;
use runtimed_api::run::outcome::{Outcome, Verdict};

use crate::live::Stop;

// The numbers of signal(7), the same on every architecture that we are built for.
const SIGKILL: u8 = 9;
const SIGXCPU: u8 = 24;
const SIGXFSZ: u8 = 25;

/// The verdict on a command that ended so.
pub(super) fn outcome(exited: &Exited, stop: Option<Stop>, granted: &Granted) -> Outcome {
    let cpu_micros = exited.user_micros.saturating_add(exited.system_micros);
    // At RLIMIT_CPU the kernel sends SIGXCPU, and SIGKILL to a process that goes on; at RLIMIT_FSIZE SIGXFSZ
    // (setrlimit(2)). A KILL that comes before so much CPU time was used is somebody else's.
    let cpu_used = granted.limits.cpu.is_some_and(|most| u128::from(cpu_micros) >= most.get().as_micros());
    let verdict = match (stop, exited.status) {
        (Some(Stop::Limit(limit)), _) => Verdict::LimitExceeded(limit),
        (None, ExitStatus::Signal(SIGXCPU)) if granted.limits.cpu.is_some() => {
            Verdict::LimitExceeded(LimitName::Cpu)
        }
        (None, ExitStatus::Signal(SIGKILL)) if cpu_used => Verdict::LimitExceeded(LimitName::Cpu),
        (None, ExitStatus::Signal(SIGXFSZ)) if granted.limits.file_size.is_some() => {
            Verdict::LimitExceeded(LimitName::FileSize)
        }
        (_, ExitStatus::Code(code)) => Verdict::Exited(code),
        (_, ExitStatus::Signal(signal)) => Verdict::Signalled(signal),
    };
    Outcome { verdict, leaked: exited.leaked, cpu_micros, max_rss: exited.max_rss }
}
