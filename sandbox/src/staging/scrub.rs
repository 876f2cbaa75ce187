//! Scrub: the values overwritten, every name removed, and a last look.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{DIRECTORY, Staging};
use crate::beneath::Kind;
use crate::dirs::{self, Identity, Repair};
use crate::sys;
use crate::tree::{Medium, sweep};

/// Bytes that are overwritten at most in one file: a command may have made a staged file sparse and enormous.
const OVERWRITE_CAP: u64 = 16 << 20;
/// Problems that a report lists; what comes after them is only counted by `verified`.
const PROBLEM_CAP: usize = 32;

/// How a scrub went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubReport {
    /// Names that this process had staged.
    pub staged: u32,
    /// Entries of the staging directory that were removed, those included that the command had put there.
    pub removed: u32,
    /// Values that took the place of another.
    pub rotated: u32,
    /// What the values were stored on.
    pub medium: Medium,
    /// What was not as it had been left, in sentences, without values; at most 32.
    pub problems: Vec<String>,
    /// Every value's inode was emptied, and the staging directory is empty and has no name in the tree any more.
    pub verified: bool,
}

pub(super) fn scrub(staging: Staging) -> ScrubReport {
    let mut report = ScrubReport {
        staged: u32::try_from(staging.files.len()).unwrap_or(u32::MAX),
        removed: 0,
        rotated: staging.rotated,
        medium: staging.medium,
        problems: Vec::new(),
        verified: false,
    };
    let (tree, dir) = (staging.tree.tree.as_fd(), staging.tree.staging.as_fd());
    // The command may have changed the modes of both; without them nothing below would work.
    for (what, fd) in [("tree", tree), ("staging directory", dir)] {
        match dirs::widen(fd, 0o700) {
            Ok(false) => {}
            Ok(true) => {
                report.problems.push(format!("the mode of the {what} had been taken away; it was repaired"));
            }
            Err(errno) => {
                report.problems.push(format!("the mode of the {what} could not be repaired: {errno}"));
            }
        }
    }
    let mut destroyed = true;
    for (name, staged) in &staging.files {
        for file in std::iter::once(&staged.current).chain(&staged.previous) {
            destroyed &= destroy(file, name.as_str(), staging.medium, &mut report.problems);
        }
    }
    let emptied = empty(dir, &mut report);
    let gone = remove_directory(tree, dir, &mut report);
    report.verified = destroyed && emptied && gone;
    report.problems.truncate(PROBLEM_CAP);
    report
}

/// Overwrites and empties a file through its descriptor; false if the value may still be in the inode.
pub(super) fn destroy(file: &File, name: &str, medium: Medium, problems: &mut Vec<String>) -> bool {
    let done = (|| {
        let stat = rustix::fs::fstat(file)?;
        if stat.st_nlink > 1 {
            problems.push(format!("{name} had another hard link; its value was destroyed through the inode"));
        }
        overwrite(file, u64::try_from(stat.st_size).unwrap_or(0))?;
        if !medium.is_memory() {
            rustix::fs::fsync(file)?;
        }
        rustix::fs::ftruncate(file, 0)
    })();
    done.map_err(|errno| problems.push(format!("{name} could not be overwritten: {errno}"))).is_ok()
}

fn overwrite(file: &File, size: u64) -> Result<(), Errno> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let (mut at, end) = (0, size.min(OVERWRITE_CAP));
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
        let block = ZEROS.get(..length).unwrap_or(&ZEROS);
        file.write_all_at(block, at).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        at += 4096;
    }
    Ok(())
}

/// Removes every name in the staging directory; false unless a last look finds none.
fn empty(dir: BorrowedFd<'_>, report: &mut ScrubReport) -> bool {
    let listed = list(dir)
        .map_err(|errno| report.problems.push(format!("the staging directory cannot be listed: {errno}")));
    let mut destroyed = true;
    for name in listed.unwrap_or_default() {
        let shown = name.to_string_lossy();
        match take(dir, &name, report) {
            Ok(clean) => {
                destroyed &= clean;
                report.removed += 1;
            }
            Err(errno) => report.problems.push(format!("{shown} could not be removed: {errno}")),
        }
    }
    destroyed && list(dir).is_ok_and(|names| names.is_empty())
}

fn list(dir: BorrowedFd<'_>) -> Result<Vec<std::ffi::CString>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    // What does not fit is found by the last look, which then is not empty.
    Ok(dirs::names(fd.as_fd(), 65_536)?.0)
}

fn take(dir: BorrowedFd<'_>, name: &CStr, report: &mut ScrubReport) -> Result<bool, Errno> {
    let stat = dirs::stat_at(dir, name)?;
    let shown = name.to_string_lossy();
    match Kind::of_stat(&stat) {
        Kind::File => {
            let clean = destroy_named(dir, name, &stat, report);
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            Ok(clean)
        }
        Kind::Directory => {
            report.problems.push(format!("{shown} is a directory that was not staged; it was removed"));
            remove_tree(dir, name).map(|()| true)
        }
        kind => {
            report.problems.push(format!("{shown} is a {} that was not staged; it was removed", kind.name()));
            rustix::fs::unlinkat(dir, name, AtFlags::empty()).map(|()| true)
        }
    }
}

/// Empties a regular file that may not be one of those whose descriptors are kept.
fn destroy_named(dir: BorrowedFd<'_>, name: &CStr, seen: &Stat, report: &mut ScrubReport) -> bool {
    let shown = name.to_string_lossy();
    if seen.st_size == 0 {
        return true;
    }
    let opened = (|| {
        let handle = rustix::fs::openat2(
            dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            dirs::CONTAINED,
        )?;
        sys::chmod_descriptor(handle.as_fd(), 0o600)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat2(dir, name, flags, Mode::empty(), dirs::CONTAINED)
    })();
    match opened {
        Ok(fd) => destroy(&File::from(fd), &shown, report.medium, &mut report.problems),
        Err(errno) => {
            report.problems.push(format!("{shown} could not be overwritten: {errno}"));
            false
        }
    }
}

fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let swept = sweep(dirs::enter(dir, name, Repair::Owner(0o700))?)?;
    if let Some((_, errno)) = swept.first_left {
        return Err(errno);
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Removes the staging directory's name; false if anything still has that name.
fn remove_directory(tree: BorrowedFd<'_>, dir: BorrowedFd<'_>, report: &mut ScrubReport) -> bool {
    let ours = rustix::fs::fstat(dir).map(|stat| Identity::of(&stat));
    let removed = match (dirs::stat_at(tree, DIRECTORY), ours) {
        (Err(Errno::NOENT), _) => {
            report.problems.push("the staging directory had been moved or removed".to_owned());
            Ok(())
        }
        (Ok(stat), Ok(ours)) if Identity::of(&stat) == ours => {
            rustix::fs::unlinkat(tree, DIRECTORY, AtFlags::REMOVEDIR)
        }
        (Ok(stat), _) => {
            report.problems.push("the staging directory had been replaced; both were emptied".to_owned());
            if Kind::of_stat(&stat) == Kind::Directory {
                remove_tree(tree, DIRECTORY)
            } else {
                rustix::fs::unlinkat(tree, DIRECTORY, AtFlags::empty())
            }
        }
        (Err(errno), _) => Err(errno),
    };
    if let Err(errno) = removed {
        report.problems.push(format!("the staging directory could not be removed: {errno}"));
    }
    matches!(dirs::stat_at(tree, DIRECTORY), Err(Errno::NOENT))
}
