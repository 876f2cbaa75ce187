//! Giving up root, with a look at whether it is gone.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Why root was not given up. The process may be half way and must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropError {
    /// Another thread would have kept its privileges.
    #[error("privileges are given up before any thread is started")]
    Threads,
    /// Uid or gid 0 is what is to be given up.
    #[error("uid and gid 0 are not unprivileged; choose others")]
    Root,
    /// A step failed.
    #[error(
        "cannot {step}; start it as another user than root, or leave it the capabilities SETUID, SETGID and SETPCAP"
    )]
    Step {
        /// What was being done.
        step: &'static str,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// The steps succeeded and the result is not what they promise.
    #[error("the process could still {power} after it gave up root")]
    Regained {
        /// What it could still do.
        power: &'static str,
    },
}

/// Gives up root for one unprivileged uid and gid, for good, and checks that there is no way back.
///
/// No supplementary groups, no capability in any set, the bounding and ambient ones included. Changing the uid makes the
/// process non-dumpable, so `/proc/self` belongs to root afterwards.
///
/// # Errors
/// [`DropError`]; the caller must exit then.
pub fn drop_to(uid: u32, gid: u32) -> Result<(), DropError> {
    super::require_one_thread().map_err(|_| DropError::Threads)?;
    if uid == 0 || gid == 0 {
        return Err(DropError::Root);
    }
    let at = |step| move |source| DropError::Step { step, source };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[]).map_err(at("give up supplementary groups"))?;
    for capability in known_capabilities() {
        rustix::thread::remove_capability_from_bounding_set(capability)
            .map_err(at("drop a capability from the bounding set"))?;
    }
    rustix::thread::clear_ambient_capability_set().map_err(at("empty the ambient capability set"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("change the gid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("change the uid"))?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
    .map_err(at("empty the capability sets"))?;
    verify(uid)
}

fn verify(uid: Uid) -> Result<(), DropError> {
    if rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT) != Err(Errno::PERM)
        || rustix::process::getuid() != uid
        || rustix::process::geteuid() != uid
    {
        return Err(DropError::Regained { power: "become root" });
    }
    let sets = rustix::thread::capabilities(None)
        .map_err(|source| DropError::Step { step: "read the capability sets", source })?;
    let bounding = known_capabilities().next().is_some();
    if bounding || !(sets.effective | sets.permitted | sets.inheritable).is_empty() {
        return Err(DropError::Regained { power: "use capabilities" });
    }
    if !rustix::process::getgroups().is_ok_and(|groups| groups.is_empty()) {
        return Err(DropError::Regained { power: "use former groups" });
    }
    Ok(())
}

/// The capabilities in the bounding set; the kernel answers `EINVAL` beyond the last one that it knows.
fn known_capabilities() -> impl Iterator<Item = CapabilitySet> {
    (0..64)
        .map(|bit| CapabilitySet::from_bits_retain(1 << bit))
        .map_while(|one| Some((one, rustix::thread::capability_is_in_bounding_set(one).ok()?)))
        .filter_map(|(one, held)| held.then_some(one))
}
