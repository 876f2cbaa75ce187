//! The two system call filters that a pod may find itself under.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::binaries;

/// Whether an unprivileged process may make user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// Podman's own filter, which allows them; a pod with `hostUsers: false` has them as well.
    UserNamespaces,
    /// A kubelet's `RuntimeDefault`, which refuses every way to a namespace and every mount.
    RuntimeDefault,
}

/// The filter that podman brings.
const PODMANS: &str = "/usr/share/containers/seccomp.json";

/// What containerd's default filter does not allow without capabilities, and podman's does: namespaces, mounts, keyrings.
const NOT_ALLOWED: [&str; 20] = [
    "add_key",
    "clone",
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "request_key",
    "setns",
    "umount",
    "umount2",
    "unshare",
    "userfaultfd",
    "vmsplice",
];

/// `CLONE_NEWNS`, `CGROUP`, `UTS`, `IPC`, `USER`, `PID` and `NET`.
const NAMESPACES: u32 = 0x7e02_0000;
const ENOSYS: u32 = 38;

impl World {
    /// Both.
    pub const ALL: [Self; 2] = [Self::UserNamespaces, Self::RuntimeDefault];

    /// A word for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UserNamespaces => "user-namespaces",
            Self::RuntimeDefault => "runtime-default",
        }
    }

    /// The file that podman reads the filter from.
    #[must_use]
    pub fn profile(self) -> PathBuf {
        match self {
            Self::UserNamespaces => PODMANS.into(),
            Self::RuntimeDefault => kept("runtime-default.json", &runtime_default()),
        }
    }
}

fn runtime_default() -> String {
    let text = fs::read_to_string(PODMANS).expect("podman's own filter");
    let mut profile: Value = serde_json::from_str(&text).expect("it is JSON");
    let rules = profile["syscalls"].as_array_mut().expect("a list of rules");
    for rule in rules.iter_mut() {
        let names = rule["names"].as_array_mut().expect("a list of names");
        names.retain(|name| !NOT_ALLOWED.iter().any(|refused| name == refused));
    }
    rules.retain(|rule| rule["names"].as_array().is_some_and(|names| !names.is_empty()));
    rules.push(json!({
        "names": ["clone"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }],
    }));
    // A C library takes this for an old kernel, and uses clone.
    rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    profile.to_string()
}

/// Podman's configuration: runc, for crun refuses the older control groups; and no limit above this process's own, for
/// raising one needs a capability that not every machine gives to root.
pub(super) fn configuration() -> PathBuf {
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    let pids = fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok());
    let processes = getrlimit(Resource::Nproc).maximum.unwrap_or(u64::MAX).min(pids.unwrap_or(1 << 15));
    let text = format!(
        "[containers]\ndefault_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n"
    );
    kept("containers.conf", &text)
}

/// A file beside the binaries with this text. Several tests write it at once, always whole.
fn kept(name: &str, text: &str) -> PathBuf {
    let dir = binaries::dir().join("containers");
    let path = dir.join(name);
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return path;
    }
    fs::create_dir_all(&dir).expect("made");
    write_whole(&dir, &path, text);
    path
}

fn write_whole(dir: &Path, path: &Path, text: &str) {
    let mut file = tempfile::NamedTempFile::new_in(dir).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file.persist(path).expect("renamed");
}
