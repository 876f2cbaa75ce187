//! Marks that two attempts of one Run cannot hold at once: locks, which the kernel gives back when the last process of an
//! attempt is dead.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

/// What a command prints, and its exit code is then [`OVERLAP_CODE`], when another attempt of its Run goes on.
pub const OVERLAP: &str = "another attempt goes on";
/// No other command of a test exits with it.
pub const OVERLAP_CODE: u8 = 199;

/// A directory of marks that every Run may read, and so lock.
#[derive(Debug)]
pub struct Marks {
    // Not below /tmp, where Runs may see their own.
    dir: TempDir,
}

impl Marks {
    /// An empty directory.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let dir = TempDir::with_prefix_in("runtimed-marks-", "/var/tmp").expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
        Self { dir }
    }

    /// Lines of a daemon's configuration that let its Runs reach the marks beside what they reach without it.
    #[must_use]
    pub fn runtime_toml(&self) -> String {
        let usual = ["/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc"].map(Path::new);
        let read: Vec<_> = usual.into_iter().filter(|path| path.is_dir()).chain([self.dir.path()]).collect();
        format!("[run]\nread = {read:?}\n")
    }

    /// The script, under the mark of this Run.
    ///
    /// # Panics
    /// The mark cannot be made.
    #[must_use]
    pub fn locked(&self, run: &str, script: &str) -> String {
        let mark = self.dir.path().join(run);
        fs::write(&mark, "").expect("written");
        let mark = mark.display();
        format!("exec 9<{mark}; flock -n 9 || {{ echo {OVERLAP}; exit {OVERLAP_CODE}; }}; {script}")
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self::new()
    }
}
