//! Removal of hostile trees.
//!
//! The walk goes depth first and keeps at most [`OPEN_LEVELS`] directories open. A directory below that depth is renamed
//! up into the tree's top under a fresh random name and met again later, so neither depth nor the length of a path
//! matters, and there is no way through `..` that something could redirect.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, RenameFlags};
use rustix::io::Errno;

use super::{Tree, TreeError, TreeName};
use crate::dirs::{self, Identity, Repair};

/// Directories held open at once: enough that ordinary trees need no rename, far below any descriptor limit.
const OPEN_LEVELS: usize = 32;

/// What removing a tree took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Entries that were removed, the tree itself included.
    pub entries: u64,
}

pub(super) fn remove(tree: &Tree) -> Result<Removed, TreeError> {
    let failed = |action| move |source| TreeError::Io { action, path: tree.path(), source };
    dirs::widen(tree.fd(), 0o700).map_err(failed("repair the mode of"))?;
    let top = dirs::again(tree.fd()).map_err(failed("open"))?;
    let swept = sweep(top).map_err(failed("empty"))?;
    if let Some((first, source)) = swept.first_left {
        return Err(TreeError::Left { path: tree.path(), left: swept.left, first, source });
    }
    tree.root.mend()?;
    let (root, name) = (tree.root.inner.fd.as_fd(), tree.name.c_name());
    match dirs::stat_at(root, name) {
        Ok(stat) if Identity::of(&stat) == tree.identity => {
            rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR).map_err(failed("remove"))?;
            Ok(Removed { entries: swept.removed + 1 })
        }
        Ok(_) => Err(TreeError::Replaced { path: tree.path() }),
        Err(Errno::NOENT) => Ok(Removed { entries: swept.removed }),
        Err(source) => Err(failed("find")(source)),
    }
}

/// What emptying a directory came to.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    pub(crate) removed: u64,
    pub(crate) left: u64,
    pub(crate) first_left: Option<(String, Errno)>,
}

/// Removes everything in `top`, which stays.
pub(crate) fn sweep(top: OwnedFd) -> Result<Swept, Errno> {
    let mut sweep =
        Sweep { levels: vec![Level::new(top, CString::default())?], moved_up: false, done: Swept::default() };
    while sweep.step() {}
    Ok(sweep.done)
}

struct Sweep {
    levels: Vec<Level>,
    /// A deep directory was moved into the top since its listing began.
    moved_up: bool,
    done: Swept,
}

struct Level {
    dir: Dir,
    name: CString,
    /// Something was removed or moved since the listing began, so another pass may find what this one skipped.
    progress: bool,
    /// Something could not be removed, so the directory cannot go either.
    stuck: bool,
}

impl Level {
    fn new(fd: OwnedFd, name: CString) -> Result<Self, Errno> {
        Ok(Self { dir: Dir::new(fd)?, name, progress: false, stuck: false })
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.dir.fd()
    }
}

impl Sweep {
    /// Deals with one entry, or with the end of a listing; false when the top is as empty as it gets.
    fn step(&mut self) -> bool {
        let Some(level) = self.levels.last_mut() else { return false };
        match level.dir.read() {
            Some(Ok(entry)) if dirs::is_dot(entry.file_name()) => {}
            Some(Ok(entry)) => {
                let name = entry.file_name().to_owned();
                if let Err(errno) = self.take(&name, entry.file_type()) {
                    self.leave_behind(&name, errno);
                }
            }
            Some(Err(errno)) => {
                let name = level.name.clone();
                self.leave_behind(&name, errno);
                return self.finish();
            }
            None => return self.finish(),
        }
        true
    }

    /// Removes an entry, or makes the directory that it is the current level.
    fn take(&mut self, name: &CStr, kind: FileType) -> Result<(), Errno> {
        let depth = self.levels.len();
        let (Some(top), Some(level)) = (self.levels.first(), self.levels.last()) else { return Ok(()) };
        let dir = level.fd()?;
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {
                    self.count_removed();
                    return Ok(());
                }
                // The listing did not say, or said something else a moment ago.
                Err(Errno::ISDIR | Errno::PERM) if is_directory(dir, name) => {}
                Err(errno) => return Err(errno),
            }
        }
        // Moving a directory to another parent writes to it, so its mode is repaired in either case.
        let child = dirs::enter(dir, name, Repair::Owner(0o700))?;
        if depth < OPEN_LEVELS {
            self.levels.push(Level::new(child, name.to_owned())?);
            return Ok(());
        }
        drop(child);
        rustix::fs::renameat_with(dir, name, top.fd()?, TreeName::random().c_name(), RenameFlags::NOREPLACE)?;
        self.moved_up = true;
        if let Some(level) = self.levels.last_mut() {
            level.progress = true;
        }
        Ok(())
    }

    /// The current listing has ended: pass over it again, or remove the directory and go up.
    fn finish(&mut self) -> bool {
        let is_top = self.levels.len() == 1;
        let Some(level) = self.levels.last_mut() else { return false };
        if is_top {
            // Entries that were moved up meanwhile may or may not have been in this listing.
            let again = std::mem::take(&mut self.moved_up) || (level.progress && !level.stuck);
            level.progress = false;
            if again {
                level.dir.rewind();
            }
            return again;
        }
        let Some(level) = self.levels.pop() else { return false };
        let parent = self.levels.last().map(Level::fd);
        let Some(Ok(parent)) = parent else { return false };
        match rustix::fs::unlinkat(parent, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => self.count_removed(),
            Err(Errno::NOTEMPTY) if level.progress && !level.stuck => {
                let mut level = level;
                level.progress = false;
                level.dir.rewind();
                self.levels.push(level);
            }
            // What is inside has been reported already.
            Err(Errno::NOTEMPTY) if level.stuck => self.mark_stuck(),
            Err(errno) => {
                let name = level.name;
                self.leave_behind(&name, errno);
            }
        }
        true
    }

    fn count_removed(&mut self) {
        self.done.removed += 1;
        if let Some(level) = self.levels.last_mut() {
            level.progress = true;
        }
    }

    fn mark_stuck(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.stuck = true;
        }
    }

    fn leave_behind(&mut self, name: &CStr, errno: Errno) {
        self.mark_stuck();
        self.done.left += 1;
        if self.done.first_left.is_some() {
            return;
        }
        let mut path: String =
            self.levels.iter().skip(1).map(|level| level.name.to_string_lossy() + "/").collect();
        path.push_str(&name.to_string_lossy());
        let owner = self.levels.last().and_then(|level| dirs::stat_at(level.fd().ok()?, name).ok());
        if let Some(stat) = owner.filter(|stat| stat.st_uid != rustix::process::geteuid().as_raw()) {
            path.push_str(&format!(" (uid {})", stat.st_uid));
        }
        self.done.first_left = Some((path, errno));
    }
}

fn is_directory(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    dirs::stat_at(dir, name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}
