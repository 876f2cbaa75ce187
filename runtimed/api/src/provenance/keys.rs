//! The keys that a controller has signed with: each stays known, so that what it signed can be judged for ever.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::VerifyingKey;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Every key that a controller has signed with, oldest first: `GET /v1/keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyHistory {
    /// The keys.
    pub keys: Vec<KeyRecord>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRecord {
    /// The SHA-256 of its 32 bytes.
    pub id: Digest,
    /// The key.
    pub public: PublicKey,
    /// When it began to sign.
    pub from: Timestamp,
    /// When another key took over; absent while it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// From when on its statements are not good any more; absent while it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// An ed25519 public key: 32 bytes, in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9+/]{43}=$"))]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    pub(super) fn of(key: &VerifyingKey) -> Self {
        Self(*key)
    }

    /// The name it goes by: the SHA-256 of its bytes.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// Whether the signature is of these bytes by this key; malleable and weak forms are none.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", BASE64.encode(self.0.as_bytes()))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = BASE64.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        key.filter(|key| !key.is_weak()).map(Self).ok_or("a public key is 32 bytes in base64")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        BASE64.encode(key.0.as_bytes())
    }
}

impl KeyHistory {
    /// The key of this id. A record whose id is not its key's is none.
    #[must_use]
    pub fn find(&self, id: &Digest) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.id == *id && key.public.id() == *id)
    }

    /// The history from when `current` signs: whatever signed before stops now, and expires after `overlap`. `None` if
    /// `current` has expired or was given an expiry in the past, for nobody would take what it signs.
    #[must_use]
    pub fn with_current(
        mut self,
        current: &PublicKey,
        now: Timestamp,
        overlap: SignedDuration,
    ) -> Option<Self> {
        let id = current.id();
        if self.find(&id).is_some_and(|key| key.expires.is_some_and(|expires| expires <= now)) {
            return None;
        }
        for key in self.keys.iter_mut().filter(|key| key.id != id && key.until.is_none()) {
            key.until = Some(now);
            key.expires.get_or_insert(now.checked_add(overlap).unwrap_or(Timestamp::MAX));
        }
        match self.keys.iter_mut().find(|key| key.id == id) {
            Some(known) => (known.until, known.expires) = (None, None),
            None => {
                let public = current.clone();
                self.keys.push(KeyRecord { id, public, from: now, until: None, expires: None });
            }
        }
        Some(self)
    }
}
