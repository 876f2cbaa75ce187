use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use runtimed_api::enforcement::Profile;
use runtimed_api::ids::TreeId;
use runtimed_api::link::{Down, ExitStatus, Exited, Stop, Trees, Up};
use runtimed_api::problem::Code;
use runtimed_sandbox::process::{self, Reach};
use runtimed_sandbox::spawn::{Child, Exited as Ended, Status};

use super::finished::Finished;
use super::{End, Session, out_of_turn};
use crate::events::Event;
use crate::failure::Failure;
use crate::tree::{self, Used};

/// The command runs.
#[derive(Debug)]
pub(super) struct Running<'s> {
    pub(super) session: &'s mut Session,
    pub(super) child: Child,
    /// What earlier children had used.
    pub(super) before: Used,
    pub(super) trees: Trees,
    pub(super) profile: Profile,
    pub(super) tree: Option<TreeId>,
    pub(super) workspace: OwnedFd,
}

/// A tree that was told to end.
#[derive(Debug, Clone, Copy)]
struct Ending {
    since: Instant,
    deadline: Instant,
}

impl<'s> Running<'s> {
    /// Waits until the command has ended, by itself or because of a Stop, and then sees to it that nothing is left.
    pub(super) fn wait(mut self) -> Result<Finished<'s>, End> {
        let (ended, ending) = self.ended()?;
        let mut first_signal = ending.map(|ending| ending.since);
        let mut leaked = 0;
        // Only now: what ended together with the command has not outlived it.
        if !process::collect_ended(Some(&mut self.child)) {
            first_signal = first_signal.or_else(|| Some(Instant::now()));
            leaked = self.kill()?;
        }
        self.session.events.release();
        let kill_micros = first_signal.map(|since| micros(since.elapsed()));
        let used = Used::now()
            .ok_or_else(|| Failure::fault(Code::Internal, "resource usage is not told"))?
            .since(self.before, ended.rusage.max_rss_bytes);
        self.session.events.send(&Up::Exited(Exited {
            status: exit_status(ended.status),
            user_micros: micros(used.user),
            system_micros: micros(used.system),
            max_rss: used.max_rss,
            leaked,
            kill_micros,
        }))?;
        let Self { session, trees, profile, tree, workspace, .. } = self;
        Ok(Finished { session, trees, profile, tree, workspace })
    }

    /// How the command ended. After a Stop this comes when the tree is empty or the grace is over, whichever is first.
    fn ended(&mut self) -> Result<(Ended, Option<Ending>), End> {
        let mut ending: Option<Ending> = None;
        loop {
            match self.session.events.next(None, ending.map(|ending| ending.deadline))? {
                Event::Frame(Down::Stop(stop)) => {
                    ending = Some(told_to_end(ending, &stop, self.session.reach));
                }
                Event::Frame(other) => return Err(out_of_turn(&other)),
                Event::Child | Event::Readable => {
                    let empty = process::collect_ended(Some(&mut self.child));
                    match (self.child.exited(), ending) {
                        (Some(ended), None) => return Ok((ended, None)),
                        (Some(ended), Some(_)) if empty => return Ok((ended, ending)),
                        (None, _) if empty => return Err(lost().into()),
                        _ => {}
                    }
                }
                Event::Deadline => {
                    if self.child.exited().is_none() {
                        self.kill()?;
                    }
                    return Ok((self.child.exited().ok_or_else(lost)?, ending));
                }
            }
        }
    }

    /// Kills the whole tree, and says how many there were beside the command.
    fn kill(&mut self) -> Result<u32, Failure> {
        let killed = tree::kill(self.session.reach, Some(&mut self.child));
        if killed.survivors {
            let message = "processes of the Run cannot be killed";
            return Err(Failure::fault(Code::WorkerFailed, message).hint("the pod may have to be replaced"));
        }
        Ok(killed.killed)
    }
}

/// Begins to end the tree. A second Stop can only shorten the grace.
fn told_to_end(ending: Option<Ending>, stop: &Stop, reach: Reach) -> Ending {
    let now = Instant::now();
    let deadline = now + Duration::from_millis(stop.grace_millis).min(LONGEST_GRACE);
    match ending {
        Some(earlier) => Ending { deadline: earlier.deadline.min(deadline), ..earlier },
        None => {
            if stop.grace_millis > 0 {
                process::terminate_descendants(reach);
            }
            Ending { since: now, deadline }
        }
    }
}

/// A day; the policy's own bound is far below, and an instant has to be able to hold the sum.
const LONGEST_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

fn lost() -> Failure {
    Failure::fault(Code::WorkerFailed, "the command's status was lost")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn exit_status(status: Status) -> ExitStatus {
    // The kernel keeps eight bits of a code and seven of a signal.
    let byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    match status {
        Status::Exited(code) => ExitStatus::Code(byte(code)),
        Status::Signalled(signal) => ExitStatus::Signal(byte(signal)),
    }
}
