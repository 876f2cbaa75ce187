//! Secrets as files of mode 0600 (or 0400) in a directory of mode 0700, and their verified removal.
//!
//! The directory is `s` in a tree. Its descriptor and one for each staged file are kept, so that nothing the command
//! does to modes or names keeps [`Staging::scrub`] from destroying a value. Overwriting means something in memory only
//! ([`Medium::is_memory`]); on a disk it is hygiene, and the report says which it was.

mod name;
mod scrub;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

pub use self::name::{BadStagedName, StagedName};
pub use self::scrub::ScrubReport;
use crate::dirs::{self, CONTAINED, MODE_BITS};
use crate::tree::{Medium, Tree, TreeError, TreeName};

/// The staging directory's name in its tree.
const DIRECTORY: &CStr = c"s";
/// What a value is written under before it takes its place; no [`StagedName`] begins so.
const INCOMING: &str = ".incoming-";

/// Why a secret was not staged. No variant holds a value.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The staging directory could not be made or opened.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// The mode is not one that a secret may have.
    #[error("mode {mode:04o} is not one of 0600 and 0400, the modes that a secret may have")]
    Mode {
        /// The mode that was asked for.
        mode: u32,
    },
    /// The file system gave the new file another owner, mode or a second name.
    #[error("the file system did not keep {path} private; use a root on another file system")]
    NotPrivate {
        /// The file, which is gone again.
        path: PathBuf,
    },
}

/// The staging directory of one attempt.
#[derive(Debug)]
pub struct Staging {
    tree: Dir,
    path: PathBuf,
    medium: Medium,
    files: BTreeMap<StagedName, Staged>,
    rotated: u32,
}

/// The directory, and the tree that it has its name in.
#[derive(Debug)]
struct Dir {
    tree: OwnedFd,
    staging: OwnedFd,
}

/// The files that a name has stood for.
#[derive(Debug)]
struct Staged {
    current: File,
    /// What the last rotation replaced: readers that had it open may finish. It is destroyed at the next rotation.
    previous: Option<File>,
}

impl Staging {
    /// Makes the staging directory of a tree.
    ///
    /// # Errors
    /// [`StagingError::Tree`] if it exists or cannot be made.
    pub fn create(tree: &Tree) -> Result<Self, StagingError> {
        let staging = tree.create_dir(DIRECTORY.to_str().unwrap_or_default(), 0o700)?;
        Self::around(tree, staging)
    }

    /// Opens the staging directory that a former process made, to scrub it; `None` when there is none.
    ///
    /// # Errors
    /// [`StagingError::Io`] if it is there and cannot be opened as a directory, even after its mode was repaired.
    pub fn reopen(tree: &Tree) -> Result<Option<Self>, StagingError> {
        match dirs::enter(tree.fd(), DIRECTORY, dirs::Repair::Owner(0o700)) {
            Ok(staging) => Self::around(tree, staging).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => {
                let path = tree.path().join(DIRECTORY.to_string_lossy().as_ref());
                Err(StagingError::Io { action: "open", path, source })
            }
        }
    }

    fn around(tree: &Tree, staging: OwnedFd) -> Result<Self, StagingError> {
        let path = tree.path().join(DIRECTORY.to_string_lossy().as_ref());
        let duplicate = rustix::io::fcntl_dupfd_cloexec(tree.fd(), 3);
        let tree_fd = duplicate.map_err(|source| StagingError::Io {
            action: "keep the tree of",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            tree: Dir { tree: tree_fd, staging },
            path,
            medium: tree.medium(),
            files: BTreeMap::new(),
            rotated: 0,
        })
    }

    /// The directory's absolute path, to be granted whole: a rule on a file would die with its rotation.
    #[must_use]
    pub fn dir_path(&self) -> PathBuf {
        self.path.clone()
    }

