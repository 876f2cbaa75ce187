//! The paths that a policy opens, and what no grant may open.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use super::Refusal;
use crate::policy::Policy;

/// A path with what may be done beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Execute,
    Write,
    Device,
    ProcFile,
    /// To move what is beneath between directories, and nothing else.
    Move,
}

/// Every grant of a policy, judged by its text. The same rules judge where links lead when the plan is prepared.
pub(super) fn judge(policy: &Policy, mounts: &BTreeSet<PathBuf>) -> Result<Vec<Grant>, Refusal> {
    let lists = [
        (&policy.read, Access::Read),
        (&policy.execute, Access::Execute),
        (&policy.write, Access::Write),
        (&policy.devices, Access::Device),
        (&policy.proc_files, Access::ProcFile),
    ];
    let mut grants = Vec::new();
    for (paths, access) in lists {
        for path in paths {
            let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            if !path.is_absolute() || !path.components().all(plain) {
                return Err(refused("grant.not-absolute", path, "is not an absolute path without `..`"));
            }
            check(path, access, policy, mounts)?;
            grants.push(Grant { path: path.clone(), access });
        }
    }
    Ok(grants)
}

/// Whether a grant of `path` would open something else as well.
pub(crate) fn check(
    path: &Path,
    access: Access,
    policy: &Policy,
    mounts: &BTreeSet<PathBuf>,
) -> Result<(), Refusal> {
    if let Some(protected) =
        policy.protected.iter().find(|one| one.starts_with(path) || path.starts_with(one))
    {
        let why = format!("would open {}, which is protected", protected.display());
        return Err(refused("grant.protected", path, &why));
    }
    if let Some(root) = policy.roots.iter().find(|root| root.starts_with(path)) {
        let why = format!("would open {}, where every Run has its trees", root.display());
        return Err(refused("grant.root", path, &why));
    }
    let proc = Path::new("/proc");
    let in_proc = path.starts_with(proc);
    if in_proc != (access == Access::ProcFile) || proc.starts_with(path) || (in_proc && is_of_a_process(path))
    {
        return Err(refused("grant.proc", path, "is not one file of /proc that belongs to no process"));
    }
    // What lies in a directory follows it in the order of paths.
    let behind = mounts.range::<Path, _>((Bound::Excluded(path), Bound::Unbounded));
    let mut inside = behind.take_while(|mount| mount.starts_with(path));
    if let Some(mount) = inside.find(|mount| !policy.mounts.contains(*mount)) {
        let why = format!("holds the mount {}; grant what lies beside it, or list it", mount.display());
        return Err(refused("grant.mount", path, &why));
    }
    Ok(())
}

/// `/proc/<pid>`, and the links that lead to one.
fn is_of_a_process(path: &Path) -> bool {
    let Some(Component::Normal(first)) = path.components().nth(2) else { return false };
    let Some(first) = first.to_str() else { return true };
    first.bytes().all(|byte| byte.is_ascii_digit())
        || matches!(first, "self" | "thread-self" | "net" | "mounts")
}

fn refused(rule: &'static str, path: &Path, why: &str) -> Refusal {
    Refusal::new(rule, format!("the grant {} {why}", path.display()))
}
