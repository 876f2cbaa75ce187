//! What the pod's cgroup allows, read from `/sys/fs/cgroup` (cgroups(7)): the least of every level that can be seen.

use std::fs;
use std::path::{Path, PathBuf};

/// More than this is no limit: version 1 writes the largest number of pages for "none".
const NONE: u64 = 1 << 60;

/// Limits of the daemon's own cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CgroupLimits {
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// Processes and threads.
    pub(super) processes: Option<u64>,
}

/// The limits of the cgroup that this process is in.
pub(super) fn limits() -> CgroupLimits {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    read(Path::new("/sys/fs/cgroup"), &own)
}

fn read(mount: &Path, own: &str) -> CgroupLimits {
    let least = |controller: &str, v1: &str, v2: &str| {
        let files = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            if controllers.is_empty() {
                Some((mount.to_owned(), path, v2))
            } else if controllers.split(',').any(|one| one == controller) {
                Some((mount.join(controller), path, v1))
            } else {
                None
            }
        });
        files.flat_map(|(top, path, file)| levels(&top, path, file)).min()
    };
    CgroupLimits {
        memory: least("memory", "memory.limit_in_bytes", "memory.max"),
        processes: least("pids", "pids.max", "pids.max"),
    }
}

/// The limit at each level from the top down to `path`. In a container the top is its own cgroup, and `path` may lead
/// nowhere.
fn levels(top: &Path, path: &str, file: &str) -> Vec<u64> {
    let below = Path::new(path.trim_start_matches('/'));
    let dirs: Vec<PathBuf> = below.ancestors().map(|dir| top.join(dir)).collect();
    let limit = |dir: &PathBuf| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    dirs.iter().filter_map(limit).filter(|limit| *limit < NONE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(top: &Path, path: &str, text: &str) {
        let file = top.join(path);
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(file, text).expect("written");
    }

    #[test]
    fn the_least_of_all_levels_counts_in_both_versions() {
        let top = tempfile::tempdir().expect("a directory");
        let top = top.path();
        write(top, "memory.max", "max\n");
        write(top, "pod/memory.max", "1000000\n");
        write(top, "pod/box/memory.max", "2000000\n");
        write(top, "pod/box/pids.max", "77\n");
        let found = read(top, "0::/pod/box\n");
        assert_eq!(found, CgroupLimits { memory: Some(1_000_000), processes: Some(77) });
        write(top, "memory/memory.limit_in_bytes", "9223372036854771712\n");
        write(top, "memory/job/memory.limit_in_bytes", "5000\n");
        let found = read(top, "4:memory:/job\n8:pids:/\n0::/\n");
        assert_eq!(found, CgroupLimits { memory: Some(5000), processes: None });
        assert_eq!(read(top, ""), CgroupLimits::default());
    }
}
