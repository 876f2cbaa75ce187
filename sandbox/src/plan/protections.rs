//! What each protection needs from the kernel, and what becomes of it here.

use std::borrow::Cow;

use super::Refusal;
use crate::enforcement::{Item, Protection, State};
use crate::policy::{Extent, Network, Policy, Profile};
use crate::support::Support;
use crate::view::View;

/// Landlock ABIs that brought a protection: Linux 5.13, 6.2, 6.7, 6.10, 6.12 and 7.1.
const FILES: u8 = 1;
const TRUNCATION: u8 = 3;
pub(super) const PORTS: u8 = 4;
const DEVICE_IOCTLS: u8 = 5;
pub(super) const SCOPES: u8 = 6;
const PATHNAME_SOCKETS: u8 = 9;

/// What the profile for older kernels gives up without being told.
const GIVEN_UP: [Protection; 4] =
    [Protection::Truncation, Protection::DeviceIoctls, Protection::Signals, Protection::AbstractUnixSockets];
/// Without these there is no sandbox to speak of, whatever a policy says.
const NEVER: [Protection; 2] = [Protection::Files, Protection::SystemCalls];

/// A report for the policy on this kernel, or the first protection that is missing and may not be.
pub(super) fn judge(policy: &Policy, support: &Support) -> Result<Vec<Item>, Refusal> {
    let judge = Judge { policy, support };
    let mut items = vec![active(Protection::NoNewPrivs, "prctl")];
    if policy.extent == Extent::ScopesOnly {
        items.push(judge.landlock(Protection::Signals, SCOPES)?);
        items.push(judge.landlock(Protection::AbstractUnixSockets, SCOPES)?);
        return Ok(items);
    }
    if let Err(missing) = support.seccomp {
        return Err(lacking(
            Protection::SystemCalls,
            &format!("system call filters cannot be used: {missing}"),
        ));
    }
    items.extend([
        active(Protection::Capabilities, "capset"),
        judge.landlock(Protection::Files, FILES)?,
        judge.landlock(Protection::Truncation, TRUNCATION)?,
        judge.landlock(Protection::DeviceIoctls, DEVICE_IOCTLS)?,
        judge.unless_hidden(
            Protection::FileMetadata,
            "Landlock does not judge chmod, utimes, setxattr and stat: of a known path of this uid they work",
        ),
        judge.tcp_ports()?,
        judge.socket_kinds(),
        judge.loopback(),
        judge.with_namespace(judge.landlock(Protection::Signals, SCOPES)?, "process"),
        judge.landlock(Protection::AbstractUnixSockets, SCOPES)?,
        judge.pathname_sockets(),
        active(Protection::SystemCalls, "seccomp"),
        judge.with_namespace(active(Protection::OtherProcesses, "seccomp"), "process"),
        judge.process_list(),
        judge.with_namespace(active(Protection::SystemVIpc, "seccomp"), "IPC"),
        judge.watching(),
        active(Protection::ResourceLimits, "setrlimit"),
        active(Protection::CoreDumps, "setrlimit"),
        active(Protection::Descriptors, "close_range"),
        active(Protection::Session, "setsid"),
        Item {
            protection: Protection::MemoryFiles,
            state: State::Disabled,
            mechanism: "none".into(),
            why: Some("memfd_create is left open, for ordinary programs need it".into()),
        },
    ]);
    Ok(items)
}

struct Judge<'a> {
    policy: &'a Policy,
    support: &'a Support,
}

