//! The daemon's own directory: found or made, and held by one daemon at a time.
//!
//! It has a random name in its place, which is the configured directory or else the workspace root: a Run has the
//! daemon's uid and reads the daemon's configuration, so that it could take away the modes of whatever has a path that
//! it knows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use runtimed_api::session::SecretText;
use runtimed_sandbox::tree::{Root, Tree, TreeError};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

/// The file whose presence says that a directory is a daemon's.
const MARK: &str = "runtimed.state";
/// The file of the secret by which the controller knows this daemon again.
const INSTANCE: &str = "instance";
/// Bytes of it; it is written as text of twice as many characters.
const INSTANCE_BYTES: usize = 32;

/// The daemon's own directory. The lock goes when it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    place: PathBuf,
    lock: File,
    instance: SecretText,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or opened.
    #[error(
        "cannot use the state directory {path}: {error}; set [state] dir to one that this user may write"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another daemon has it.
    #[error("another runtimed is using the state directory {0}; stop it, or set another [state] dir")]
    Taken(PathBuf),
    /// A root cannot be listed or a directory in it cannot be made.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl StateDir {
    /// Takes the randomly named directory in `configured`, or without one in `workspace`: made at the first start and
    /// found again by its mark. The lock is on the place, so that two daemons that start together do not make one each.
    ///
    /// # Errors
    /// It cannot be used, or another daemon has it.
    pub fn take(configured: Option<&Path>, workspace: &Root) -> Result<Self, StateError> {
        let place = configured.unwrap_or(workspace.path());
        let failed = |error: io::Error| StateError::Open { path: place.to_owned(), error };
        if configured.is_some() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(place).map_err(failed)?;
        }
        let lock = open(place).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Taken(place.to_owned())),
            Err(error) => return Err(failed(error.into())),
        }
        let root = match configured {
            Some(path) => &Root::open(path)?,
            None => workspace,
        };
        let tree = match find(root)? {
            Some(found) => found,
            None => root.create()?,
        };
        let path = tree.path();
        let mark = OpenOptions::new().create(true).append(true).mode(0o600).open(path.join(MARK));
        let unusable = |error: io::Error| StateError::Open { path: path.clone(), error };
        mark.map_err(unusable)?;
        let instance = instance(&path).map_err(unusable)?;
        Ok(Self { path, place: place.to_owned(), lock, instance })
    }

    /// Whether a directory is some daemon's.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        path.join(MARK).is_file()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret by which the controller knows this daemon again: it lives and goes with the journal, which tells of the attempts
    /// that it opens.
    #[must_use]
    pub fn instance(&self) -> &SecretText {
        &self.instance
    }

    /// Gives the place its owner's permissions back, if a Run took them away.
    ///
    /// # Errors
    /// They cannot be set.
    pub fn mend(&self) -> io::Result<()> {
        let mode = self.lock.metadata()?.permissions().mode();
        if mode & 0o700 == 0o700 {
            return Ok(());
        }
        self.lock.set_permissions(fs::Permissions::from_mode(mode & 0o7777 | 0o700))
    }

    /// The directory that it lies in, whose path Runs may know.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }
}

/// Opens a directory, giving it its owner's permissions back if a Run of an earlier daemon took them away.
fn open(place: &Path) -> io::Result<File> {
    match File::open(place) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(place, fs::Permissions::from_mode(0o700))?;
            tracing::warn!(path = %place.display(), "a directory's mode had been taken away; it is mended");
            File::open(place)
        }
        opened => opened,
    }
}

/// Reads the daemon's own secret, or makes one at the first start. It appears whole: a daemon that dies here has leased
/// nothing yet.
fn instance(state: &Path) -> io::Result<SecretText> {
    let path = state.join(INSTANCE);
    match fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) if text.len() == 2 * INSTANCE_BYTES => return Ok(SecretText::new(text.to_string())),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "the daemon's own secret is damaged; another is made");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = Zeroizing::new([0; INSTANCE_BYTES]);
    rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    let text = Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let new = state.join("instance.new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(state)?.sync_all()?;
    Ok(SecretText::new(text.to_string()))
}

/// The first directory of the root that is a daemon's.
fn find(root: &Root) -> Result<Option<Tree>, TreeError> {
    let mut names = root.list()?;
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    for name in names {
        if StateDir::is_one(&root.path().join(name.as_str())) {
            return root.reopen(&name);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_a_later_one_finds_the_same_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opens");
        let own = dir.path().join("state");
        for configured in [None, Some(own.as_path())] {
            let first = StateDir::take(configured, &root).expect("taken");
            assert!(matches!(StateDir::take(configured, &root), Err(StateError::Taken(_))));
            let path = first.path().to_owned();
            assert_eq!(path.parent(), Some(configured.unwrap_or(dir.path())));
            let secret = first.instance().clone();
            let mode = fs::metadata(path.join(INSTANCE)).expect("kept").permissions().mode();
            assert_eq!((mode & 0o777, secret.expose().len()), (0o600, 64));
            drop(first);
            let again = StateDir::take(configured, &root).expect("taken again");
            assert_eq!((again.path(), again.instance()), (path.as_path(), &secret));
            // One that a crash of the machine left empty is none.
            drop(again);
            fs::write(path.join(INSTANCE), "").expect("emptied");
            let another = StateDir::take(configured, &root).expect("taken again");
            assert!(another.instance().expose().len() == 64 && *another.instance() != secret);
        }
    }

    #[test]
    fn a_place_whose_mode_was_taken_away_is_mended() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opens");
        let place = dir.path().join("state");
        let path = StateDir::take(Some(&place), &root).expect("taken").path().to_owned();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o000)).expect("taken away");
        assert_eq!(StateDir::take(Some(&place), &root).expect("taken again").path(), path);
    }
}
