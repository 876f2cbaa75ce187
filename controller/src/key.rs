//! A secret key of the controller, in a file of its own.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key file {} cannot be used: {why}", path.display())]
pub struct KeyError {
    path: PathBuf,
    why: String,
}

/// 32 random bytes, wiped from memory when dropped, never shown.
pub struct Key(Zeroizing<[u8; 32]>);

impl KeyError {
    pub(crate) fn new(path: &Path, why: impl ToString) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Reads the key, making the file (mode 0600) when there is none.
    ///
    /// # Errors
    /// The file cannot be read or made, or is not 32 bytes long.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let failed = |error: io::Error| KeyError { path: path.to_owned(), why: error.to_string() };
        match read(path).map_err(failed)? {
            Some(key) => Ok(Self(key)),
            None => make(path).map(Self).map_err(failed),
        }
    }

    /// Reads the key of a file that must be there.
    ///
    /// # Errors
    /// The file cannot be read, or is not 32 bytes long.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        match read(path) {
            Ok(Some(key)) => Ok(Self(key)),
            Ok(None) => Err(KeyError::new(path, "there is no such file")),
            Err(error) => Err(KeyError::new(path, error)),
        }
    }

    /// The bytes. Whoever copies them wipes the copy.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn read(path: &Path) -> io::Result<Option<Zeroizing<[u8; 32]>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut key = Zeroizing::new([0; 32]);
    let short = || io::Error::other("it is not 32 bytes long");
    file.read_exact(&mut *key).map_err(|_| short())?;
    if file.read(&mut [0])? == 0 { Ok(Some(key)) } else { Err(short()) }
}

fn make(path: &Path) -> io::Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    File::open("/dev/urandom")?.read_exact(&mut *key)?;
    write_whole(path, &*key)?;
    Ok(key)
}

/// Writes a file (mode 0600) under another name first: a crash in between must not leave half of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        let made = Key::open(&file).expect("made");
        assert_eq!(Key::open(&file).expect("read").bytes(), made.bytes());
        let mode = std::fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(format!("{made:?}"), "Key(…)");
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for bytes in [&b"short"[..], &[7; 33]] {
            let file = dir.path().join("key");
            std::fs::write(&file, bytes).expect("written");
            let error = Key::open(&file).expect_err("refused").to_string();
            assert!(error.contains("not 32 bytes long"), "{error}");
        }
    }
}
