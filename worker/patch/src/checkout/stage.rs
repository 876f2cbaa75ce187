//! A directory that becomes another one whole, or not at all; but for one that is in its place from the beginning.

use std::{
    ffi::OsString,
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use super::open_path;

/// A new directory beside its destination. Dropped, it goes with all that is in it; [`Self::publish`] renames it.
#[derive(Debug)]
pub struct Stage {
    path: PathBuf,
    destination: PathBuf,
    published: bool,
}

impl Stage {
    /// Makes the directory, with mode 0700, in the parent of `destination`, so on its file system.
    ///
    /// # Errors
    /// The parent does not exist or is not writable, or what a crash left of a stage cannot be removed.
    pub fn new(destination: &Path) -> io::Result<Self> {
        let name = destination.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut staged = OsString::from(".");
        staged.push(name);
        staged.push(".staged");
        let path = destination.with_file_name(staged);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, destination: destination.to_owned(), published: false })
    }

    /// For a destination that is there, is empty and cannot be replaced, such as a mount: what is written is there at once,
    /// and stays there even if it is never published.
    #[must_use]
    pub fn in_place(destination: &Path) -> Self {
        Self { path: destination.to_owned(), destination: destination.to_owned(), published: true }
    }

    /// Where it is until it is published.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of it, which stays good when it is published.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn open(&self) -> io::Result<OwnedFd> {
        open_path(&self.path)
    }

    /// Renames it to the destination, which must not exist or be an empty directory. One system call: before it there
    /// is nothing at the destination, after it everything.
    ///
    /// # Errors
    /// There is something at the destination; then it stays as it is, and the stage goes.
    pub fn publish(mut self) -> io::Result<()> {
        if !self.published {
            fs::rename(&self.path, &self.destination)?;
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.published {
            // Its owner removes the whole allocation anyway; this only tidies up early.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}
