//! Making a view of the machine: mounts in namespaces of the caller's own.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::checked;

/// A view of the machine, ready to be made by a child in namespaces of its own: nothing is looked up or allocated any
/// more but what the kernel keeps for itself.
#[derive(Debug)]
pub(crate) struct View {
    /// What is made in the new root, parents first.
    pub(crate) nodes: Vec<(CString, Node)>,
    pub(crate) binds: Vec<Bind>,
    /// Room for a descriptor of each bind's source.
    pub(crate) sources: Vec<std::sync::atomic::AtomicI32>,
    /// Mount a `/proc` of the own process namespace, cover these files in it, and let the ruleset read it.
    pub(crate) proc: Option<Vec<CString>>,
    /// The network namespace is its own as well.
    pub(crate) network: bool,
}

/// What stands at a path of the new root.
#[derive(Debug)]
pub(crate) enum Node {
    Directory,
    /// Something to mount a file on.
    File,
    Link(CString),
}

/// A part of the old root that is shown in the new one, with every mount that lies in it.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: CString,
    pub(crate) target: CString,
    /// `MOUNT_ATTR_*` that are added.
    pub(crate) attributes: u64,
}

/// `MOUNT_ATTR_*` of linux/mount.h.
pub(crate) const READ_ONLY: u64 = 1;
pub(crate) const NO_SETUID: u64 = 2;
pub(crate) const NO_DEVICES: u64 = 4;

impl View {
    /// The namespaces that a child has to be made with.
    pub(crate) fn namespaces(&self) -> libc::c_int {
        let network = if self.network { libc::CLONE_NEWNET } else { 0 };
        libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network
    }
}

/// Makes the view and enters it. The caller is alone in its mount namespace, and holds `CAP_SYS_ADMIN`, `CAP_SYS_CHROOT`
/// and `CAP_NET_ADMIN` in the user namespace that owns it.
///
/// Async-signal-safe.
pub(crate) fn enter(view: &View, ruleset: Option<&OwnedFd>) -> Result<(), Errno> {
    // What is mounted outside from here on stays outside.
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for (bind, source) in view.binds.iter().zip(&view.sources) {
        source.store(clone(bind)?, std::sync::atomic::Ordering::Relaxed);
    }
    let kept = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(c"tmpfs", BASE, c"tmpfs", kept, c"mode=0755")?;
    let old_root = leave_root()?;
    for (path, node) in &view.nodes {
        make(path, node)?;
    }
    for (bind, source) in view.binds.iter().zip(&view.sources) {
        // SAFETY: `clone` has stored the number of a descriptor that it left open, which nothing closes before `execve`.
        let source = unsafe { BorrowedFd::borrow_raw(source.load(std::sync::atomic::Ordering::Relaxed)) };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(source, c"", CWD, &*bind.target, flags)?;
    }
    if let Some(covered) = &view.proc {
        own_proc(covered, ruleset)?;
    }
    // Only now: a `/proc` may be mounted where another one is (user_namespaces(7)).
    if old_root == OldRoot::OnTop {
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    }
    // Nothing is granted in the new root itself; this keeps its modes as well.
    set_attributes(CWD, c"/", 0, READ_ONLY)?;
    if view.network { loopback_up() } else { Ok(()) }
}

/// Where the root is that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OldRoot {
    /// Mounted, and out of reach.
    Behind,
    /// Mounted over the new one, until it is detached.
    OnTop,
}

/// Makes what is mounted at [`BASE`] the root, and goes there.
///
/// By `chroot` where that may be: the old root is left mounted and becomes unreachable, for detaching it waits for every
/// processor of the machine (`synchronize_rcu`), a millisecond and more when it is busy. Leaving a `chroot` takes a
/// capability, or a directory from outside, and the child keeps neither; a process in one cannot make user namespaces at
/// all (user_namespaces(7)). The filters of containers refuse it to who has no capability outside, and allow `pivot_root`
/// (pivot_root(2), "`.`" twice).
fn leave_root() -> Result<OldRoot, Errno> {
    rustix::process::chdir(BASE)?;
    let old_root = match rustix::process::chroot(c".") {
        Ok(()) => OldRoot::Behind,
        Err(Errno::PERM) => {
            rustix::process::pivot_root(c".", c".")?;
            OldRoot::OnTop
        }
        Err(errno) => return Err(errno),
    };
    rustix::process::chdir(c"/")?;
    Ok(old_root)
}

/// A directory that every image has. The new root covers it while it is made, which nobody else sees; what is shown of it
/// was copied before.
const BASE: &CStr = c"/proc";

/// A detached copy of a bind's source, left open under the number that is returned. A link in the place of the last
/// component is not followed: it could only have been put there by who must not choose what is shown.
fn clone(bind: &Bind) -> Result<i32, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = rustix::mount::open_tree(CWD, &*bind.source, flags)?;
    set_attributes(
        std::os::fd::AsFd::as_fd(&tree),
        c"",
        libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
        bind.attributes,
    )?;
    Ok(std::os::fd::IntoRawFd::into_raw_fd(tree))
}

fn make(path: &CStr, node: &Node) -> Result<(), Errno> {
    match node {
        Node::Directory => rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)),
        Node::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::from_raw_mode(0o444)).map(drop)
        }
        Node::Link(text) => rustix::fs::symlink(&**text, path),
    }
}

/// Mounts a `/proc` that shows the processes of the own namespace, of these only those that the viewer could trace, and
/// lets the Landlock ruleset read it.
///
/// `hidepid=ptraceable` hides the supervisor: its mounts are the pod's (proc(5)).
fn own_proc(covered: &[CString], ruleset: Option<&OwnedFd>) -> Result<(), Errno> {
    let kept = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"proc", c"/proc", c"proc", kept, c"hidepid=ptraceable")?;
    for path in covered {
        rustix::mount::mount_bind(c"/dev/null", &**path)?;
    }
    let Some(ruleset) = ruleset else { return Ok(()) };
    let proc = rustix::fs::open(c"/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let rule = PathBeneath { allowed: READ_FILE | READ_DIR, parent: proc.as_raw_fd() };
    // SAFETY: the ruleset is one that the caller owns, and the kernel reads one structure that outlives the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            std::ptr::from_ref(&rule),
            0,
        )
    })
}

/// `struct landlock_path_beneath_attr` and its numbers, of linux/landlock.h.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}
const RULE_PATH_BENEATH: libc::c_int = 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn set_attributes(at: BorrowedFd<'_>, path: &CStr, flags: libc::c_int, set: u64) -> Result<(), Errno> {
    let attributes = MountAttr { set, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the kernel reads a NUL-terminated path and one structure of the size that is given; both outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size_of::<MountAttr>(),
        )
    })
}

/// Brings up `lo`, the one interface of a new network namespace (netdevice(7)).
fn loopback_up() -> Result<(), Errno> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero bytes are valid for this structure of integers and arrays.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: the kernel reads one `ifreq` that outlives the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            std::ptr::from_mut(&mut request),
        )
    })
}
