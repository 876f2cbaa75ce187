//! What a directory that is in use takes on its file system.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::dirs::{self, Obstacle, Repair, Walker};

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Files, directories, links and everything else with a name, the directory itself not counted.
    pub entries: u64,
    /// Allocated bytes (512 for each block that the file system reports), hard links counted once.
    pub bytes: u64,
    /// How much of it was seen.
    pub seen: Seen,
}

/// How much of a directory was seen when it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All of it, but for what came, or vanished, meanwhile.
    Whole,
    /// Not what lies in a directory whose mode forbids to read it, or what was moved meanwhile.
    Part,
    /// No more than the cap.
    Capped,
}

/// Measures a directory, looking at no more than `cap` entries and never changing a mode.
pub(super) fn measure(directory: BorrowedFd<'_>, cap: u64) -> Result<Usage, Errno> {
    let cap = usize::try_from(cap).unwrap_or(usize::MAX);
    let mut walker = Walker::new(dirs::again(directory)?, Repair::Never, cap, usize::MAX)?;
    let mut usage = Usage { entries: 0, bytes: 0, seen: Seen::Whole };
    let mut linked = HashSet::new();
    while let Some(step) = walker.step() {
        match step {
            Ok(stat) => {
                usage.entries += 1;
                // An inode with several names takes its space once.
                if stat.st_nlink < 2 || is_directory(&stat) || linked.insert(stat.st_ino) {
                    usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                }
            }
            // It vanished between the listing and the look, which is what a live tree does.
            Err(Obstacle::Entry(Errno::NOENT)) => {}
            Err(Obstacle::Limit) => usage.seen = Seen::Capped,
            Err(Obstacle::Entry(_) | Obstacle::Moved) => usage.seen = Seen::Part,
        }
    }
    Ok(usage)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}
