//! Room on the file system of the daemon's state: what Runs write there must leave some to the daemon itself.

use std::io;
use std::path::Path;

/// Bytes that stay free for the journal and for what is small.
const RESERVE: u64 = 16 * 1024 * 1024;

/// Whether so many bytes more leave the reserve free.
///
/// # Errors
/// They do not (`StorageFull`), or the file system cannot be asked.
pub fn check(place: &Path, bytes: u64) -> io::Result<()> {
    let stat = rustix::fs::statvfs(place)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < bytes.saturating_add(RESERVE) {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "the daemon's state has no room for it, for some must stay free",
        ));
    }
    Ok(())
}
