//! The system call filter, as data: one table a family, a reason beside each entry, numbers for both architectures.
//!
//! Everything that is not named is allowed. What is named is refused with `EPERM`, always or for some arguments, but for
//! `clone3`, which answers `ENOSYS` so that C libraries fall back to `clone`, whose flags a filter can read. A foreign
//! architecture or an x32 number ends the process. `memfd_create` is left open on purpose: ordinary programs need it, and
//! what it makes is charged to the process that makes it.

mod compile;
mod devices;
mod ipc;
mod kernel;
mod others;
mod sockets;
mod spaces;
mod watch;

pub(crate) use self::compile::compile;
use crate::policy::{Network, Policy};
use crate::view::View;

/// One refused system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) x86_64: Option<u32>,
    pub(crate) aarch64: Option<u32>,
    pub(crate) refuse: Refuse,
    /// What an attacker of the same uid would do with it.
    pub(crate) reason: &'static str,
}

/// When a call is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refuse {
    Always,
    /// When all tests of any one of these hold.
    When(&'static [&'static [Test]]),
}

/// A test of one argument's low 32 bits: most arguments in question are of that width, and the kernel ignores the rest of the
/// register.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Test {
    Is(u8, u32),
    Not(u8, u32),
    /// At least one of these bits is set.
    Any(u8, u32),
    /// A bit above the low 32 is set: of a pointer, the whole of which counts.
    Above(u8),
}

const fn always(name: &'static str, x86_64: u32, aarch64: u32, reason: &'static str) -> Rule {
    Rule { name, x86_64: Some(x86_64), aarch64: Some(aarch64), refuse: Refuse::Always, reason }
}

/// A call that 64-bit Arm never had.
const fn only_x86(name: &'static str, x86_64: u32, reason: &'static str) -> Rule {
    Rule { name, x86_64: Some(x86_64), aarch64: None, refuse: Refuse::Always, reason }
}

const fn when(
    name: &'static str,
    x86_64: u32,
    aarch64: u32,
    cases: &'static [&'static [Test]],
    reason: &'static str,
) -> Rule {
    Rule { name, x86_64: Some(x86_64), aarch64: Some(aarch64), refuse: Refuse::When(cases), reason }
}

/// The rules that a policy asks for.
pub(crate) fn rules(policy: &Policy) -> Vec<Rule> {
    let mut families = vec![spaces::RULES, kernel::RULES, others::RULES, ipc::RULES, devices::RULES];
    families.push(if policy.watch { watch::FANOTIFY } else { watch::RULES });
    families.extend_from_slice(match &policy.network {
        // What is sent there stays there; domains and protocols beyond TCP and UDP stay closed all the same.
        Network::None if View::own_network(policy) => &[sockets::TCP_AND_UDP],
        Network::None => &[sockets::LOCAL_ONLY, sockets::FAST_OPEN],
        Network::Ports { udp_dns: false, .. } => &[sockets::TCP, sockets::FAST_OPEN],
        Network::Ports { udp_dns: true, .. } => &[sockets::TCP_AND_UDP, sockets::FAST_OPEN],
        Network::Full => &[sockets::INTERNET],
    });
    families.concat()
}

#[cfg(test)]
mod tests;
