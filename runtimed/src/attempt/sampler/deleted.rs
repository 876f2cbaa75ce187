//! Files that have no name any more and are held open: they take room until the last descriptor is closed.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use runtimed_sandbox::process::Pid;

/// Descriptors that a look goes through: some 30 ms of it.
const MAX_DESCRIPTORS: usize = 20_000;

/// Allocated bytes of such files on these devices, by device, each file once. A process that made itself unreadable
/// (prctl(2), `PR_SET_DUMPABLE`) is passed over, and so is what is only mapped.
pub(super) fn held(processes: &[Pid], devices: &[u64]) -> BTreeMap<u64, u64> {
    let mut seen = HashSet::new();
    let mut held = BTreeMap::new();
    let of =
        |pid: &Pid| fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())).into_iter().flatten().flatten();
    for descriptor in processes.iter().flat_map(of).take(MAX_DESCRIPTORS) {
        // The link leads to the open file itself, whatever has its name now (proc(5)).
        let Ok(file) = fs::metadata(descriptor.path()) else { continue };
        if file.is_file()
            && file.nlink() == 0
            && devices.contains(&file.dev())
            && seen.insert((file.dev(), file.ino()))
        {
            *held.entry(file.dev()).or_default() += file.blocks().saturating_mul(512);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn only_a_file_without_a_name_is_held_and_only_once() {
        let mut file = tempfile::tempfile().expect("a file without a name");
        file.write_all(&[1; 1 << 20]).expect("written");
        let again = file.try_clone().expect("a second descriptor");
        let named = tempfile::NamedTempFile::new().expect("a file with one");
        named.as_file().write_all(&[1; 1 << 20]).expect("written");
        let device = file.metadata().expect("its metadata").dev();
        let own = rustix::process::getpid();
        let bytes = held(&[own, own], &[device]).get(&device).copied().unwrap_or(0);
        // Other tests of this process may hold small ones.
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(held(&[own], &[device + 1]).is_empty());
        drop((file, again, named));
    }
}
