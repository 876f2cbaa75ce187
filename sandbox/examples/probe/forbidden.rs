//! A kernel, or a pod's filter, that refuses one system call: what is found out about it, and what becomes of a start.

use std::collections::BTreeMap;
use std::path::Path;

use runtimed_sandbox::policy::Policy;
use runtimed_sandbox::spawn::{Executable, Spawn, Stage, Status, fork_phase};
use runtimed_sandbox::support::{self, Missing, Support};
use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::scenarios::{failed, prepared, report, require};

/// What a body below says of itself beside the number of a stage.
const RAN: i32 = 100;
const OTHERWISE: i32 = 101;

/// The steps of a start in order, each by a system call that it cannot do without.
const STEPS: [(i64, Stage); 8] = [
    (libc::SYS_close_range, Stage::Descriptors),
    (libc::SYS_setsid, Stage::Session),
    (libc::SYS_prlimit64, Stage::Limits),
    (libc::SYS_prctl, Stage::NoNewPrivs),
    (libc::SYS_capset, Stage::Capabilities),
    (libc::SYS_landlock_restrict_self, Stage::Landlock),
    (libc::SYS_seccomp, Stage::Seccomp),
    (libc::SYS_execveat, Stage::Execute),
];

/// What comes before these where the process sees what its starter sees, and in a view of its own.
const NO_VIEW: [(i64, Stage); 1] = [(libc::SYS_chdir, Stage::Directory)];
const VIEW: [(i64, Stage); 5] = [
    (libc::SYS_chdir, Stage::View),
    (libc::SYS_mount, Stage::View),
    (libc::SYS_open_tree, Stage::View),
    (libc::SYS_mount_setattr, Stage::View),
    (libc::SYS_move_mount, Stage::View),
];

/// Every step fails once, and the program, which would leave a mark, is not executed with the rest of them.
pub(crate) fn steps(policy: &Policy, directory: &str, mark: &Path) -> Result<(), Errno> {
    let before: &[_] = if policy.view.is_some() { &VIEW } else { &NO_VIEW };
    for &(call, stage) in before.iter().chain(&STEPS) {
        let said = in_a_child(|| start(policy, directory, Some(call)))?;
        report(&format!("without call {call}: {said} and not {}", stage as i32));
        require(said == stage as i32 && !mark.exists())?;
    }
    require(in_a_child(|| start(policy, directory, None))? == RAN && mark.exists())
}

/// Starts a program that leaves a mark where it is, and says how far that came.
fn start(policy: &Policy, directory: &str, call: Option<i64>) -> Result<i32, Errno> {
    let sh = Executable::open(Path::new("/bin/sh"))?;
    let spawn = Spawn::new(&sh, ["sh", "-c", "echo > ran"]).cwd(Path::new(directory));
    let spawn = spawn.confine(prepared(policy)?);
    call.map_or(Ok(()), |call| forbid(call, Errno::PERM))?;
    match spawn.spawn() {
        Ok(mut child) => Ok(if child.wait()?.status == Status::Exited(0) { RAN } else { OTHERWISE }),
        Err(error) if error.errno == Errno::PERM.raw_os_error() => Ok(error.stage as i32),
        Err(error) => Err(failed(error)),
    }
}

/// What is missing is told by why, for an operator has to do something else about each.
pub(crate) fn support() -> Result<(), Errno> {
    for (errno, missing) in [
        (Errno::NOSYS, Missing::NotBuilt),
        (Errno::OPNOTSUPP, Missing::SwitchedOff),
        (Errno::PERM, Missing::Forbidden),
    ] {
        let told = in_a_child(|| {
            forbid(libc::SYS_landlock_create_ruleset, errno)?;
            let support = Support::probe();
            require(support.landlock == Err(missing) && support.landlock_errata == 0)?;
            let refused = runtimed_sandbox::plan::plan(&Policy::default(), &support).map(drop);
            let refused = refused.expect_err("there is no Landlock");
            require(refused.rule == "support.files" && refused.reason.contains(&missing.to_string()))?;
            forbid(libc::SYS_seccomp, errno)?;
            require(Support::probe().seccomp == Err(missing))?;
            Ok(RAN)
        })?;
        require(told == RAN)?;
        let told = in_a_child(|| {
            forbid(libc::SYS_unshare, errno)?;
            require(support::views() == Err(missing))?;
            Ok(RAN)
        })?;
        require(told == RAN)?;
    }
    Ok(())
}

/// What `body` says in a process of its own, whose filters are gone with it.
fn in_a_child(body: impl FnOnce() -> Result<i32, Errno>) -> Result<i32, Errno> {
    let mut child = fork_phase(None, &[], || body().unwrap_or(OTHERWISE)).map_err(failed)?;
    match child.wait()?.status {
        Status::Exited(code) => Ok(code),
        Status::Signalled(_) => Err(Errno::CHILD),
    }
}

/// Has the kernel answer this call with an errno from now on.
fn forbid(call: i64, errno: Errno) -> Result<(), Errno> {
    let answer = SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
    let architecture = if cfg!(target_arch = "x86_64") { TargetArch::x86_64 } else { TargetArch::aarch64 };
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, architecture);
    let program = filter.and_then(BpfProgram::try_from).map_err(|_| Errno::INVAL)?;
    seccompiler::apply_filter(&program).map_err(|_| Errno::PERM)
}
