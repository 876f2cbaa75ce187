//! The forbidden things, each tried in its shortest form.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use runtimed_api::link::inside;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketType};
use rustix::process::{Pid, Resource};
use serde::{Deserialize, Serialize};

use super::scene::Words;

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    /// The name of the protection that stands against it.
    pub(super) protection: String,
    pub(super) attempt: String,
    /// Why it attacks nobody where the Run has namespaces of its own.
    pub(super) own: Option<String>,
    /// Why it failed; nothing if it succeeded.
    pub(super) error: Option<String>,
}

type Try = Box<dyn Fn() -> io::Result<()>>;

/// Makes every attempt, a line of JSON each.
pub(super) fn lines(words: &Words) -> String {
    let mut text = String::new();
    for (protection, attempt, act) in all(words) {
        let error = act().err().map(|error| error.to_string());
        let own = own(protection, &attempt).map(str::to_owned);
        let line = Line { protection: protection.to_owned(), attempt, own, error };
        // A line of texts is JSON whatever they hold.
        text += &serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
    }
    text
}

/// Reads what [`lines`] wrote.
pub(super) fn parse(said: &str) -> anyhow::Result<Vec<Line>> {
    let line = |line: &str| serde_json::from_str(line).with_context(|| format!("the probe said {line:?}"));
    said.lines().map(line).collect()
}

const LISTEN: &str = "listen on a port";
const UDP: &str = "open a UDP socket";
/// Paths that mean another directory where a Run has a view of its own.
const OWN: [&str; 3] = [inside::TMP, inside::HOME, inside::WORKSPACE];

/// Why an attempt attacks nobody from within namespaces; the test's Run has no network, so that its loopback is its own.
fn own(protection: &str, attempt: &str) -> Option<&'static str> {
    match (protection, attempt) {
        ("signals" | "other-processes", _) => Some("its number means another process there"),
        (_, LISTEN | UDP) => Some("the network is its own there"),
        // What is a neighbour's below it is tried as well, and has to fail.
        (_, attempt) if OWN.iter().any(|own| attempt.strip_prefix("list ") == Some(*own)) => {
            Some("the path leads to the Run's own directory there")
        }
        _ => None,
    }
}

fn all(words: &Words) -> Vec<(&'static str, String, Try)> {
    let mut all: Vec<(&'static str, String, Try)> = Vec::new();
    let mut add = |protection, attempt: String, act: Try| all.push((protection, attempt, act));
    let file = words.neighbour.join("file");
    let on = |what: &str, path: &Path| format!("{what} {}", path.display());
    let (at, to) = (file.clone(), words.neighbour.join("other"));
    add("files", on("read", &file), read(&file));
    add("files", on("list", &words.neighbour), list(&words.neighbour));
    add("files", on("write", &file), write(&file));
    add("files", on("create in", &words.neighbour), Box::new(move || File::create_new(&to).map(drop)));
    for root in &words.roots {
        add("files", on("list", root), list(root));
    }
    add("files", on("read", &words.state.join("file")), read(&words.state.join("file")));
    for secret in &words.secrets {
        add("files", on("read", secret), read(secret));
    }
    for name in ["environ", "mem", "maps"] {
        let path = PathBuf::from(format!("/proc/{}/{name}", words.daemon));
        add("files", on("read", &path), read(&path));
    }
    let place = Path::new("/etc/runtimed-selftest");
    add(
        "files",
        on("create", place),
        Box::new(move || File::create_new(place).and_then(|_| fs::remove_file(place))),
    );
    let path = file.clone();
    add("truncation", on("truncate", &file), Box::new(move || Ok(nix::unistd::truncate(&path, 0)?)));
    let mode = fs::Permissions::from_mode(0o600);
    add("file-metadata", on("chmod", &at), Box::new(move || fs::set_permissions(&at, mode.clone())));
    let port = words.port;
    let connect = move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop);
    add("tcp-ports", format!("connect to port {port} of loopback"), Box::new(connect));
    add("tcp-ports", LISTEN.to_owned(), Box::new(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop)));
    sockets(&mut add);
    let name = words.name.clone();
    let connect = move || UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name)?).map(drop);
    add("abstract-unix-sockets", "connect to the daemon's".to_owned(), Box::new(connect));
    let socket = words.neighbour.join("socket");
    add(
        "pathname-unix-sockets",
        on("connect to", &socket),
        Box::new(move || UnixStream::connect(&socket).map(drop)),
    );
    processes(words.daemon, &mut add);
    let watched = words.roots.clone();
    add(
        "file-watching",
        "inotify on the three directories".to_owned(),
        Box::new(move || Ok(watch(&watched)?)),
    );
    state(&mut add);
    system_calls(words.daemon, &mut add);
    all
}

fn read(path: &Path) -> Try {
    let path = path.to_owned();
    Box::new(move || File::open(&path).map(drop))
}

fn list(path: &Path) -> Try {
    let path = path.to_owned();
    Box::new(move || fs::read_dir(&path).map(drop))
}

