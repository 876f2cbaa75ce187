//! What each protection needs from the kernel, and what becomes of it here.

use std::borrow::Cow;

use super::Refusal;
use crate::enforcement::{Item, Protection, State};
use crate::policy::{Extent, Network, Policy, Profile};
use crate::support::Support;

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
        unavailable(
            Protection::FileMetadata,
            "Landlock does not judge chmod, utimes, setxattr and stat: of a known path of this uid they work",
        ),
        judge.tcp_ports()?,
        judge.socket_kinds(),
        unavailable(
            Protection::LoopbackNeighbours,
            "Landlock judges ports, not addresses: a neighbour's server on a listed port can be reached",
        ),
        judge.landlock(Protection::Signals, SCOPES)?,
        judge.landlock(Protection::AbstractUnixSockets, SCOPES)?,
        judge.pathname_sockets(),
        active(Protection::SystemCalls, "seccomp"),
        active(Protection::OtherProcesses, "seccomp"),
        active(Protection::SystemVIpc, "seccomp"),
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
        if !self.may_be_missing(protection) {
            return Err(lacking(protection, &why));
        }
        Ok(unavailable(protection, why))
    }

    fn may_be_missing(&self, protection: Protection) -> bool {
        let given_up = self.policy.profile == Profile::Compatible && GIVEN_UP.contains(&protection);
        !NEVER.contains(&protection) && (given_up || self.policy.may_degrade.contains(&protection))
    }

    fn tcp_ports(&self) -> Result<Item, Refusal> {
        match self.policy.network {
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
        unavailable(
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
