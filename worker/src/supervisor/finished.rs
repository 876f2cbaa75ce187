use std::os::fd::{AsFd, OwnedFd};

use runtimed_api::enforcement::Profile;
use runtimed_api::ids::TreeId;
use runtimed_api::link::{Captured, Down, Trees, Up};

use super::{End, Session, out_of_turn};
use crate::{capture, phase, policies};

/// The command's tree is dead, and the daemon knows its verdict.
#[derive(Debug)]
pub(super) struct Finished<'s> {
    pub(super) session: &'s mut Session,
    pub(super) trees: Trees,
    pub(super) profile: Profile,
    pub(super) tree: Option<TreeId>,
    pub(super) workspace: OwnedFd,
}

impl Finished<'_> {
    /// Waits for Capture, and writes the Patch.
    pub(super) fn capture(self) -> Result<(), End> {
        let asked = loop {
            match self.session.events.frame()? {
                Down::Capture(asked) => break asked,
                // It crossed Exited on its way: the tree is dead already.
                Down::Stop(_) => {}
                other => return Err(out_of_turn(&other)),
            }
        };
        let out = self.session.events.link().descriptor()?;
        let captured = if self.tree.is_none() && capture::is_empty(self.workspace.as_fd()) {
            Captured { patch: None, notes: Vec::new() }
        } else {
            let keep = [self.workspace.as_fd(), out.as_fd()];
            let policy = policies::capture(self.profile, &self.trees, asked.memory);
            let collected = phase::run(self.session, "capture", &policy, &keep, || {
                capture::capture(&asked, &self.trees, self.tree.as_ref(), self.workspace.as_fd(), out.as_fd())
            })?;
            Captured { patch: collected.patch, notes: collected.notes }
        };
        Ok(self.session.events.send(&Up::Captured(captured))?)
    }
}
