//! A child between `clone` and `execve`: it shares its launcher's memory, and does nothing but system calls.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::launch::{Launch, Program};
use super::{apply, checked};
use crate::spawn::Stage;

/// What the launching thread and the child have in common. The child borrows the launcher's memory until it executes.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) argv: &'a [*const libc::c_char],
    pub(super) envp: &'a [*const libc::c_char],
    /// The stage that was entered last.
    stage: AtomicU32,
    /// Why that stage failed, or 0.
    errno: AtomicI32,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        launch: &'a Launch<'a>,
        argv: &'a [*const libc::c_char],
        envp: &'a [*const libc::c_char],
    ) -> Self {
        Self { launch, argv, envp, stage: AtomicU32::new(Stage::Launch.number()), errno: AtomicI32::new(0) }
    }

    fn at(&self, stage: Stage) {
        self.stage.store(stage.number(), Ordering::Relaxed);
    }

    /// The stage that the child reached, and its errno there: 0 if it executed the program, or was killed on the way.
    pub(super) fn reached(&self) -> (Stage, i32) {
        (Stage::from_number(self.stage.load(Ordering::Relaxed)), self.errno.load(Ordering::Relaxed))
    }
}

/// The child's whole life before the program: every step, then `execve`. Comes back only with the reason for a failure.
pub(super) fn run(shared: &Shared<'_>) {
    let Err(errno) = steps(shared);
    shared.errno.store(errno.raw_os_error(), Ordering::Relaxed);
}

fn steps(shared: &Shared<'_>) -> Result<std::convert::Infallible, Errno> {
    let launch = shared.launch;
    let at = |stage| shared.at(stage);
    at(Stage::Signals);
    reset_handlers();
    at(Stage::DeathSignal);
    if let Some(signal) = launch.death_signal {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the request took effect.
        if rustix::process::getppid() != Some(launch.parent) {
            return Err(Errno::SRCH);
        }
    }
    if let Some(steps) = launch.steps
        && let Some(view) = &steps.view
    {
        at(Stage::View);
        super::view::enter(view, steps.landlock.as_ref())?;
    }
    at(Stage::Directory);
    if let Some(directory) = launch.directory {
        rustix::process::chdir(directory)?;
    }
    at(Stage::Descriptors);
    place_descriptors(launch.descriptors)?;
    if launch.new_session {
        at(Stage::Session);
        rustix::process::setsid()?;
    }
    if let Some(steps) = launch.steps {
        apply(steps, at)?;
    }
    if launch.own_processes {
        at(Stage::Capabilities);
        keep_capabilities()?;
    }
    at(Stage::Execute);
    unblock_signals()?;
    execute(shared)
}

/// Gives every signal its default action: a handler of the launcher's must not run in the memory that it shares.
///
/// The system call itself, for the C library keeps two signals to itself and a parent may have left them ignored.
fn reset_handlers() {
    // The kernel's own structure is at most four words long, and zeros in all of them are the default action.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: `default` outlives the call and is as long as what the kernel reads, no former action is asked for, and
        // the table of handlers is the child's own copy. KILL and STOP are refused, which is as good.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8_usize) };
    }
}

fn unblock_signals() -> Result<(), Errno> {
    // SAFETY: all-zero bytes are an empty signal set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` outlives the call and no former mask is asked for.
    checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) }.into())
}

/// Puts each descriptor in its place, then marks all others to be closed by `execve`.
///
/// Sources lie above every target, which the launcher saw to, and targets are sorted.
fn place_descriptors(descriptors: &[(RawFd, RawFd)]) -> Result<(), Errno> {
    let mut next: RawFd = 0;
    for &(target, source) in descriptors {
        // SAFETY: the descriptor table is the child's own copy, so no descriptor of the launcher's is replaced.
        checked(unsafe { libc::dup2(source, target) }.into())?;
        if target > next {
            close_on_exec(next, target - 1)?;
        }
        next = target.saturating_add(1);
    }
    close_on_exec(next, RawFd::MAX)
}

fn close_on_exec(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: the call takes no pointer and changes only flags in the child's own table.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Hands the program what it needs in the user namespace that it is the first process of: the right to make mounts and
/// namespaces there, and to bring a loopback up. An execution would take it away from a uid that is not mapped yet.
fn keep_capabilities() -> Result<(), Errno> {
    let kept = [CapabilitySet::SYS_ADMIN, CapabilitySet::SYS_CHROOT, CapabilitySet::NET_ADMIN];
    let set = kept[0] | kept[1] | kept[2];
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: set, permitted: set, inheritable: set },
    )?;
    kept.into_iter().try_for_each(|one| rustix::thread::configure_capability_in_ambient_set(one, true))
}

fn execute(shared: &Shared<'_>) -> Result<std::convert::Infallible, Errno> {
    let (argv, envp) = (shared.argv.as_ptr(), shared.envp.as_ptr());
    let executed = match shared.launch.program {
        Program::Descriptor(fd) => {
            let empty: &CStr = c"";
            // SAFETY: the path is NUL-terminated, both arrays end with a null pointer and point to NUL-terminated
            // strings that the suspended launcher keeps alive.
            unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    fd.as_raw_fd(),
                    empty.as_ptr(),
                    argv,
                    envp,
                    libc::AT_EMPTY_PATH,
                )
            }
        }
        Program::Paths(paths) => return first_of(paths, argv, envp),
    };
    checked(executed).and(Err(Errno::IO))
}

/// Executes the first of these paths that can be, as a shell goes through `PATH`.
fn first_of(
    paths: &[CString],
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
) -> Result<std::convert::Infallible, Errno> {
    let mut answer = Errno::NOENT;
    for path in paths {
        // SAFETY: the path is NUL-terminated, both arrays end with a null pointer and point to NUL-terminated strings;
        // the suspended launcher keeps all of them alive.
        let executed = checked(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv, envp) });
        match executed {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::ACCESS) => answer = Errno::ACCESS,
            Err(errno) => return Err(errno),
            Ok(()) => return Err(Errno::IO),
        }
    }
    Err(answer)
}