impl Judge<'_> {
    /// A protection that is Landlock's alone.
    fn landlock(&self, protection: Protection, needed: u8) -> Result<Item, Refusal> {
        let abi = self.support.landlock_abi();
        if abi >= needed {
            return Ok(active(protection, "Landlock"));
        }
        let why = match self.support.landlock {
            Ok(abi) => format!("it needs Landlock ABI {needed}, and Linux {} has {abi}", self.support.kernel),
            Err(missing) => format!("it needs Landlock, but {missing}"),
        };
        if let Some(namespace) = self.namespace_for(protection) {
            return Ok(active(protection, namespace));
        }
        if !self.may_be_missing(protection) {
            return Err(lacking(protection, &why));
        }
        Ok(unavailable(protection, why))
    }

    /// A namespace that holds alone what Landlock would.
    fn namespace_for(&self, protection: Protection) -> Option<&'static str> {
        match protection {
            Protection::Signals if self.policy.view.is_some() => Some("process namespace"),
            Protection::AbstractUnixSockets if View::own_network(self.policy) => Some("network namespace"),
            _ => None,
        }
    }

    fn may_be_missing(&self, protection: Protection) -> bool {
        let given_up = self.policy.profile == Profile::Compatible && GIVEN_UP.contains(&protection);
        !NEVER.contains(&protection) && (given_up || self.policy.may_degrade.contains(&protection))
    }

    /// A protection that Landlock has no right for, and that holds where nothing else is to be seen.
    fn unless_hidden(&self, protection: Protection, why: &'static str) -> Item {
        match self.policy.view {
            Some(_) => active(protection, "mount namespace"),
            None => unavailable(protection, why),
        }
    }

    /// The same protection with a second mechanism, where the Run has namespaces of its own.
    fn with_namespace(&self, item: Item, kind: &'static str) -> Item {
        match (&self.policy.view, item.state) {
            (Some(_), State::Active) if !item.mechanism.ends_with("namespace") => {
                Item { mechanism: format!("{} and {kind} namespace", item.mechanism).into(), ..item }
            }
            _ => item,
        }
    }

    fn process_list(&self) -> Item {
        match self.policy.view {
            Some(_) if View::own_proc(self.policy) => active(Protection::ProcessList, "a /proc of its own"),
            Some(_) => active(Protection::ProcessList, "Landlock, by a list of files, and process namespace"),
            // `getpgid` and its kin ask nobody for leave, and shells need them.
            None => Item {
                protection: Protection::ProcessList,
                state: State::Degraded,
                mechanism: "Landlock, by a list of files".into(),
                why: Some("whether a number is a process's can be asked (getpgid), and no more of it".into()),
            },
        }
    }

    fn loopback(&self) -> Item {
        match self.policy.network {
            Network::None if View::own_network(self.policy) => {
                active(Protection::LoopbackNeighbours, "network namespace")
            }
            Network::None => active(Protection::LoopbackNeighbours, "seccomp"),
            _ if self.policy.view.is_some() => unavailable(
                Protection::LoopbackNeighbours,
                "the Run asks for the network and so keeps the pod's, where a neighbour's server on a listed port can be \
                 reached",
            ),
            _ => unavailable(
                Protection::LoopbackNeighbours,
                "Landlock judges ports, not addresses: a neighbour's server on a listed port can be reached",
            ),
        }
    }

    fn tcp_ports(&self) -> Result<Item, Refusal> {
        match self.policy.network {
            Network::None if View::own_network(self.policy) => {
                Ok(active(Protection::TcpPorts, "network namespace"))
            }
            Network::None if self.support.landlock_abi() < PORTS => {
                Ok(active(Protection::TcpPorts, "seccomp"))
            }
            Network::None => Ok(active(Protection::TcpPorts, "seccomp and Landlock")),
            Network::Ports { .. } => self.landlock(Protection::TcpPorts, PORTS),
            Network::Full => Ok(Item {
                protection: Protection::TcpPorts,
                state: State::Disabled,
                mechanism: "none".into(),
                why: Some("the policy allows the whole network".into()),
            }),
        }
    }

    fn socket_kinds(&self) -> Item {
        let open = match self.policy.network {
            Network::Ports { udp_dns: true, .. } => "UDP is open to every port, for name resolution",
            Network::Full => "UDP is open, for the policy allows the whole network",
            _ => return active(Protection::SocketKinds, "seccomp"),
        };
        Item {
            protection: Protection::SocketKinds,
            state: State::Degraded,
            mechanism: "seccomp".into(),
            why: Some(open.into()),
        }
    }

    fn pathname_sockets(&self) -> Item {
        if self.support.landlock_abi() >= PATHNAME_SOCKETS {
            return active(Protection::PathnameUnixSockets, "Landlock");
        }
        self.unless_hidden(
            Protection::PathnameUnixSockets,
            "it needs Landlock ABI 9: an outside socket whose path is known can be connected to",
        )
    }

    fn watching(&self) -> Item {
        if !self.policy.watch {
            return active(Protection::FileWatching, "seccomp");
        }
        Item {
            protection: Protection::FileWatching,
            state: State::Degraded,
            mechanism: "seccomp".into(),
            why: Some("the policy allows inotify, which tells the names of neighbours' files".into()),
        }
    }
}

fn active(protection: Protection, mechanism: &'static str) -> Item {
    Item { protection, state: State::Active, mechanism: mechanism.into(), why: None }
}

fn unavailable(protection: Protection, why: impl Into<Cow<'static, str>>) -> Item {
    Item { protection, state: State::Unavailable, mechanism: "none".into(), why: Some(why.into()) }
}

fn lacking(protection: Protection, why: &str) -> Refusal {
    let reason = format!("the protection {protection} cannot be given here: {why}");
    Refusal { rule: rule(protection), protection: Some(protection), reason }
}

fn rule(protection: Protection) -> &'static str {
    match protection {
        Protection::Files => "support.files",
        Protection::Truncation => "support.truncation",
        Protection::DeviceIoctls => "support.device-ioctls",
        Protection::TcpPorts => "support.tcp-ports",
        Protection::Signals => "support.signals",
        Protection::AbstractUnixSockets => "support.abstract-unix-sockets",
        Protection::SystemCalls => "support.system-calls",
        _ => "support.other",
    }
}
