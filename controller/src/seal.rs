//! Secrets that were submitted with a Run, as they are stored: sealed under a key that is not in the database.
//!
//! ```text
//! sealed   nonce (12 random bytes)  ChaCha20-Poly1305 of the JSON {name: base64}   tag
//! ```
//!
//! The Run's uid is authenticated with them, so that those of one Run cannot be put in the place of another's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use runtimed_api::ids::{RunUid, SecretName};
use runtimed_api::session::SecretValue;
use zeroize::Zeroizing;

use crate::key::Key;

/// The secrets of one Run.
pub type Secrets = BTreeMap<SecretName, SecretValue>;

/// Seals and opens secrets. Clones hold the same key.
#[derive(Clone)]
pub struct Sealer {
    key: Arc<LessSafeKey>,
    random: SystemRandom,
}

/// Secrets that cannot be sealed or opened. It does not say why: every reason is the same to whoever may not know.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the submitted secrets cannot be sealed or opened with this key")]
pub struct SealError;

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// Seals under this key.
    ///
    /// # Errors
    /// Never for a key of 32 bytes, as this one is.
    pub fn under(key: &Key) -> Result<Self, SealError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.bytes()).map_err(|_| SealError)?;
        Ok(Self { key: Arc::new(LessSafeKey::new(key)), random: SystemRandom::new() })
    }

    /// Seals the secrets of a Run.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn seal(&self, uid: &RunUid, secrets: &Secrets) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError)?;
        // The tag is appended in place: with room for it the plain text is not copied to another allocation.
        let json = Zeroizing::new(serde_json::to_vec(secrets).map_err(|_| SealError)?);
        let mut bytes = Vec::with_capacity(json.len() + CHACHA20_POLY1305.tag_len());
        bytes.extend_from_slice(&json);
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, aad(uid), &mut bytes).map_err(|_| SealError)?;
        Ok([&nonce[..], &bytes].concat())
    }

    /// Opens what was sealed for this Run.
    ///
    /// # Errors
    /// It was sealed under another key or for another Run, or was changed.
    pub fn open(&self, uid: &RunUid, sealed: &[u8]) -> Result<Secrets, SealError> {
        let (nonce, bytes) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError)?;
        let mut bytes = Zeroizing::new(bytes.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let json = self.key.open_in_place(nonce, aad(uid), &mut bytes).map_err(|_| SealError)?;
        serde_json::from_slice(json).map_err(|_| SealError)
    }
}

fn aad(uid: &RunUid) -> Aad<Vec<u8>> {
    Aad::from([b"runtimed submitted secrets 1\0", uid.as_str().as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_own_run_under_its_own_key_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let sealer = |name| Sealer::under(&Key::open(&dir.path().join(name)).expect("a key")).expect("seals");
        let (ours, other) = (sealer("ours"), sealer("other"));
        let [uid, another]: [RunUid; 2] = ["u-1", "u-2"].map(|uid| uid.parse().expect("a uid"));
        let value = SecretValue::new(b"hunter22".to_vec());
        let secrets = Secrets::from([("llm".parse().expect("a name"), value)]);
        let sealed = ours.seal(&uid, &secrets).expect("sealed");
        assert_eq!(ours.open(&uid, &sealed).expect("opens"), secrets);
        assert_ne!(ours.seal(&uid, &secrets).expect("sealed"), sealed, "each time another nonce");
        for plain in [&b"hunter22"[..], b"aHVudGVyMjI"] {
            assert!(!sealed.windows(plain.len()).any(|window| window == plain));
        }
        assert!(ours.open(&another, &sealed).is_err());
        assert!(other.open(&uid, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(ours.open(&uid, &changed).is_err(), "byte {at}");
            assert!(ours.open(&uid, &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
