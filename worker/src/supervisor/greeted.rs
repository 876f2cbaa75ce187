use std::os::fd::OwnedFd;

use runtimed_api::link::{Down, Hello};
use runtimed_api::problem::Code;
use runtimed_sandbox::process::{Pid, Reach};

use super::assigned::Assigned;
use super::{End, Session, out_of_turn};
use crate::BUILD_ID;
use crate::failure::Failure;
use crate::fetch::Sealed;

/// Both sides are of one build, and the daemon has not said yet what to do.
#[derive(Debug)]
pub(super) struct Greeted<'s> {
    session: &'s mut Session,
    streams: (OwnedFd, OwnedFd),
    credential: Option<Sealed>,
}

impl<'s> Greeted<'s> {
    /// Greets the daemon, and is greeted.
    pub(super) fn new(session: &'s mut Session, streams: (OwnedFd, OwnedFd)) -> Result<Self, End> {
        session.greet()?;
        match session.frame()? {
            Down::Hello(Hello { build }) if build.as_str() == BUILD_ID => {
                Ok(Self { session, streams, credential: None })
            }
            Down::Hello(Hello { build }) => {
                let message = format!("the worker is of build {BUILD_ID}, and the daemon of {build}");
                Err(Failure::fault(Code::WorkerFailed, message)
                    .lasting()
                    .hint("install both from one build, and start the daemon again")
                    .into())
            }
            other => Err(out_of_turn(&other)),
        }
    }

    /// Waits for the Assign, and sees the attempt to its end.
    pub(super) fn attend(mut self) -> Result<(), End> {
        loop {
            match self.session.frame()? {
                Down::Credential(about) if self.credential.is_none() => {
                    let bytes = self.session.events.link().descriptor()?;
                    self.credential = Some(Sealed { about, bytes });
                }
                Down::Assign(assign) => {
                    let guard = i32::try_from(assign.guard_pid).ok().and_then(Pid::from_raw);
                    if let (Reach::Walk, Some(guard)) = (self.session.reach, guard) {
                        self.session.reach = Reach::Domain { guard };
                    }
                    let Self { session, streams, credential } = self;
                    let assigned = Assigned { session, streams, credential, assign };
                    return assigned.prepare()?.start()?.wait()?.capture();
                }
                other => return Err(out_of_turn(&other)),
            }
        }
    }
}
