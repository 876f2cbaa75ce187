//! What the kernel really holds a confined process to, for the status of a Run.

use std::borrow::Cow;
use std::fmt;

use crate::policy::Profile;

/// One thing that a sandbox protects from the Run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Protection {
    /// Execution never raises privileges.
    NoNewPrivs,
    /// No capability in any set.
    Capabilities,
    /// Files outside the grants cannot be opened, made, moved or removed; other processes' `/proc` is closed.
    Files,
    /// Files outside the grants cannot be truncated by path.
    Truncation,
    /// Device ioctls.
    DeviceIoctls,
    /// Modes, times, attributes and existence of files outside the grants whose paths are known.
    FileMetadata,
    /// TCP connections and listeners by port.
    TcpPorts,
    /// Sockets of every other kind, and TCP's ways around connecting.
    SocketKinds,
    /// Servers of neighbours on the shared loopback.
    LoopbackNeighbours,
    /// Signals to processes outside.
    Signals,
    /// Abstract unix sockets of processes outside.
    AbstractUnixSockets,
    /// Unix sockets of processes outside that have a path.
    PathnameUnixSockets,
    /// System calls that reach around all of this.
    SystemCalls,
    /// Other processes' limits, priorities and scheduling.
    OtherProcesses,
    /// Which processes there are, and what `/proc` tells of them.
    ProcessList,
    /// System V shared memory, queues and semaphores.
    SystemVIpc,
    /// Watching what happens to neighbours' files.
    FileWatching,
    /// The resource limits that the policy sets.
    ResourceLimits,
    /// No core dump is written.
    CoreDumps,
    /// No descriptor is inherited that was not meant to be.
    Descriptors,
    /// A session of its own, without a terminal.
    Session,
    /// Memory in anonymous files.
    MemoryFiles,
}

impl Protection {
    /// The stable name that a status and a policy use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoNewPrivs => "no-new-privs",
            Self::Capabilities => "capabilities",
            Self::Files => "files",
            Self::Truncation => "truncation",
            Self::DeviceIoctls => "device-ioctls",
            Self::FileMetadata => "file-metadata",
            Self::TcpPorts => "tcp-ports",
            Self::SocketKinds => "socket-kinds",
            Self::LoopbackNeighbours => "loopback-neighbours",
            Self::Signals => "signals",
            Self::AbstractUnixSockets => "abstract-unix-sockets",
            Self::PathnameUnixSockets => "pathname-unix-sockets",
            Self::SystemCalls => "system-calls",
            Self::OtherProcesses => "other-processes",
            Self::ProcessList => "process-list",
            Self::SystemVIpc => "system-v-ipc",
            Self::FileWatching => "file-watching",
            Self::ResourceLimits => "resource-limits",
            Self::CoreDumps => "core-dumps",
            Self::Descriptors => "descriptors",
            Self::Session => "session",
            Self::MemoryFiles => "memory-files",
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a protection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    Active,
    /// It holds in part.
    Degraded,
    /// The policy asked for it not to.
    Disabled,
    /// The kernel, or this tier, has no means for it.
    Unavailable,
}

impl State {
    /// The stable name that a status uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Disabled => "disabled",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a process is confined with as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// Landlock, seccomp, `no_new_privs` and limits, in every pod.
    Base,
    /// All of that, in mount, process, IPC, UTS and network namespaces of its own.
    Namespaces,
    /// All of base, for the only Run of a pod, which has the pod's three directories whole.
    Exclusive,
}

impl Tier {
    /// The stable name that a status uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Namespaces => "namespaces",
            Self::Exclusive => "exclusive",
        }
    }
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What is protected.
    pub protection: Protection,
    /// How far.
    pub state: State,
    /// By what.
    pub mechanism: Cow<'static, str>,
    /// Why not wholly, unless it is.
    pub why: Option<Cow<'static, str>>,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// With what as a whole.
    pub tier: Tier,
    /// What the policy required.
    pub profile: Profile,
    /// One line a protection, in the order of [`Protection`].
    pub items: Vec<Item>,
}

impl Enforcement {
    /// How far a protection holds; `None` if the policy does not speak of it.
    #[must_use]
    pub fn state(&self, protection: Protection) -> Option<State> {
        self.items.iter().find(|item| item.protection == protection).map(|item| item.state)
    }
}
