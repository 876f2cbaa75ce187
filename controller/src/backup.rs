//! `backup`: the whole data directory as it is at one moment, while a controller works on it.
//!
//! The database first, in one read transaction (`VACUUM INTO`), and then everything that it refers to: results never change
//! and are not removed before their Run is, so that what the copy names is in the copy, unless it was removed meanwhile.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::serve::ServeError;

/// What is not copied as it is: the database, whose files change under a copy, and the lock.
const APART: [&str; 4] = ["controller.db", "controller.db-wal", "controller.db-shm", "lock"];

/// Copies the data directory into a new one. Restoring is starting a controller with the copy as its `--data`.
///
/// # Errors
/// Usage: `data` cannot be read, or `to` cannot be made; else something in them cannot be read or written.
pub(crate) fn backup(data: &Path, to: &Path) -> Result<(), ServeError> {
    let said = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        format!("{what} {}: {error}", path.display())
    };
    let wrong = |what: &str, path: &Path, error: io::Error| ServeError::Usage(said(what, path, &error));
    let failed =
        |what: &str, path: &Path, error: &dyn std::fmt::Display| ServeError::Failed(said(what, path, error));
    let database = data.join("controller.db");
    let owner = fs::metadata(data).map_err(|error| wrong("cannot read", data, error))?;
    DirBuilder::new().mode(0o700).create(to).map_err(|error| wrong("cannot make", to, error))?;
    let copy = to.join("controller.db");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(&database, flags)
        .map_err(|error| failed("cannot open", &database, &error))?;
    let into = copy.to_str().ok_or_else(|| ServeError::Usage("the backup's path is not UTF-8".to_owned()))?;
    source.execute("VACUUM INTO ?1", [into]).map_err(|error| failed("cannot write", &copy, &error))?;
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&copy, private).map_err(|error| failed("cannot write", &copy, &error))?;
    for entry in fs::read_dir(data).map_err(|error| failed("cannot read", data, &error))?.flatten() {
        let (from, name) = (entry.path(), entry.file_name());
        if !APART.iter().any(|apart| name == *apart) {
            copy_all(&from, &to.join(name)).map_err(|error| failed("cannot copy", &from, &error))?;
        }
    }
    own(to, owner.uid(), owner.gid()).map_err(|error| failed("cannot give away", to, &error))
}

/// Copies a file, or a directory with all that is in it. What goes meanwhile was removed with its Run.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    let copied = match fs::symlink_metadata(from) {
        Ok(found) if found.is_dir() => DirBuilder::new().mode(0o700).create(to).and_then(|()| {
            fs::read_dir(from)?.try_for_each(|entry| {
                let name = entry?.file_name();
                copy_all(&from.join(&name), &to.join(name))
            })
        }),
        Ok(_) => fs::copy(from, to).and_then(|_| fs::File::open(to)?.sync_all()),
        Err(error) => Err(error),
    };
    match copied {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => copied,
    }
}

/// Gives all of it to whom the original belongs: root may make the backup, and does not run the controller.
fn own(place: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if fs::symlink_metadata(place)?.is_dir() {
        fs::read_dir(place)?.try_for_each(|entry| own(&entry?.path(), uid, gid))?;
    }
    chown(place, Some(uid), Some(gid))
}
