//! Namespaces and mounts: another view of the machine in which the rules made for this one would not hold.

use super::{Rule, Test, always, when};

/// `CLONE_NEWNS`, `CGROUP`, `UTS`, `IPC`, `USER`, `PID` and `NET`.
const NAMESPACES: u32 = 0x7e02_0000;

pub(super) const RULES: &[Rule] = &[
    when(
        "clone",
        56,
        220,
        &[&[Test::Any(0, NAMESPACES)]],
        "a user namespace gives back capabilities, and the others follow",
    ),
    always("unshare", 272, 97, "the namespaces of clone, for the caller itself"),
    always("setns", 308, 268, "enters another process's namespaces"),
    always("mount", 165, 40, "covers or reveals paths that rules are attached to"),
    always("umount2", 166, 39, "reveals what a mount covers"),
    always("pivot_root", 155, 41, "exchanges the root"),
    always("chroot", 161, 51, "changes what absolute paths mean"),
    always("open_tree", 428, 428, "clones mounts"),
    always("open_tree_attr", 467, 467, "clones mounts with other attributes"),
    always("move_mount", 429, 429, "attaches mounts"),
    always("fsopen", 430, 430, "makes a file system"),
    always("fsconfig", 431, 431, "configures a file system"),
    always("fsmount", 432, 432, "mounts a file system"),
    always("fspick", 433, 433, "reconfigures a file system"),
    always("mount_setattr", 442, 442, "makes read-only mounts writable"),
    always("statmount", 457, 457, "tells where the pod's secrets and volumes are mounted"),
    always("listmount", 458, 458, "tells what the pod has mounted"),
    always("sethostname", 170, 161, "renames the machine for everybody"),
    always("setdomainname", 171, 162, "renames the machine's domain for everybody"),
];
