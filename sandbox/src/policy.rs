//! Intent: what a confined process may do. Everything that is not granted here is refused by the kernel.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::enforcement::Protection;
use crate::view::View;

/// How much the kernel has to offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Every protection of the base tier is required: Linux 6.12, Landlock ABI 6.
    #[default]
    Strict,
    /// For older kernels, from Linux 5.13: truncation, device ioctls, and the scopes of signals and abstract sockets may
    /// be missing, and the report says so. Listed TCP ports need Linux 6.7 here too.
    Compatible,
}

/// How much of a process's doings is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Everything that this policy speaks of.
    #[default]
    Full,
    /// Signals and abstract sockets only, for the supervisor of the base tier. Nothing below it can mount.
    ScopesOnly,
}

/// What a process may do.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// How much the kernel has to offer.
    pub profile: Profile,
    /// How much is confined.
    pub extent: Extent,
    /// Files, and directories with everything in them, that may be read and listed. All paths are absolute; links in them
    /// are followed once, when the plan is prepared.
    pub read: Vec<PathBuf>,
    /// May be read and executed.
    pub execute: Vec<PathBuf>,
    /// May be read, executed, changed, and filled with anything but device nodes.
    pub write: Vec<PathBuf>,
    /// Character devices that may be read and written, without device ioctls.
    pub devices: Vec<PathBuf>,
    /// Files of `/proc` that may be read; never those of a process.
    pub proc_files: Vec<PathBuf>,
    /// The network.
    pub network: Network,
    /// A view of its own, in namespaces of its own; without it the process sees what the caller sees. Only for
    /// [`crate::spawn::Spawn`], and only below a process that was started with
    /// [`own_processes`](crate::spawn::Spawn::own_processes).
    pub view: Option<View>,
    /// Whether the process is the only Run of its pod, and has the pod's directories whole: the report says so.
    pub alone: bool,
    /// Whether inotify is allowed: it tells the names of neighbours' files.
    pub watch: bool,
    /// Resource limits.
    pub limits: Rlimits,
    /// Protections that may be missing, beyond what the profile gives up.
    pub may_degrade: Vec<Protection>,
    /// Secret sources and state: no grant may be, hold or lie within one of these.
    pub protected: Vec<PathBuf>,
    /// The directories in which all attempts have their trees: a grant may lie within one, but not be or hold one.
    pub roots: Vec<PathBuf>,
    /// Mount points that may lie inside a grant. Any other mount inside one is refused, for an allow-list cannot subtract.
    pub mounts: BTreeSet<PathBuf>,
}

/// What the network may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Unix sockets of its own, and the list of interfaces.
    #[default]
    None,
    /// TCP by ports. Landlock knows ports, not addresses.
    Ports {
        /// Ports that may be connected to. Name resolution over TCP needs 53 among them.
        connect: Vec<u16>,
        /// Ports that may be bound.
        listen: Vec<u16>,
        /// Whether a port of the kernel's choice may be bound.
        bind_ephemeral: bool,
        /// Whether UDP is open, to every port; for resolvers that cannot use TCP.
        udp_dns: bool,
    },
    /// TCP and UDP without restriction; raw sockets and other domains stay closed.
    Full,
}

/// Resource limits of the process and, each for itself, of those that it starts. Core dumps are always off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rlimits {
    /// Open descriptors.
    pub nofile: Option<u64>,
    /// Processes of the uid, on the whole node: all Runs together.
    pub nproc: Option<u64>,
    /// Bytes of a single file.
    pub fsize: Option<u64>,
    /// Seconds of processor time of a single process.
    pub cpu_seconds: Option<u64>,
    /// Bytes of private memory that a single process may write to: heap and anonymous maps (`RLIMIT_DATA`, setrlimit(2)).
    pub data: Option<u64>,
    /// No limit, but a number that all that is started bears for good, so that it is found whatever became of its starter. It is
    /// the limit of file locks, which the kernel has not looked at since 2.4.25 (`RLIMIT_LOCKS`, getrlimit(2)); the filter lets
    /// nobody set it. Where there is a hard limit already, no mark is set.
    pub mark: Option<u64>,
}

/// Files of `/proc` that say nothing about other processes, and without which common programs fail or guess.
pub const HARMLESS_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/fs/file-max",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/vm/overcommit_memory",
    "/proc/uptime",
    "/proc/version",
];

/// Devices that every program may expect.
pub const COMMON_DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// Files that a container runtime mounts into `/etc`: names, and an entry for a user that the image does not know, as podman
/// and CRI-O make one.
pub const CONTAINER_MOUNTS: &[&str] =
    &["/etc/group", "/etc/hostname", "/etc/hosts", "/etc/passwd", "/etc/resolv.conf"];

impl Policy {
    /// The supervisor's: no new privileges, and a domain that signals and abstract sockets do not leave.
    #[must_use]
    pub fn scopes_only() -> Self {
        Self { extent: Extent::ScopesOnly, ..Self::default() }
    }
}
