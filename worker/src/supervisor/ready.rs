use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use runtimed_api::enforcement::Tier;
use runtimed_api::ids::TreeId;
use runtimed_api::link::{Assign, Down, Enforced, Started, Up, inside};
use runtimed_api::problem::Code;

use super::running::Running;
use super::{End, Session, out_of_turn};
use crate::failure::Failure;
use crate::tree::Used;
use crate::{command, policies};

/// The workspace is what the command is to find, and the daemon may stage its secrets.
#[derive(Debug)]
pub(super) struct Ready<'s> {
    pub(super) session: &'s mut Session,
    pub(super) streams: (OwnedFd, OwnedFd),
    pub(super) assign: Box<Assign>,
    pub(super) tree: Option<TreeId>,
    pub(super) workspace: OwnedFd,
}

impl<'s> Ready<'s> {
    /// Waits for Start, and starts the command.
    pub(super) fn start(self) -> Result<Running<'s>, End> {
        let Self { session, streams, assign, tree, workspace } = self;
        // While the daemon journals and stages: a Run without secrets finds it done.
        let unstaged = confine(session, &assign, false)?;
        let start = match session.frame()? {
            Down::Start(start) => start,
            other => return Err(out_of_turn(&other)),
        };
        let secrets = if start.secret_env {
            command::secret_env(&session.events.link().descriptor()?)?
        } else {
            BTreeMap::new()
        };
        let (confinement, enforced) = if start.staged { confine(session, &assign, true)? } else { unstaged };
        let tier = assign.confinement.tier;
        let path = match tier {
            Tier::Namespaces => inside::WORKSPACE.into(),
            Tier::Base | Tier::Exclusive => assign.trees.command_workspace(),
        };
        let directory = command::directory(&path, workspace.as_fd(), &start.directory)?;
        let before =
            Used::now().ok_or_else(|| Failure::fault(Code::Internal, "resource usage is not told"))?;
        let child = command::start(&start, &secrets, &directory, tier, confinement, streams)?;
        drop(secrets);
        let pid = child.pid().as_raw_pid().unsigned_abs();
        session.events.send(&Up::Enforced(enforced))?;
        session.events.send(&Up::Started(Started { pid }))?;
        Ok(Running {
            session,
            child,
            before,
            trees: assign.trees,
            profile: assign.confinement.profile,
            tree,
            workspace,
        })
    }
}

fn confine(
    session: &Session,
    assign: &Assign,
    staged: bool,
) -> Result<(runtimed_sandbox::Prepared, Enforced), Failure> {
    let policy = policies::command(&assign.confinement, &assign.trees, staged);
    let prepared = policies::prepare(&policy, &session.support)?;
    let enforcement = policies::reported(prepared.enforcement(), assign.confinement.profile);
    Ok((prepared, Enforced { enforcement }))
}
