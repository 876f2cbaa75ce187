//! The tokens of attempts: derived from one key, so that a restart keeps them good and nothing has to be stored or
//! revoked. Whether the attempt still goes on is asked of the engine.
//!
//! ```text
//! rtl1.<namespace>.<name>.<uid>.<attempt>.<fence>.<hex of HMAC-SHA256(key, "lease" NUL and the same words)>
//! rtr1.<hex of HMAC-SHA256(key, "read" NUL and the same words)>
//! ```

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, AttemptNumber, Fence};
use runtimed_api::session::SecretText;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::key::Key;

/// The longest lease token: three names, two numbers, a MAC.
const MAX_TOKEN: usize = 512;

/// Makes and knows the tokens of attempts. Clones hold the same key.
#[derive(Clone)]
pub struct AttemptTokens {
    key: Arc<Key>,
}

impl fmt::Debug for AttemptTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptTokens(…)")
    }
}

impl AttemptTokens {
    /// Tokens under this key.
    #[must_use]
    pub fn under(key: Key) -> Self {
        Self { key: Arc::new(key) }
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
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.bytes()) else { return String::new() };
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
        let open = |name| AttemptTokens::under(Key::open(&dir.path().join(name)).expect("a key"));
        let tokens = open("key");
        let token = tokens.lease(&attempt(1));
        assert_eq!(tokens.verify(token.expose()), Some(attempt(1)));
        assert_eq!(open("key").verify(token.expose()), Some(attempt(1)));
        assert_eq!(open("other").verify(token.expose()), None);
    }

    #[test]
    fn a_changed_token_is_good_for_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let tokens = AttemptTokens::under(Key::open(&dir.path().join("key")).expect("a key"));
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
}
