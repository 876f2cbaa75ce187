//! What the running kernel, under the seccomp profile that this process has, offers to an unprivileged process.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::spawn::{Exited, Status};
use crate::sys;

/// Why a feature cannot be used. The three look alike to a program that only asks whether a call failed, and an operator
/// has to do something different about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `ENOSYS`: the kernel was built without it, or is older than it.
    NotBuilt,
    /// `EOPNOTSUPP`: it is built in and was switched off at boot.
    SwitchedOff,
    /// `EPERM` or `EACCES`: a seccomp profile or a setting of the machine forbids it.
    Forbidden,
    /// Any other errno.
    Other(i32),
}

impl From<Errno> for Missing {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOSYS => Self::NotBuilt,
            Errno::OPNOTSUPP => Self::SwitchedOff,
            Errno::PERM | Errno::ACCESS => Self::Forbidden,
            other => Self::Other(other.raw_os_error()),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => f.write_str("the kernel does not have it (ENOSYS)"),
            Self::SwitchedOff => {
                f.write_str("the kernel has it switched off; add it to the boot option lsm= (EOPNOTSUPP)")
            }
            Self::Forbidden => {
                f.write_str("a seccomp profile or a setting of the machine forbids it (EPERM)")
            }
            Self::Other(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// The Landlock ABI, 1 or more, or why there is none.
    pub landlock: Result<u8, Missing>,
    /// Bits of the Landlock errata that are fixed; 0 also where the kernel cannot say.
    pub landlock_errata: u32,
    /// Whether system call filters can be installed.
    pub seccomp: Result<(), Missing>,
    /// The kernel's release, for people.
    pub kernel: String,
    /// The architecture whose system call numbers a filter has to name.
    pub architecture: Architecture,
    /// Every mount point that this process sees.
    pub mounts: BTreeSet<PathBuf>,
}

/// An architecture that there is a filter table for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Architecture {
    /// The architecture that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const OURS: Self = Self::X86_64;
    /// The architecture that this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const OURS: Self = Self::Aarch64;
}

/// `LANDLOCK_CREATE_RULESET_VERSION` and `LANDLOCK_CREATE_RULESET_ERRATA` of linux/landlock.h.
const VERSION: u32 = 1;
const ERRATA: u32 = 2;

impl Support {
    /// Asks the kernel. Takes well below a millisecond and leaves nothing behind.
    #[must_use]
    pub fn probe() -> Self {
        let version = sys::landlock_version(VERSION).map_err(Missing::from);
        let uname = rustix::system::uname();
        Self {
            landlock: version.map(|version| u8::try_from(version).unwrap_or(u8::MAX)),
            landlock_errata: sys::landlock_version(ERRATA).unwrap_or(0),
            seccomp: sys::seccomp_filters().map_err(Missing::from),
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: Architecture::OURS,
            mounts: mount_points(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
        }
    }

    /// The Landlock ABI, 0 where there is none.
    #[must_use]
    pub fn landlock_abi(&self) -> u8 {
        self.landlock.unwrap_or(0)
    }
}

/// Whether Runs can have views of their own below processes that are started with
/// [`own_processes`](crate::spawn::Spawn::own_processes), found by making one that nobody uses. The answer says whether a
/// `/proc` of their own can be mounted.
///
/// It takes a process of one thread and a few milliseconds, so it is asked once, at a server's start.
///
/// # Errors
/// Why they cannot.
pub fn views() -> Result<bool, Missing> {
    crate::process::require_one_thread()?;
    match view(true) {
        // A container's masks over its /proc forbid another one that has none.
        Err(Missing::Forbidden) => view(false).map(|()| false),
        answer => answer.map(|()| true),
    }
}

/// Makes a view in a child of its own: the first process of a process namespace takes the namespace with it, so there is
/// no second try in the same one.
fn view(own_proc: bool) -> Result<(), Missing> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let in_namespaces = || -> Result<(), Errno> {
        // A server that gave up root is not dumpable, and `/proc/self` is not its own then.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
        sys::unshare_user_and_processes()?;
        crate::process::settle(uid, gid)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        crate::process::try_view(own_proc)
    };
    match sys::fork()? {
        // An exit status holds it: errnos are below 134.
        sys::Side::Child => sys::exit_now(in_namespaces().map_or_else(Errno::raw_os_error, |()| 0)),
        sys::Side::Parent(child) => match sys::wait(sys::Target::Pid(child), true)? {
            Some((_, Exited { status: Status::Exited(0), .. })) => Ok(()),
            Some((_, Exited { status: Status::Exited(errno), .. })) => {
                Err(Missing::from(Errno::from_raw_os_error(errno)))
            }
            _ => Err(Missing::from(Errno::CHILD)),
        },
    }
}

/// The fifth field of each line of mountinfo, with its octal escapes undone. See `proc_pid_mountinfo(5)`.
fn mount_points(mountinfo: &str) -> BTreeSet<PathBuf> {
    const ESCAPES: [(&str, &str); 4] = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let unescaped = |field: &str| {
        let escapes = ESCAPES.iter().filter(|_| field.contains('\\'));
        escapes.fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
    };
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|field| PathBuf::from(unescaped(field))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Support, mount_points};

    #[test]
    fn mount_points_are_unescaped() {
        let text = "22 1 254:0 / / rw - ext4 /dev/vda rw\n36 22 0:3 / /mnt/a\\040b rw - tmpfs x rw\n";
        assert_eq!(mount_points(text), ["/", "/mnt/a b"].map(PathBuf::from).into());
    }

    #[test]
    fn a_process_of_many_threads_is_not_asked_for_views() {
        // The test harness has a thread of its own.
        assert_eq!(super::views(), Err(super::Missing::Other(libc::EBUSY)));
    }

    #[test]
    fn the_probe_sees_this_machine() {
        let support = Support::probe();
        assert!(!support.kernel.is_empty());
        assert!(support.mounts.iter().any(|point| point == Path::new("/")));
    }
}
