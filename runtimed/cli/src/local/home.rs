//! The private directory that a local Run lives in, and its end.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::owner::Owner;
use crate::document::cause;
use crate::failure::Failure;

/// How each such directory's name begins.
const PREFIX: &str = "runtimed-local-";
/// The servers of a `runtimectl` that was killed end within this time.
const DYING: Duration = Duration::from_secs(60);

/// The private directory that a local Run lives in. It is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Home {
    dir: TempDir,
    owner: Owner,
    /// Locked for as long as we live: an unlocked directory is one that a killed process left.
    _lock: File,
}

impl Home {
    /// Makes it below the directory for temporary files, where it also removes what killed processes of ours left.
    pub(super) fn make(owner: Owner) -> Result<Self, Failure> {
        let parent = std::env::temp_dir();
        if let Owner::User(user) = owner {
            passable(&parent, user)?;
        }
        sweep(&parent, DYING);
        // Servers under another uid must pass through it, and need not see what is in it.
        let mode = if owner == Owner::Caller { 0o700 } else { 0o711 };
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(mode))
            .tempdir_in(&parent)
            .and_then(|dir| {
                let lock = File::open(dir.path())?;
                lock.lock()?;
                Ok(Self { dir, owner, _lock: lock })
            });
        made.map_err(|error| {
            Failure::usage(format!("no directory can be made in {}: {}", parent.display(), cause(&error)))
                .hint("set TMPDIR to a directory with room that you may write to")
        })
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory for the servers alone.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let made = DirBuilder::new().mode(0o700).create(&path).and_then(|()| self.owner.give(&path));
        made.map(|()| path.clone()).map_err(|error| unusable(&path, &error))
    }

    /// A root of the Runs' trees, made as a kubelet makes an EmptyDir: root's, open to the pod's group and to all.
    pub(super) fn root(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let made = match self.owner {
            Owner::Caller => DirBuilder::new().mode(0o700).create(&path),
            Owner::User(group) => fs::create_dir(&path)
                .and_then(|()| std::os::unix::fs::chown(&path, None, Some(group)))
                // Set last: a change of the group clears the setgid bit, and the umask had its say.
                .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o2777))),
        };
        made.map(|()| path.clone()).map_err(|error| unusable(&path, &error))
    }

    /// A file that the servers alone can read.
    pub(super) fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| self.owner.give(&path));
        made.map(|()| path.clone()).map_err(|error| unusable(&path, &error))
    }

    /// Removes it with all that is in it.
    pub(super) fn remove(self) -> Result<(), Failure> {
        let path = self.dir.path().to_owned();
        let removed = clear(&path);
        // It must not be tried again at the drop.
        let _path = self.dir.keep();
        removed.map_err(|error| {
            Failure::fault(format!("{} cannot be removed: {}", path.display(), cause(&error)))
                .hint("remove it yourself")
        })
    }
}

/// Removes directories of ours that nobody holds any more, and that are older than `age`: a younger one may be new and not
/// locked yet, or its servers may be about to end. What cannot be removed stays; it is in nobody's way.
fn sweep(parent: &Path, age: Duration) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let Ok(about) = entry.metadata() else { continue };
        let old = about.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|since| since >= age);
        if !(ours && old && about.is_dir() && about.uid() == own) {
            continue;
        }
        // In a directory that all may write to, only its owner can put something else in its place.
        if File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok()) {
            drop(clear(&entry.path()));
        }
    }
}

fn clear(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path).or_else(|_| {
        // A Run may have closed its own directories; a daemon that was killed has not opened them again.
        open_up(path);
        fs::remove_dir_all(path)
    })
}

/// Gives us back the right to enter and change each directory. Symlinks are not followed.
fn open_up(dir: &Path) {
    // What cannot be opened up shows when it cannot be removed.
    drop(fs::set_permissions(dir, Permissions::from_mode(0o700)));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Whether everyone may pass through a directory and all above it.
fn passable(path: &Path, user: u32) -> Result<(), Failure> {
    for dir in path.ancestors() {
        let closed = fs::metadata(dir).is_ok_and(|about| about.mode() & 0o001 == 0);
        if closed {
            return Err(Failure::usage(format!(
                "uid {user}, under which everything runs, cannot enter {}",
                dir.display()
            ))
            .hint("set TMPDIR to a directory that everyone may enter, such as /tmp"));
        }
    }
    Ok(())
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::fault(format!("{} cannot be made: {}", path.display(), cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_closed_directories() {
        let home = Home::make(Owner::Caller).expect("made");
        let path = home.dir.path().to_owned();
        let inner = home.root("tmp").expect("made").join("closed");
        fs::create_dir_all(inner.join("deep")).expect("made");
        std::os::unix::fs::symlink("/", inner.join("link")).expect("made");
        fs::set_permissions(&inner, Permissions::from_mode(0o000)).expect("closed");
        home.remove().expect("removed");
        assert!(!path.exists());
        assert!(Path::new("/").exists());
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_nothing_else() {
        let parent = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).expect("made");
            fs::write(dir.join("file"), "x").expect("written");
            dir
        };
        let (left, held, other) = (make("runtimed-local-a"), make("runtimed-local-b"), make("other"));
        let lock = File::open(&held).expect("opened");
        lock.lock().expect("locked");
        sweep(parent.path(), DYING);
        assert!(left.exists(), "it is too young");
        sweep(parent.path(), Duration::ZERO);
        assert_eq!((left.exists(), held.exists(), other.exists()), (false, true, true));
    }

    #[test]
    fn what_is_in_it_is_for_its_owner() {
        let home = Home::make(Owner::Caller).expect("made");
        let file = home.file("token", b"t").expect("written");
        assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
        let dir = home.directory("state").expect("made");
        assert_eq!(fs::metadata(&dir).expect("there").mode() & 0o777, 0o700);
        home.remove().expect("removed");
    }
}
