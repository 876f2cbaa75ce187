//! Reads one file or symlink of a workspace without following anything.

use std::{
    io::{self, Read as _},
    os::fd::BorrowedFd,
};

use rustix::{
    fs::{AtFlags, Mode as Permissions, OFlags, chmodat, openat, readlinkat},
    io::Errno,
};

/// The target of a symlink.
pub(crate) fn read_symlink(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(readlinkat(directory, name, Vec::new())?.into_bytes())
}

/// A regular file of at most `max` bytes; `None` if it is larger.
pub(crate) fn read_file(directory: BorrowedFd<'_>, name: &[u8], max: u64) -> io::Result<Option<Vec<u8>>> {
    // A FIFO in the file's place must not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let open = || openat(directory, name, flags, Permissions::empty());
    let file = match open() {
        Err(Errno::ACCESS) => {
            give_permissions(directory, name, 0o600);
            open()?
        }
        opened => opened?,
    };
    let file = std::fs::File::from(file);
    // A sparse giant is not read to find out that it is one.
    if file.metadata()?.len() > max {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= max).then_some(content))
}

/// Gives an entry permissions that a command took away, if it is ours. It was just seen not to be a symlink.
pub(super) fn give_permissions(directory: BorrowedFd<'_>, name: &[u8], permissions: u32) {
    // That it failed shows when the entry is opened.
    chmodat(directory, name, Permissions::from_raw_mode(permissions), AtFlags::empty()).unwrap_or_default();
}