    /// What the values are stored on.
    #[must_use]
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// Writes a value under a new name with exactly `mode`, 0600 or 0400, and returns its absolute path.
    ///
    /// # Errors
    /// [`StagingError`]; the name does not exist then, unless it did before (`EEXIST`).
    pub fn stage(&mut self, name: &StagedName, value: &[u8], mode: u32) -> Result<PathBuf, StagingError> {
        let current = self.write(name.as_str(), value, mode)?;
        self.files.insert(name.clone(), Staged { current, previous: None });
        Ok(self.path.join(name.as_str()))
    }

    /// Replaces a value in one step: a reader sees the old or the new one, whole.
    ///
    /// The value before the last one is destroyed; the last one stays readable to those who have it open.
    ///
    /// # Errors
    /// [`StagingError`]; the former value stands then.
    pub fn rotate(&mut self, name: &StagedName, value: &[u8], mode: u32) -> Result<PathBuf, StagingError> {
        let path = self.path.join(name.as_str());
        let incoming = format!("{INCOMING}{}", TreeName::random());
        // The command may have taken the directory's mode away; it can do so again, and then the former value stands.
        dirs::widen(self.tree.staging.as_fd(), 0o700).map_err(|source| StagingError::Io {
            action: "repair the mode of",
            path: self.path.clone(),
            source,
        })?;
        let current = self.write(&incoming, value, mode)?;
        let dir = self.tree.staging.as_fd();
        if let Err(source) =
            rustix::fs::renameat_with(dir, &incoming, dir, name.as_str(), RenameFlags::empty())
        {
            let mut problems = Vec::new();
            scrub::destroy(&current, &incoming, self.medium, &mut problems);
            rustix::fs::unlinkat(dir, &incoming, AtFlags::empty()).unwrap_or_default();
            return Err(StagingError::Io { action: "put the new value in the place of", path, source });
        }
        let former = self.files.remove(name);
        if let Some(before_last) = former.as_ref().and_then(|staged| staged.previous.as_ref()) {
            // A failure shows again at scrub time only if the inode still has a name, where it is found by listing.
            scrub::destroy(before_last, name.as_str(), self.medium, &mut Vec::new());
        }
        self.files.insert(name.clone(), Staged { current, previous: former.map(|staged| staged.current) });
        self.rotated = self.rotated.saturating_add(1);
        Ok(path)
    }

    /// Destroys every value and removes the directory, whatever the command did to them; says how it went.
    ///
    /// A report with `verified: false` means that something may be left: [`Staging::reopen`] and scrub again, or keep
    /// the slot out of use.
    #[must_use = "a scrub that is not verified has failed"]
    pub fn scrub(self) -> ScrubReport {
        scrub::scrub(self)
    }

    /// Makes one file in the steps that leave no instant in which another uid, a link or a former file gets the value.
    fn write(&self, name: &str, value: &[u8], mode: u32) -> Result<File, StagingError> {
        let path = self.path.join(name);
        let failed = |action| {
            let path = path.clone();
            move |source| StagingError::Io { action, path, source }
        };
        if !matches!(mode, 0o600 | 0o400) {
            return Err(StagingError::Mode { mode });
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = self.tree.staging.as_fd();
        let fd = rustix::fs::openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, CONTAINED)
            .map_err(failed("create"))?;
        let mut file = File::from(fd);
        let written = (|| {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed("set the mode of"))?;
            let stat = rustix::fs::fstat(&file).map_err(failed("examine"))?;
            let ours = stat.st_uid == rustix::process::geteuid().as_raw();
            if !ours || stat.st_nlink != 1 || stat.st_mode & MODE_BITS != mode {
                return Err(StagingError::NotPrivate { path: path.clone() });
            }
            let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
            file.write_all(value).map_err(|error| failed("write")(io(error)))?;
            if !self.medium.is_memory() {
                rustix::fs::fsync(&file).map_err(failed("write to disk"))?;
            }
            Ok(())
        })();
        match written {
            Ok(()) => Ok(file),
            Err(error) => {
                scrub::destroy(&file, name, self.medium, &mut Vec::new());
                rustix::fs::unlinkat(dir, name, AtFlags::empty()).unwrap_or_default();
                Err(error)
            }
        }
    }
}
