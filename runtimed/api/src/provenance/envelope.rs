//! The envelope of a statement, as DSSE has it: the signature covers type and payload, and is checked before either is
//! read.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keys::{KeyHistory, PublicKey};
use super::{Distrust, Statement, Vouched};
use crate::digest::Digest;

/// What the payload of every envelope of ours is.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The longest payload, in characters of base64; a statement of ours has some 800.
const MAX_PAYLOAD: usize = 16 * 1024;
/// Signatures that are looked at.
const MAX_SIGNATURES: usize = 8;

/// A statement and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    /// `application/vnd.in-toto+json`.
    pub payload_type: String,
    /// The statement's bytes, in base64.
    #[schemars(length(max = 16384))]
    pub payload: String,
    /// At least one.
    #[schemars(length(min = 1, max = 8))]
    pub signatures: Vec<Signature>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Of the public key.
    pub keyid: Digest,
    /// 64 bytes, in base64.
    pub sig: String,
}

/// A private key that signs statements. It is wiped from memory when it is dropped, and never shown.
pub struct Signer {
    key: SigningKey,
    public: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public.id())
    }
}

impl Signer {
    /// The key of this seed (RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::of(&key.verifying_key());
        Self { key, public }
    }

    /// The half that everybody may know.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a statement.
    ///
    /// # Panics
    /// Never: a statement can be written as JSON.
    #[must_use]
    pub fn sign(&self, statement: &Statement) -> Envelope {
        let payload = serde_json::to_vec(statement).expect("a statement can be written as JSON");
        let signature = self.key.sign(&encoded(&payload));
        Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: BASE64.encode(payload),
            signatures: vec![Signature { keyid: self.public.id(), sig: BASE64.encode(signature.to_bytes()) }],
        }
    }
}

impl Envelope {
    /// The statement, if one of `keys` has signed it and is good at `now`.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn verify(&self, keys: &KeyHistory, now: Timestamp) -> Result<Vouched, Distrust> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(Distrust::Malformed("it is of another type"));
        }
        if self.payload.len() > MAX_PAYLOAD || self.signatures.len() > MAX_SIGNATURES {
            return Err(Distrust::Malformed("it is too large"));
        }
        let first = self.signatures.first().ok_or(Distrust::Malformed("nobody signed it"))?;
        let known =
            self.signatures.iter().find_map(|signature| Some((signature, keys.find(&signature.keyid)?)));
        let (signature, key) = known.ok_or(Distrust::UnknownKey(first.keyid))?;
        if let Some(at) = key.expires.filter(|expires| *expires <= now) {
            return Err(Distrust::Expired { key: key.id, at });
        }
        let bytes = BASE64.decode(&signature.sig).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        let bytes = bytes.ok_or(Distrust::Malformed("a signature is not 64 bytes in base64"))?;
        let payload = BASE64.decode(&self.payload).map_err(|_| Distrust::Malformed("it is not base64"))?;
        if !key.public.has_signed(&encoded(&payload), &bytes) {
            return Err(Distrust::Signature(key.id));
        }
        let statement = serde_json::from_slice(&payload)
            .map_err(|_| Distrust::Malformed("it is no statement about a patch"))?;
        Ok(Vouched(statement))
    }
}

/// What is signed: DSSE's pre-authentication encoding, in which no two pairs of type and payload look alike.
fn encoded(payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}
