//! What is known and said: attacks that nothing unprivileged can make, attacks that a tier leaves open, and what a tier
//! lets a Run do because it is its own there.

/// Attacks that the kernel or the machine refuses an unprivileged process everywhere, and why. Inside they have to be
/// refused all the same.
pub(crate) fn refused_to_everybody(probe: &str) -> Option<&'static str> {
    find(&REFUSED_TO_EVERYBODY, probe)
}

/// Attacks that base leaves open, with the protection of the Enforcement report that says so.
pub(crate) fn open(probe: &str) -> Option<&'static str> {
    find(&OPEN, probe)
}

/// What is refused in base and is the Run's own in this tier, and so may succeed.
pub(crate) fn its_own(tier: &str, probe: &str) -> Option<&'static str> {
    match tier {
        "Namespaces" => find(&OWN_IN_NAMESPACES, probe),
        "Exclusive" => find(&OWN_IN_EXCLUSIVE, probe),
        _ => None,
    }
}

fn find(list: &[(&str, &'static str)], probe: &str) -> Option<&'static str> {
    let named =
        |name: &str| name == probe || name.strip_suffix('*').is_some_and(|start| probe.starts_with(start));
    list.iter().find(|(name, _)| named(name)).map(|(_, why)| *why)
}

const NO_CAPABILITY: &str = "it needs a capability over the whole machine";
const NOT_BUILT: &str = "the kernel was built without it";
const NOT_DUMPABLE: &str = "the daemon and its workers are not dumpable";

const REFUSED_TO_EVERYBODY: [(&str, &str); 45] = [
    ("memory-page-out", NO_CAPABILITY),
    ("scheduling-core", NOT_BUILT),
    ("socket-sctp", NOT_BUILT),
    ("socket-smc", NOT_BUILT),
    ("socket-vsock-datagram", "the machine's host offers none"),
    ("socket-alg", NOT_BUILT),
    ("socket-bluetooth", NOT_BUILT),
    ("socket-can", NOT_BUILT),
    ("socket-tipc", NOT_BUILT),
    ("socket-rds", NOT_BUILT),
    ("socket-kcm", NOT_BUILT),
    ("socket-qipcrtr", NOT_BUILT),
    ("socket-pppox", NOT_BUILT),
    ("socket-key", NOT_BUILT),
    ("netlink-crypto", NOT_BUILT),
    ("bpf-load", "kernel.unprivileged_bpf_disabled"),
    ("handle-open", "it needs CAP_DAC_READ_SEARCH over the whole machine"),
    ("module-load", NOT_BUILT),
    ("module-load-file", NOT_BUILT),
    ("module-unload", NOT_BUILT),
    ("kexec-load", NOT_BUILT),
    ("kexec-load-file", NOT_BUILT),
    ("swap-on", NO_CAPABILITY),
    ("swap-off", NO_CAPABILITY),
    ("clock-set-day", NO_CAPABILITY),
    ("clock-set", NO_CAPABILITY),
    ("accounting", NO_CAPABILITY),
    ("kernel-log", "kernel.dmesg_restrict"),
    ("vhangup", NO_CAPABILITY),
    ("dcookie", NOT_BUILT),
    ("port-permission", NOT_BUILT),
    ("port-level", NOT_BUILT),
    ("uselib", NOT_BUILT),
    ("ptracer", "the kernel has no Yama, whose call it is"),
    ("x32", NOT_BUILT),
    ("device-kmsg", "kernel.dmesg_restrict"),
    ("device-tun", "the device is root's"),
    ("device-mqueue", "it is not mounted here"),
    ("daemon-environ", NOT_DUMPABLE),
    ("daemon-mem", NOT_DUMPABLE),
    ("daemon-fd-list", NOT_DUMPABLE),
    ("daemon-trace", NOT_DUMPABLE),
    ("daemon-descriptor", NOT_DUMPABLE),
    ("supervisor-mem", NOT_DUMPABLE),
    ("setuid-program", "only root can install one"),
];

const OPEN: [(&str, &str); 6] = [
    ("process-exists", "process-list"),
    ("metadata-*", "file-metadata"),
    ("neighbour-lock", "file-metadata"),
    ("unix-path-connect*", "pathname-unix-sockets"),
    ("neighbour-socket", "pathname-unix-sockets"),
    ("ports-listed-neighbour", "loopback-neighbours"),
];

const OWN_NETWORK: &str = "a network of its own, with nothing in it but a loopback";
const MACHINE: &str = "settings and counters of the machine, which name nobody";

const OWN_IN_NAMESPACES: [(&str, &str); 23] = [
    ("file-list-tmp", "its own `/tmp`"),
    ("file-make-in-tmp", "its own `/tmp`"),
    ("file-make-in-shm", "its own `/dev/shm`"),
    ("device-shm", "its own `/dev/shm`"),
    ("proc-list", "its own processes"),
    ("proc-net-*", "its own network"),
    ("proc-self-*", "its own process and view"),
    ("proc-locks", "locks of its own processes"),
    ("proc-sysvipc", "an IPC namespace of its own, in which nothing is"),
    ("proc-hostname", "a host name of its own"),
    ("proc-sys", MACHINE),
    ("proc-pressure", MACHINE),
    ("tcp-bind", OWN_NETWORK),
    ("tcp-listen-unbound", OWN_NETWORK),
    ("udp-connect", OWN_NETWORK),
    ("socket-tcp", OWN_NETWORK),
    ("socket-tcp-6", OWN_NETWORK),
    ("socket-udp", OWN_NETWORK),
    ("socket-udp-6", OWN_NETWORK),
    ("socket-udplite", OWN_NETWORK),
    ("socket-mptcp", OWN_NETWORK),
    ("root-*", "its own directories, where a pod's roots have the same paths"),
    ("file-list-root", "a root of its own, with what was granted"),
];
const OWN_IN_EXCLUSIVE: [(&str, &str); 3] = [
    ("file-list-tmp", "the pod's `/tmp` is the Run's"),
    ("file-make-in-tmp", "the pod's `/tmp` is the Run's"),
    ("root-*", "the pod's roots are the Run's"),
];
