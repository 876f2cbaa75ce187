//! Running one phase child to its end, while the daemon can still stop it.

use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use runtimed_api::link::Down;
use runtimed_api::problem::Code;
use runtimed_sandbox::policy::Policy;
use runtimed_sandbox::process;
use runtimed_sandbox::spawn::{Child, Exited, Status, fork_phase};
use rustix::process::Signal;

use crate::events::Event;
use crate::failure::Failure;
use crate::policies;
use crate::report::{self, Found, MAX_REPORT};
use crate::supervisor::{End, Session, out_of_turn};
use crate::tree;

/// Forks a child that is confined by `policy`, keeps the descriptors of `keep`, and runs `body`; gives what it reports.
///
/// When it comes back, no process is left below the supervisor.
pub(crate) fn run<T: Found>(
    session: &mut Session,
    name: &'static str,
    policy: &Policy,
    keep: &[BorrowedFd<'_>],
    body: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, End> {
    let prepared = policies::prepare(policy, &session.support)?;
    let (mut reader, writer) =
        std::io::pipe().map_err(|error| failed(name, format!("has no pipe: {error}")))?;
    let kept: Vec<_> = keep.iter().copied().chain([writer.as_fd()]).collect();
    let mut child =
        fork_phase(Some(prepared), &kept, || report::write(&writer, &body())).map_err(|error| {
            Failure::fault(Code::ConfinementFailed, format!("the {name} did not start: {error}"))
        })?;
    drop(writer);
    let attended = attend(session, name, &mut reader, &mut child);
    // What the child has left behind must not live on into the next phase.
    let survivors = !process::collect_ended(Some(&mut child)) && tree::kill(session.reach, None).survivors;
    let (mut bytes, exited) = attended?;
    if survivors {
        return Err(failed(name, "left processes behind that cannot be killed").into());
    }
    // Every writer is dead, so this comes to an end.
    if reader.take(REST).read_to_end(&mut bytes).is_err() || bytes.len() > MAX_REPORT {
        return Err(failed(name, "said more than it may").into());
    }
    match report::read(&bytes) {
        // The child knows that there was not enough, and not how much it had.
        Some(Err(Failure::Fault(problem))) if problem.code == Code::MemoryExceeded => Err(policy
            .limits
            .data
            .map_or(Failure::Fault(problem), |memory| out_of_memory(name, memory))
            .into()),
        Some(found) => Ok(found?),
        None => Err(silent(name, exited, policy.limits.data).into()),
    }
}

/// Bytes that are read beyond what has been: enough to see that there are too many.
const REST: u64 = MAX_REPORT as u64 + 1;

/// Serves the link and takes the report in until the child has ended.
fn attend(
    session: &mut Session,
    name: &str,
    reader: &mut PipeReader,
    child: &mut Child,
) -> Result<(Vec<u8>, Exited), End> {
    let (mut bytes, mut open) = (Vec::new(), true);
    loop {
        match session.events.next(open.then(|| reader.as_fd()), None)? {
            Event::Frame(Down::Stop(_)) => return Err(End::Stopped),
            Event::Frame(other) => return Err(out_of_turn(&other)),
            Event::Readable => {
                let mut chunk = [0; 4096];
                let count = reader.read(&mut chunk).unwrap_or(0);
                open = count > 0;
                bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
                if bytes.len() > MAX_REPORT {
                    return Err(failed(name, "said more than it may").into());
                }
            }
            Event::Child => {
                let exited = child.try_wait();
                if let Some(exited) = exited.map_err(|errno| failed(name, format!("was lost: {errno}")))? {
                    return Ok((bytes, exited));
                }
            }
            Event::Deadline => {}
        }
    }
}

/// Rust aborts where there is no memory, without a word.
fn silent(name: &str, exited: Exited, memory: Option<u64>) -> Failure {
    match memory {
        Some(memory) if matches!(exited.status, Status::Signalled(number) if number == Signal::ABORT.as_raw()) => {
            out_of_memory(name, memory)
        }
        _ => failed(name, format!("ended without a report, {}", how(exited))),
    }
}

/// Says how much there was, and what to do.
fn out_of_memory(name: &str, memory: u64) -> Failure {
    let message = format!("the {name} needs more than the {} MiB of memory that it may use", memory >> 20);
    let hint = "give the Run a larger memory limit: the largest file has to fit into it";
    Failure::fault(Code::MemoryExceeded, message).hint(hint)
}

fn how(exited: Exited) -> String {
    match exited.status {
        Status::Exited(code) => format!("with exit code {code}"),
        Status::Signalled(signal) => format!("by signal {signal}"),
    }
}

fn failed(name: &str, why: impl std::fmt::Display) -> Failure {
    Failure::fault(Code::WorkerFailed, format!("the {name} {why}"))
}
