//! A Run's own view of the machine: a root that holds what the policy grants and nothing else, made in namespaces of its
//! own.
//!
//! What cannot be seen cannot be stat'ed, chmodded, watched or connected to: the view closes what Landlock has no right
//! for. Landlock and the system call filter hold in it as they do without it, for rules are bound to files, not to paths.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;

use crate::plan::Refusal;
use crate::policy::{Network, Policy};
use crate::sys::{self, Bind, Node};

/// What a Run sees, beyond what its policy lets it read and execute, which it sees under the same paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its own directories.
    pub shown: Vec<Shown>,
    /// Whether the kernel lets a process of this user namespace mount a `/proc`; without it the pod's is shown, and is
    /// closed but for what the policy lists.
    pub own_proc: bool,
}

/// A directory that is shown elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Where the Run finds it.
    pub inside: PathBuf,
    /// Where it is.
    pub outside: PathBuf,
}

impl View {
    /// Whether a policy's Run gets a network namespace of its own: then nothing is in it but a loopback.
    pub(crate) fn own_network(policy: &Policy) -> bool {
        policy.view.is_some() && policy.network == Network::None
    }

    /// Whether it gets a `/proc` of its own. Where the network is the pod's, `/proc/self/net` would tell the neighbours'
    /// sockets, so there the pod's `/proc` stays, closed but for the list.
    pub(crate) fn own_proc(policy: &Policy) -> bool {
        policy.view.as_ref().is_some_and(|view| view.own_proc) && Self::own_network(policy)
    }
}

/// Files of an own `/proc` that tell about the uid, which is everybody's, and about the machine: a kernel's command line has
/// been seen to hold credentials.
const COVERED: [&str; 5] =
    ["/proc/keys", "/proc/key-users", "/proc/cmdline", "/proc/diskstats", "/proc/kallsyms"];
/// What they are covered with; Landlock opens it only if the policy lists it.
const NULL: &str = "/dev/null";
/// What programs expect in `/dev` beside devices.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Looks up what a policy's view is made of.
pub(crate) fn prepare(policy: &Policy, view: &View) -> Result<sys::View, Refusal> {
    let mut root = Root::default();
    for shown in &view.shown {
        root.bind(&shown.outside, &shown.inside, sys::NO_SETUID | sys::NO_DEVICES)?;
    }
    let kept = sys::READ_ONLY | sys::NO_SETUID | sys::NO_DEVICES;
    let mut granted: Vec<&PathBuf> = policy.read.iter().chain(&policy.execute).collect();
    // What lies in another grant is shown with it.
    granted.sort_unstable();
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let directories: Vec<&Path> =
        granted.iter().map(|path| path.as_path()).filter(|path| real(path) == *path).collect();
    for path in &granted {
        if view.shown.iter().any(|shown| shown.outside == **path) || root.shows(path) {
            continue;
        }
        if view.shown.iter().any(|shown| path.starts_with(&shown.inside) || shown.inside.starts_with(path)) {
            let why = format!("the grant {} is where the Run has its own directories", path.display());
            return Err(Refusal::new("grant.covered", why));
        }
        let target = real(path);
        let inside_another = directories.iter().any(|other| target.starts_with(other));
        match std::fs::read_link(path) {
            Ok(text) if inside_another => root.node(path, Node::Link(string(&text)?))?,
            _ => root.bind(&target, path, kept)?,
        }
    }
    let null = Path::new(NULL);
    let always = (!policy.devices.iter().any(|device| device == null)).then_some(null);
    for device in policy.devices.iter().map(PathBuf::as_path).chain(always) {
        root.bind(device, device, sys::READ_ONLY | sys::NO_SETUID)?;
    }
    for (link, text) in DEVICE_LINKS {
        root.node(Path::new(link), Node::Link(string(Path::new(text))?))?;
    }
    let proc = if View::own_proc(policy) {
        root.node(Path::new("/proc"), Node::Directory)?;
        let there = COVERED.iter().map(Path::new).filter(|path| path.exists());
        Some(there.map(string).collect::<Result<_, _>>()?)
    } else {
        root.bind(Path::new("/proc"), Path::new("/proc"), kept)?;
        None
    };
    root.ready(proc, View::own_network(policy))
}

/// The new root as it grows.
#[derive(Debug, Default)]
struct Root {
    /// Sorted, so that parents come first.
    nodes: BTreeMap<PathBuf, Node>,
    binds: Vec<(PathBuf, Bind)>,
}

impl Root {
    /// Whether this path is beneath something that is shown already.
    fn shows(&self, path: &Path) -> bool {
        self.binds.iter().any(|(shown, _)| path.starts_with(shown))
    }

    fn node(&mut self, path: &Path, node: Node) -> Result<(), Refusal> {
        for parent in path.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            self.nodes.entry(parent.to_owned()).or_insert(Node::Directory);
        }
        match self.nodes.insert(path.to_owned(), node) {
            None | Some(Node::Directory) => Ok(()),
            Some(_) => {
                let why = format!("{} would be shown twice in the Run's own view", path.display());
                Err(Refusal::new("grant.covered", why))
            }
        }
    }

    fn bind(&mut self, source: &Path, target: &Path, attributes: u64) -> Result<(), Refusal> {
        let missing = |error: std::io::Error| {
            let why = format!("the granted path {} cannot be shown: {error}", source.display());
            Refusal::new("grant.missing", why)
        };
        let is_dir = std::fs::symlink_metadata(source).map_err(missing)?.is_dir();
        self.node(target, if is_dir { Node::Directory } else { Node::File })?;
        let bind = Bind { source: string(source)?, target: string(target)?, attributes };
        self.binds.push((target.to_owned(), bind));
        Ok(())
    }

    fn ready(self, proc: Option<Vec<CString>>, network: bool) -> Result<sys::View, Refusal> {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (path, node) in self.nodes {
            nodes.push((string(&path)?, node));
        }
        let mut binds = self.binds;
        // Parents first here too: a shown may lie in another.
        binds.sort_by(|(one, _), (other, _)| one.cmp(other));
        let sources = binds.iter().map(|_| AtomicI32::new(-1)).collect();
        let binds = binds.into_iter().map(|(_, bind)| bind).collect();
        Ok(sys::View { nodes, binds, sources, proc, network })
    }
}

fn string(path: &Path) -> Result<CString, Refusal> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Refusal::new("grant.not-absolute", format!("{} holds a NUL byte", path.display())))
}
