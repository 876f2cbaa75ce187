//! The first process of a process namespace: who it is there, and whether it can make views.

use std::fs;
use std::io;

use rustix::io::Errno;

use crate::policy::Policy;
use crate::sys;
use crate::view::View;

/// Makes a process that was started with [`own_processes`](crate::spawn::Spawn::own_processes) a usable one: its uid and
/// gid, which are those of its starter, become the same numbers inside. Nobody else is anybody there, and groups cannot be
/// changed. It has to come before [`super::harden_self`], after which `/proc/self` is not ours to write.
///
/// # Errors
/// The kernel's reason; this process is nobody then.
pub fn settle(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Makes a view that nobody uses below this process, which has settled. Once only: what makes it is the first process of
/// its namespace.
///
/// # Errors
/// The kernel's reason why no such view can be had.
pub(crate) fn try_view(own_proc: bool) -> Result<(), Errno> {
    let policy = Policy { view: Some(View { shown: Vec::new(), own_proc }), ..Policy::default() };
    let ready = policy.view.as_ref().and_then(|view| crate::view::prepare(&policy, view).ok());
    sys::try_view(&ready.ok_or(Errno::IO)?)
}
