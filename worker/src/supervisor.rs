//! The supervisor: the worker's first process, which every other one is a child of.
//!
//! ```text
//!            Hello
//!   start ───────────► Greeted ──┐ Credential
//!                        ▲   │◄──┘
//!                            │ Assign
//!                            ▼
//!                        Assigned ── fetch, apply ──► Ready          up: Baseline
//!                                                       │ Start
//!                                                       ▼
//!                        Finished ◄── its tree is dead ─ Running     up: Enforced, Started; then Exited
//!                            │ Capture
//!                            ▼
//!                           end                                      up: Captured
//! ```
//!
//! Each state is a type, whose one method waits for what leads on and consumes it. In every state:
//!
//! * the link closes: the whole tree is killed, and the worker exits with 125;
//! * the lease runs out while something of the command may be left: the same, and a Fault is sent, for the daemon may be
//!   stopped and go on later;
//! * a frame that has no place there: the tree is killed, Fault is sent, exit 0;
//! * Stop: before Running, the phase child is killed and the worker exits with 0, saying nothing more; in Running it ends
//!   the command's tree; after that it is too late and means nothing, until a Capture is under way, which it ends;
//! * policy refuses or something fails: Refused or Fault is sent, the last frame, exit 0.
//!
//! There is one thread and one place to wait: [`crate::events`]. Nothing polls, and nothing sleeps.

mod assigned;
mod finished;
mod greeted;
mod ready;
mod running;

use std::os::fd::OwnedFd;

use runtimed_api::exit::Exit;
use runtimed_api::link::{Down, Fault, Hello, Refused, Up};
use runtimed_api::problem::{Code, Problem};
use runtimed_sandbox::enforce_self;
use runtimed_sandbox::plan::plan;
use runtimed_sandbox::policy::{Policy, Profile};
use runtimed_sandbox::process::{self, Reach};
use runtimed_sandbox::support::Support;
use rustix::fs::{Mode, OFlags};

use self::greeted::Greeted;
use crate::diagnostics::say;
use crate::events::Events;
use crate::failure::Failure;
use crate::inherited::Inherited;
use crate::link::{Link, LinkError};
use crate::{BUILD_ID, tree};

/// What every state has.
#[derive(Debug)]
pub(crate) struct Session {
    /// The link and the children.
    pub(crate) events: Events,
    /// What the kernel offers.
    pub(crate) support: Support,
    /// How all that is below is reached.
    pub(crate) reach: Reach,
}

/// Why an attempt ends before its time.
#[derive(Debug)]
pub(crate) enum End {
    /// Policy, or a failure: the daemon is told.
    Failed(Failure),
    /// The daemon wants it so.
    Stopped,
    /// Nobody is there to be told.
    Link(LinkError),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// How the daemon has made this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Birth {
    /// As any other.
    Ordinary,
    /// As the first of a process namespace, in a user namespace of its own; it was of this uid and gid.
    OwnProcesses { uid: u32, gid: u32 },
}

/// Serves the link from its first frame to its last.
pub(crate) fn run(birth: Birth) -> Exit {
    let Ok(inherited) = Inherited::take() else {
        say(
            "there is no link on descriptor 3, for runtimed starts this program itself; use `runtimectl local`",
        );
        return Exit::Usage;
    };
    let mut session = match confined(birth, inherited.link, inherited.hold) {
        Ok(session) => session,
        Err(why) => {
            say(&why);
            return Exit::Fault;
        }
    };
    let streams = (inherited.stdout, inherited.stderr);
    match Greeted::new(&mut session, streams).and_then(Greeted::attend) {
        Ok(()) => Exit::Ok,
        Err(end) => session.end(end),
    }
}

/// Makes this process what it is to be before it hears anything: out of reach, and unable to reach out.
///
/// With a process namespace of its own nothing outside can be seen to be signalled, and its children need to mount, which
/// a domain that speaks of files would forbid. Without one, a domain keeps signals and abstract sockets in.
fn confined(birth: Birth, link: OwnedFd, hold: OwnedFd) -> Result<Session, String> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A phase child that was taken over could fill the pipe: a line that does not fit is lost, and nobody waits.
    rustix::fs::fcntl_setfl(std::io::stderr(), OFlags::NONBLOCK)
        .map_err(|errno| format!("cannot write its diagnostics: {errno}"))?;
    if let Birth::OwnProcesses { uid, gid } = birth {
        process::settle(uid, gid).map_err(|error| format!("cannot settle in its namespace: {error}"))?;
    }
    process::harden_self().map_err(|errno| format!("cannot make itself unreadable: {errno}"))?;
    process::become_subreaper().map_err(|errno| format!("cannot become a subreaper: {errno}"))?;
    let events =
        Events::new(Link::new(link), hold).map_err(|error| format!("cannot watch its children: {error}"))?;
    let support = Support::probe();
    let reach = match birth {
        Birth::OwnProcesses { .. } => Reach::Namespace,
        Birth::Ordinary => {
            // Where the kernel has no scopes, it is for the command's profile to say whether that will do.
            let policy = Policy { profile: Profile::Compatible, ..Policy::scopes_only() };
            let prepared = plan(&policy, &support).and_then(|plan| plan.prepare());
            let entered = prepared
                .map_err(|refusal| refusal.to_string())
                .and_then(|prepared| enforce_self(prepared).map_err(|error| error.to_string()));
            entered.map_err(|error| format!("cannot confine itself: {error}"))?;
            Reach::Walk
        }
    };
    Ok(Session { events, support, reach })
}

impl Session {
    /// The next frame; a Stop, before the command runs, ends everything.
    fn frame(&mut self) -> Result<Down, End> {
        match self.events.frame()? {
            Down::Stop(_) => Err(End::Stopped),
            frame => Ok(frame),
        }
    }

    fn greet(&mut self) -> Result<(), End> {
        let build = BUILD_ID.to_owned().try_into();
        let build = build.map_err(|_| Failure::fault(Code::Internal, "the build id is not one"))?;
        Ok(self.events.send(&Up::Hello(Hello { build }))?)
    }

    /// Leaves no process behind, and says to the daemon why it ends, if it is there to be told.
    fn end(&mut self, end: End) -> Exit {
        if !process::collect_ended(None) {
            // Those that could not be killed were told of; there is nobody else to tell.
            tree::kill(self.reach, None);
        }
        let last = match end {
            End::Stopped => return Exit::Ok,
            End::Failed(Failure::Refused(refusals)) => Up::Refused(Refused { refusals }),
            End::Failed(Failure::Fault(problem)) => Up::Fault(Fault { problem }),
            End::Link(LinkError::Closed) => return Exit::Fault,
            End::Link(error) => {
                say(&error.to_string());
                let unrenewed = matches!(error, LinkError::Unrenewed);
                let code = if unrenewed { Code::LeaseLost } else { Code::WorkerFailed };
                let problem = Problem::new(code, error.to_string());
                // The link may be past telling; the exit code says it as well.
                self.events.send(&Up::Fault(Fault { problem })).unwrap_or_default();
                return Exit::Fault;
            }
        };
        match self.events.send(&last) {
            Ok(()) => Exit::Ok,
            Err(error) => {
                say(&error.to_string());
                Exit::Fault
            }
        }
    }
}

/// A frame came that has no place in this state.
pub(crate) fn out_of_turn(frame: &Down) -> End {
    let name = frame.name();
    Failure::fault(Code::WorkerFailed, format!("the daemon sent {name} out of turn")).into()
}
