//! Socket kinds. Landlock judges TCP ports and nothing else, so every other way to the network is closed here: by
//! domain, type and protocol, which are all in registers.

use super::Test::{Any, Is, Not};
use super::{Rule, Test, when};

const UNIX: u32 = 1;
const INET: u32 = 2;
const INET6: u32 = 10;
const NETLINK: u32 = 16;

const STREAM: u32 = 1;
const DGRAM: u32 = 2;
/// `SOCK_NONBLOCK` and `SOCK_CLOEXEC`, which the type may carry on every architecture that there is a table for.
const NONBLOCK: u32 = 0x800;
const CLOEXEC: u32 = 0x8_0000;

const TCP_PROTOCOL: u32 = 6;
const UDP_PROTOCOL: u32 = 17;

/// `NETLINK_ROUTE` is 0: what lists interfaces and addresses. The others reach audit, netfilter, uevents and more.
const OTHER_NETLINK: &[Test] = &[Is(0, NETLINK), Not(2, 0)];
const UNKNOWN_DOMAIN: &[Test] = &[Not(0, UNIX), Not(0, INET), Not(0, INET6), Not(0, NETLINK)];

const NOT_STREAM: [Test; 4] = [
    Not(1, STREAM),
    Not(1, STREAM | NONBLOCK),
    Not(1, STREAM | CLOEXEC),
    Not(1, STREAM | NONBLOCK | CLOEXEC),
];
const NOT_DGRAM: [Test; 4] =
    [Not(1, DGRAM), Not(1, DGRAM | NONBLOCK), Not(1, DGRAM | CLOEXEC), Not(1, DGRAM | NONBLOCK | CLOEXEC)];

/// Tests of a domain that is not a stream.
const fn other_than_stream(domain: u32) -> [Test; 5] {
    let [a, b, c, d] = NOT_STREAM;
    [Is(0, domain), a, b, c, d]
}

/// Tests of a domain that is neither a stream nor a datagram socket.
const fn other_than_stream_or_dgram(domain: u32) -> [Test; 9] {
    let [a, b, c, d] = NOT_STREAM;
    let [e, f, g, h] = NOT_DGRAM;
    [Is(0, domain), a, b, c, d, e, f, g, h]
}

const PAIRS: Rule =
    when("socketpair", 53, 199, &[&[Not(0, UNIX)]], "pairs exist in other domains, which are closed");

/// No network: sockets of the Run's own, and the list of interfaces.
pub(super) const LOCAL_ONLY: &[Rule] = &[
    when(
        "socket",
        41,
        198,
        &[&[Not(0, UNIX), Not(0, NETLINK)], OTHER_NETLINK],
        "every domain but unix and route netlink leads to the network or into the kernel",
    ),
    PAIRS,
];

/// TCP, whose ports Landlock judges.
pub(super) const TCP: &[Rule] = &[
    when(
        "socket",
        41,
        198,
        &[
            UNKNOWN_DOMAIN,
            OTHER_NETLINK,
            &other_than_stream(INET),
            &other_than_stream(INET6),
            &[Is(0, INET), Not(2, 0), Not(2, TCP_PROTOCOL)],
            &[Is(0, INET6), Not(2, 0), Not(2, TCP_PROTOCOL)],
        ],
        "UDP, raw, packet, vsock, SCTP, SMC and MPTCP (262) have no port that Landlock judges",
    ),
    PAIRS,
];

/// TCP, and UDP for name resolution, to every port.
pub(super) const TCP_AND_UDP: &[Rule] = &[
    when(
        "socket",
        41,
        198,
        &[
            UNKNOWN_DOMAIN,
            OTHER_NETLINK,
            &other_than_stream_or_dgram(INET),
            &other_than_stream_or_dgram(INET6),
            &[Is(0, INET), Not(2, 0), Not(2, TCP_PROTOCOL), Not(2, UDP_PROTOCOL)],
            &[Is(0, INET6), Not(2, 0), Not(2, TCP_PROTOCOL), Not(2, UDP_PROTOCOL)],
        ],
        "raw, packet, vsock, SCTP, SMC, MPTCP (262) and ping sockets have no port that Landlock judges",
    ),
    PAIRS,
];

/// Any TCP and UDP; still no raw sockets and no other domain.
pub(super) const INTERNET: &[Rule] = &[
    when(
        "socket",
        41,
        198,
        &[
            UNKNOWN_DOMAIN,
            OTHER_NETLINK,
            &other_than_stream_or_dgram(INET),
            &other_than_stream_or_dgram(INET6),
        ],
        "raw, packet and vsock sockets reach past the machine's network, or to its host",
    ),
    PAIRS,
];

/// `MSG_FASTOPEN` connects while it sends, and no rule for connecting is asked.
pub(super) const FAST_OPEN: &[Rule] = &[
    when("sendto", 44, 206, &[&[Any(3, 0x2000_0000)]], "TCP Fast Open connects to a port that is not listed"),
    when(
        "sendmsg",
        46,
        211,
        &[&[Any(2, 0x2000_0000)]],
        "TCP Fast Open connects to a port that is not listed",
    ),
    when(
        "sendmmsg",
        307,
        269,
        &[&[Any(3, 0x2000_0000)]],
        "TCP Fast Open connects to a port that is not listed",
    ),
];
