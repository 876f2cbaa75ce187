//! Entering and listing directories that a Run may have made hostile: links, mounts, mode 000, any depth.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::sys;

/// Resolution for every path that a Run could have shaped: beneath the directory, no link, no other mount.
pub(crate) const CONTAINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The permission bits of a mode word, with set-id and sticky bits.
pub(crate) const MODE_BITS: u32 = 0o7777;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Memory that the names which a walk has still to visit may take, in bytes: a directory may have very many, and long ones.
const NAMES_ROOM: usize = 32 << 20;

/// What a name takes in a list beside its bytes: pointer, length, terminator, and what an allocation costs.
const BESIDE_A_NAME: usize = 40;

/// What identifies an inode as long as something holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    dev: u64,
    ino: u64,
}

impl Identity {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }
}

/// Whether a directory's mode may be widened in order to get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Leave modes alone: the tree is still in use.
    Never,
    /// Give the owner at least these permission bits.
    Owner(u32),
}

/// Opens the directory `name` of `parent` for listing, giving the owner the missing permissions first if `repair` says so.
///
/// A link answers `ELOOP` or `ENOTDIR`, another mount `EXDEV`, somebody else's unreadable directory `EPERM`.
pub(crate) fn enter(parent: BorrowedFd<'_>, name: &CStr, repair: Repair) -> Result<OwnedFd, Errno> {
    let open = || rustix::fs::openat2(parent, name, OFlags::RDONLY | DIRECTORY, Mode::empty(), CONTAINED);
    let wanted = match (open(), repair) {
        (Ok(fd), Repair::Never) => return Ok(fd),
        (Ok(fd), Repair::Owner(bits)) => {
            widen(fd.as_fd(), bits)?;
            return Ok(fd);
        }
        (Err(Errno::ACCESS), Repair::Owner(bits)) => bits,
        (Err(errno), _) => return Err(errno),
    };
    // An O_PATH descriptor needs no permission on the directory itself, so the repair cannot be led astray by a rename.
    let handle = rustix::fs::openat2(parent, name, OFlags::PATH | DIRECTORY, Mode::empty(), CONTAINED)?;
    widen(handle.as_fd(), wanted | 0o500)?;
    rustix::fs::openat(&handle, c".", OFlags::RDONLY | DIRECTORY, Mode::empty())
}

/// Opens a directory a second time, for the position in a listing belongs to what was opened.
pub(crate) fn again(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, c".", OFlags::RDONLY | DIRECTORY, Mode::empty())
}

/// Adds permission bits for the owner of the directory behind `fd`, if they are missing and it is ours; says whether
/// they were missing.
pub(crate) fn widen(fd: BorrowedFd<'_>, bits: u32) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    if stat.st_mode & bits == bits {
        return Ok(false);
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::PERM);
    }
    sys::chmod_descriptor(fd, (stat.st_mode & MODE_BITS) | bits).map(|()| true)
}

/// Names in the directory behind `fd` in byte order, without `.` and `..`; at most `cap`, and whether there were more.
pub(crate) fn names(fd: BorrowedFd<'_>, cap: usize) -> Result<(Vec<CString>, bool), Errno> {
    let mut room = usize::MAX;
    names_within(fd, cap, &mut room)
}

/// The same, of names that take no more than `room` bytes of memory, which it makes smaller by what they take.
fn names_within(fd: BorrowedFd<'_>, cap: usize, room: &mut usize) -> Result<(Vec<CString>, bool), Errno> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let mut listing = RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        let left = room.checked_sub(name.to_bytes().len() + BESIDE_A_NAME);
        let Some(left) = left.filter(|_| names.len() < cap) else { return Ok((names, true)) };
        *room = left;
        names.push(name.to_owned());
    }
    names.sort_unstable();
    Ok((names, false))
}

/// Whether this is a directory's entry for itself or its parent.
pub(crate) fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// `fstatat` of a name that is never followed.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// A depth-first walk that keeps one descriptor open however deep the tree is.
///
/// It goes up through `..` and stops if that does not lead to the directory that it came from, which happens only when
/// something moves directories about while they are being walked.
#[derive(Debug)]
pub(crate) struct Walker {
    current: OwnedFd,
    levels: Vec<Level>,
    repair: Repair,
    path: Vec<u8>,
    /// Names that may still be collected.
    remaining: usize,
    /// Memory that names may still take, in bytes.
    room: usize,
    depth: usize,
    /// The directory that was reported last could not be entered.
    blocked: Option<Errno>,
    limited: bool,
}