fn write(path: &Path) -> Try {
    let path = path.to_owned();
    Box::new(move || OpenOptions::new().write(true).open(&path).map(drop))
}

fn watch(roots: &[PathBuf]) -> Result<(), Errno> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let queue = init(CreateFlags::CLOEXEC)?;
    roots.iter().try_for_each(|root| add_watch(&queue, root, WatchFlags::CREATE).map(drop))
}

fn sockets(add: &mut impl FnMut(&'static str, String, Try)) {
    // linux/in.h: IPPROTO_MPTCP, IPPROTO_ICMP; linux/netlink.h: NETLINK_KOBJECT_UEVENT.
    let kinds = [
        (UDP, AddressFamily::INET, SocketType::DGRAM, 0),
        ("open a raw socket", AddressFamily::INET, SocketType::RAW, 1),
        ("open a packet socket", AddressFamily::PACKET, SocketType::DGRAM, 0),
        ("open a vsock socket", AddressFamily::VSOCK, SocketType::STREAM, 0),
        ("open a uevent netlink socket", AddressFamily::NETLINK, SocketType::DGRAM, 15),
        ("open a MPTCP socket", AddressFamily::INET, SocketType::STREAM, 262),
    ];
    for (attempt, family, kind, protocol) in kinds {
        let act = move || {
            let protocol = RawProtocol::new(protocol).map(Protocol::from_raw);
            Ok(rustix::net::socket(family, kind, protocol).map(drop)?)
        };
        add("socket-kinds", attempt.to_owned(), Box::new(act));
    }
}

fn processes(daemon: i32, add: &mut impl FnMut(&'static str, String, Try)) {
    let pid = move || Pid::from_raw(daemon).ok_or(Errno::SRCH);
    add(
        "signals",
        "signal the daemon".to_owned(),
        Box::new(move || Ok(rustix::process::test_kill_process(pid()?)?)),
    );
    add(
        "other-processes",
        "set the daemon's limits".to_owned(),
        Box::new(move || {
            let same = rustix::process::getrlimit(Resource::Fsize);
            Ok(rustix::process::prlimit(Some(pid()?), Resource::Fsize, same).map(drop)?)
        }),
    );
    add(
        "other-processes",
        "set the daemon's priority".to_owned(),
        Box::new(move || Ok(rustix::process::setpriority_process(Some(pid()?), 0)?)),
    );
    add(
        "other-processes",
        "set the daemon's processors".to_owned(),
        Box::new(move || {
            let same = rustix::thread::sched_getaffinity(None)?;
            Ok(rustix::thread::sched_setaffinity(Some(pid()?), &same)?)
        }),
    );
}

/// What the process is itself: an attempt succeeds where it has what it should not.
fn state(add: &mut impl FnMut(&'static str, String, Try)) {
    let refuse = |refused: bool| if refused { Err(io::Error::other("it has none")) } else { Ok(()) };
    add(
        "no-new-privs",
        "be able to gain privileges by exec".to_owned(),
        Box::new(move || refuse(rustix::thread::no_new_privs()?)),
    );
    add(
        "capabilities",
        "have capabilities".to_owned(),
        Box::new(move || {
            let sets = rustix::thread::capabilities(None)?;
            refuse((sets.effective | sets.permitted | sets.inheritable).is_empty())
        }),
    );
    add(
        "core-dumps",
        "be able to dump core".to_owned(),
        Box::new(move || refuse(rustix::process::getrlimit(Resource::Core).maximum == Some(0))),
    );
}

fn system_calls(daemon: i32, add: &mut impl FnMut(&'static str, String, Try)) {
    add(
        "system-calls",
        "read the daemon's memory".to_owned(),
        Box::new(move || {
            let mut byte = [0];
            let mut local = [io::IoSliceMut::new(&mut byte)];
            let remote = [nix::sys::uio::RemoteIoVec { base: 0x1000, len: 1 }];
            match nix::sys::uio::process_vm_readv(nix::unistd::Pid::from_raw(daemon), &mut local, &remote) {
                // The address is not mapped, which only one who was let in gets to know.
                Ok(_) | Err(nix::Error::EFAULT) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
        }),
    );
    add(
        "system-calls",
        "mount a file system".to_owned(),
        Box::new(|| {
            let flags = rustix::mount::MountFlags::empty();
            Ok(rustix::mount::mount("none", "/tmp", "tmpfs", flags, None)?)
        }),
    );
    add("system-calls", "change the root".to_owned(), Box::new(|| Ok(rustix::process::chroot("/")?)));
    add(
        "system-calls",
        "change the personality".to_owned(),
        Box::new(|| {
            use nix::sys::personality;
            Ok(personality::set(personality::get()? | personality::Persona::ADDR_NO_RANDOMIZE).map(drop)?)
        }),
    );
    // Last: what follows would be done with the powers of a namespace.
    add(
        "system-calls",
        "make a user namespace".to_owned(),
        Box::new(|| Ok(unshare(CloneFlags::CLONE_NEWUSER)?)),
    );
}
