//! A small file system that can be filled.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A memory file system of a few megabytes, mounted for as long as this lives.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Detached: what still has a file open there keeps it until it ends.
        let _gone = unmount(&self.place, UnmountFlags::DETACH);
    }
}

impl Disk {
    /// Mounts one of so many megabytes at this directory, with the directory's owner.
    ///
    /// # Errors
    /// It cannot be mounted, as by an ordinary user.
    pub fn at(place: &Path, megabytes: u32) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let owner = fs::metadata(place)?;
        let options = format!("size={megabytes}m,uid={},gid={},mode=0700", owner.uid(), owner.gid());
        let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
        mount("tmpfs", place, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, Some(options.as_c_str()))?;
        Ok(Self { place: place.to_owned() })
    }

    /// Takes all the room there is.
    ///
    /// # Errors
    /// For another reason than that there is no more.
    pub fn fill(&self) -> io::Result<()> {
        use std::io::Write as _;
        let mut ballast = fs::File::create(self.ballast())?;
        let zeros = vec![0; 64 * 1024];
        for size in [zeros.len(), 4096, 1] {
            loop {
                match ballast.write_all(&zeros[..size]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn empty(&self) {
        // Not there is as good.
        let _gone = fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.place.join("ballast")
    }
}

/// Whether this process may mount.
#[must_use]
pub fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
}