#[derive(Debug)]
struct Level {
    identity: Identity,
    /// In reverse order, so that the next one is popped.
    pending: Vec<CString>,
    path_len: usize,
    /// Bytes that its names took when it was listed, given back when it is left.
    took: usize,
}

/// Why a walk cannot give an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// This entry could not be read, or this directory not entered; the walk goes on.
    Entry(Errno),
    /// There are more entries or levels than the caller allowed, or their names take too much memory; the walk is over.
    Limit,
    /// A directory moved under the walk; the walk is over.
    Moved,
}

impl Walker {
    /// Starts in `top`, which is not itself reported. `entries` bounds the names, `depth` the levels of directories.
    pub(crate) fn new(top: OwnedFd, repair: Repair, entries: usize, depth: usize) -> Result<Self, Errno> {
        let mut walker = Self {
            current: top,
            levels: Vec::new(),
            repair,
            path: Vec::new(),
            remaining: entries,
            room: NAMES_ROOM,
            depth,
            blocked: None,
            limited: false,
        };
        walker.list()?;
        Ok(walker)
    }

    /// The path of what [`Walker::step`] returned last, relative to the top.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The next entry. Directories come before what is in them; one that cannot be entered is an entry, then an obstacle.
    pub(crate) fn step(&mut self) -> Option<Result<Stat, Obstacle>> {
        if let Some(errno) = self.blocked.take() {
            return Some(Err(Obstacle::Entry(errno)));
        }
        loop {
            let Some(level) = self.levels.last_mut() else {
                return std::mem::take(&mut self.limited).then_some(Err(Obstacle::Limit));
            };
            self.path.truncate(level.path_len);
            if let Some(name) = level.pending.pop() {
                if !self.path.is_empty() {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name.to_bytes());
                return Some(self.visit(&name));
            }
            if let Err(obstacle) = self.leave() {
                self.levels.clear();
                self.limited = false;
                return Some(Err(obstacle));
            }
        }
    }

    fn visit(&mut self, name: &CStr) -> Result<Stat, Obstacle> {
        let stat = stat_at(self.current.as_fd(), name).map_err(Obstacle::Entry)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            if self.levels.len() > self.depth {
                self.limited = true;
            } else {
                self.blocked = self.descend(name).err();
            }
        }
        Ok(stat)
    }

    fn descend(&mut self, name: &CStr) -> Result<(), Errno> {
        let child = enter(self.current.as_fd(), name, self.repair)?;
        let parent = std::mem::replace(&mut self.current, child);
        self.list().inspect_err(|_| self.current = parent)
    }

    /// Collects the names of the current directory as a new level.
    fn list(&mut self) -> Result<(), Errno> {
        let identity = Identity::of(&rustix::fs::fstat(&self.current)?);
        let mut room = self.room;
        let (mut pending, more) = names_within(self.current.as_fd(), self.remaining, &mut room)?;
        let took = std::mem::replace(&mut self.room, room) - room;
        self.remaining -= pending.len();
        self.limited |= more;
        pending.reverse();
        self.levels.push(Level { identity, pending, path_len: self.path.len(), took });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Obstacle> {
        self.room += self.levels.pop().map_or(0, |level| level.took);
        let Some(parent) = self.levels.last() else { return Ok(()) };
        let up = rustix::fs::openat(&self.current, c"..", OFlags::RDONLY | DIRECTORY, Mode::empty())
            .map_err(|_| Obstacle::Moved)?;
        let stat = rustix::fs::fstat(&up).map_err(|_| Obstacle::Moved)?;
        if Identity::of(&stat) != parent.identity {
            return Err(Obstacle::Moved);
        }
        self.current = up;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_only_as_long_as_there_is_memory_for_them() {
        let place = tempfile::tempdir().expect("a directory");
        for name in ["a", "b", "c"] {
            std::fs::write(place.path().join(name), "").expect("written");
        }
        let directory = std::fs::File::open(place.path()).expect("opens");
        let listed = |mut room| {
            let top = again(directory.as_fd()).expect("opens");
            let (names, more) = names_within(top.as_fd(), usize::MAX, &mut room).expect("lists");
            (names.len(), more, room)
        };
        let each = 1 + BESIDE_A_NAME;
        assert_eq!(listed(3 * each), (3, false, 0));
        assert_eq!(listed(3 * each - 1), (2, true, each - 1));
    }
}
