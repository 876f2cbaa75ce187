//! The two files that ssh needs by path, for as long as it needs them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use runtimed_api::link::{Trees, layout};
use runtimed_api::problem::Code;
use rustix::fs::OFlags;
use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::failure::{Failure, storage};

/// A credential of kind `git-ssh`.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(crate) struct SshKeys {
    key: String,
    known_hosts: String,
}

/// The files, which are removed with this.
#[derive(Debug)]
pub(super) struct Keys {
    directory: PathBuf,
}

/// Where a fetch may put them: on the memory-backed root, if the pod has one.
pub(crate) fn place(trees: &Trees) -> PathBuf {
    Path::new(&trees.tmp).join(layout::KEYS)
}

/// The directory for them, which the supervisor makes for one fetch, and removes whatever became of that.
#[derive(Debug)]
pub(crate) struct KeyPlace {
    path: PathBuf,
}

impl KeyPlace {
    pub(crate) fn make(trees: &Trees) -> Result<Self, Failure> {
        let path = place(trees);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| storage("make a place for the ssh key", &error))?;
        Ok(Self { path })
    }

    /// Removes what is left, and looks that nothing is. The fetch and all below it are dead.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        Keys::at(&self.path).overwrite();
        let removed = fs::remove_dir_all(&self.path);
        if self.path.symlink_metadata().is_ok() {
            let why = removed.err().map_or_else(|| "it is still there".to_owned(), |error| error.to_string());
            return Err(Failure::fault(Code::StorageFailed, format!("the ssh key cannot be removed: {why}")));
        }
        Ok(())
    }
}

impl Keys {
    pub(super) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Writes both, for this user alone.
    pub(super) fn write(directory: &Path, login: &SshKeys) -> Result<Self, Failure> {
        let keys = Self::at(directory);
        let write = |path: PathBuf, text: &str| -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())?;
            // ssh does not read a key whose last line has no end.
            if text.ends_with('\n') { Ok(()) } else { file.write_all(b"\n") }
        };
        let written =
            write(keys.key(), &login.key).and_then(|()| write(keys.known_hosts(), &login.known_hosts));
        written.map_err(|error| storage("write the ssh key", &error))?;
        Ok(keys)
    }

    pub(super) fn key(&self) -> PathBuf {
        self.directory.join("key")
    }

    pub(super) fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    pub(super) fn remove(self) -> Result<(), Failure> {
        self.overwrite();
        for path in [self.key(), self.known_hosts()] {
            fs::remove_file(path).map_err(|error| storage("remove the ssh key", &error))?;
        }
        Ok(())
    }

    /// Hygiene only: a disk may keep the blocks, which is why the place is in memory where the pod has any.
    fn overwrite(&self) {
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        let Ok(mut file) = options.write(true).custom_flags(flags).open(self.key()) else { return };
        let length = file.metadata().map_or(0, |about| if about.is_file() { about.len() } else { 0 });
        let zeros = vec![0; usize::try_from(length.min(MAX_KEY)).unwrap_or_default()];
        file.write_all(&zeros).and_then(|()| File::sync_data(&file)).unwrap_or_default();
    }
}

/// Bytes of a key; a credential as a whole has no more.
const MAX_KEY: u64 = 64 * 1024;
