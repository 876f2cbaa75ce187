//! The tokens of attempts: derived from one key, so that a restart keeps them good and nothing has to be stored or
//! revoked. Whether the attempt still goes on is asked of the engine.
//!
//! ```text
//! rtl1.<namespace>.<name>.<uid>.<attempt>.<fence>.<hex of HMAC-SHA256(key, "lease" NUL and the same words)>
//! rtr1.<hex of HMAC-SHA256(key, "read" NUL and the same words)>
//! ```

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, AttemptNumber, Fence};
use runtimed_api::session::SecretText;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// The longest lease token: three names, two numbers, a MAC.
const MAX_TOKEN: usize = 512;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key file {} cannot be used: {why}", path.display())]
pub struct KeyError {
    path: PathBuf,
    why: String,
}

/// Makes and knows the tokens of attempts. Clones hold the same key.
#[derive(Clone)]
pub struct AttemptTokens {
    key: Arc<[u8; 32]>,
}

impl fmt::Debug for AttemptTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptTokens(…)")
    }
}

impl AttemptTokens {
    /// Reads the key (32 bytes, mode 0600), making a random one when there is none.
    ///
    /// # Errors
    /// The file cannot be read or made, or is not 32 bytes long.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let failed = |why: String| KeyError { path: path.to_owned(), why };
        match read(path) {
            Ok(Some(key)) => return Ok(Self { key: Arc::new(key) }),
            Ok(None) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
        let key = random_key().map_err(|error| failed(error.to_string()))?;
        // Written whole under another name first: a crash in between must not leave half a key.
        let draft = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&key)?;
            file.sync_all()?;
            std::fs::rename(&draft, path)?;
            path.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
        };
        write().map_err(|error| failed(error.to_string()))?;
        Ok(Self { key: Arc::new(key) })
    }

    /// Opens the blobs of this attempt.
    #[must_use]
    pub fn lease(&self, attempt: &AttemptKey) -> SecretText {
        let words = words(attempt);
        SecretText::new(format!("rtl1.{words}.{}", self.mac("lease", &words)))
    }

    /// Opens the daemon's own endpoints for this attempt.
    #[must_use]
    pub fn read(&self, attempt: &AttemptKey) -> SecretText {
        SecretText::new(format!("rtr1.{}", self.mac("read", &words(attempt))))
    }

    /// The attempt whose lease token this is.
    #[must_use]
    pub fn verify(&self, token: &str) -> Option<AttemptKey> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (words, mac) = token.strip_prefix("rtl1.")?.rsplit_once('.')?;
        if !bool::from(self.mac("lease", words).as_bytes().ct_eq(mac.as_bytes())) {
            return None;
        }
        let mut words = words.split('.');
        let attempt = AttemptKey {
            namespace: words.next()?.parse().ok()?,
            name: words.next()?.parse().ok()?,
            uid: words.next()?.parse().ok()?,
            attempt: AttemptNumber(words.next()?.parse().ok()?),
            fence: Fence(words.next()?.parse().ok()?),
        };
        words.next().is_none().then_some(attempt)
    }

    fn mac(&self, purpose: &str, words: &str) -> String {
        // A key of any length is good for HMAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&*self.key) else { return String::new() };
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(words.as_bytes());
        Digest::from_bytes(mac.finalize().into_bytes().into()).hex()
    }
}

/// The words of an attempt. No name holds a dot, so that they can be told apart again.
fn words(attempt: &AttemptKey) -> String {
    let AttemptKey { namespace, name, uid, attempt, fence } = attempt;
    format!("{namespace}.{name}.{uid}.{attempt}.{fence}")
}

fn read(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut file = match OpenOptions::new().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut key = [0; 32];
    file.read_exact(&mut key)?;
    if file.read(&mut [0])? == 0 { Ok(Some(key)) } else { Err(io::Error::other("it is not 32 bytes long")) }
}

fn random_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

/// Five random characters for a generated name.
#[must_use]
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = Uuid::now_v7().into_bytes();
    // The last bytes of a UUIDv7 are random.
    random[11..].iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(fence: u64) -> AttemptKey {
        AttemptKey {
            namespace: "default".parse().expect("a name"),
            name: "fix-typo".parse().expect("a name"),
            uid: "0190-a".parse().expect("a uid"),
            attempt: AttemptNumber(1),
            fence: Fence(fence),
        }
    }

    #[test]
    fn a_token_is_good_for_its_own_attempt_and_survives_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        let tokens = AttemptTokens::open(&file).expect("a key");
        let token = tokens.lease(&attempt(1));
        assert_eq!(tokens.verify(token.expose()), Some(attempt(1)));
        assert_eq!(AttemptTokens::open(&file).expect("the key").verify(token.expose()), Some(attempt(1)));
        let other = AttemptTokens::open(&dir.path().join("other")).expect("a key");
        assert_eq!(other.verify(token.expose()), None);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_changed_token_is_good_for_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let tokens = AttemptTokens::open(&dir.path().join("key")).expect("a key");
        let token = tokens.lease(&attempt(1));
        let raised = token.expose().replacen(".1.1.", ".1.2.", 1);
        assert_ne!(raised, token.expose());
        for bad in [&raised, "", "rtl1.", "rtl1.a.b", tokens.read(&attempt(1)).expose(), &"x".repeat(600)] {
            assert_eq!(tokens.verify(bad), None, "{bad}");
        }
        // A read token is no lease token, even spelled as one.
        let read = tokens.read(&attempt(1));
        let mac = read.expose().trim_start_matches("rtr1.");
        assert_eq!(tokens.verify(&format!("rtl1.{}.{mac}", words(&attempt(1)))), None);
    }

    #[test]
    fn a_short_key_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        std::fs::write(&file, b"short").expect("written");
        assert!(AttemptTokens::open(&file).is_err());
    }
}
