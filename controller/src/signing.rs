//! Vouching for patches: one key signs, and the public halves of all that ever did are known to everybody.
//!
//! ```text
//! signing.key           32 bytes; another file with --signing-key      replaced by the operator, then a restart
//! signing-history.json  every public key that signed here, and when    what daemons hold statements to
//! ```
//!
//! A key that is replaced stays good for the overlap, so that patches made before can be used meanwhile.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptNumber, Namespace};
use runtimed_api::provenance::{
    Captured, Envelope, KeyHistory, Origin, Predicate, Signer, Statement, Uploaded,
};
use runtimed_api::run::status::Patch;

use crate::core::Record;
use crate::key::{Key, KeyError, write_whole};

/// Public keys that are kept; of more, those that expired first are dropped.
const MAX_KEYS: usize = 256;
/// The largest history that is read, in bytes.
const MAX_HISTORY: u64 = 1 << 20;

/// Signs statements.
#[derive(Debug)]
pub struct Signing {
    signer: Signer,
    history: KeyHistory,
}

impl Signing {
    /// Reads the key and the history in the directory `data`, and makes what is not there. A key that is new takes over
    /// from the one before, which stays good for `overlap`. A key file that is named, with `key`, must exist.
    ///
    /// # Errors
    /// A file cannot be used, or the key has expired.
    pub fn open(
        data: &Path,
        key: Option<&Path>,
        overlap: SignedDuration,
        now: Timestamp,
    ) -> Result<Self, KeyError> {
        let own = data.join("signing.key");
        let made = key.is_none() && !own.exists();
        let seed = key.map_or_else(|| Key::open(&own), Key::read)?;
        let signer = Signer::from_seed(seed.bytes());
        let id = signer.public().id();
        if made {
            let path = own.display().to_string();
            tracing::info!(key = %id, path, "made a key that statements about patches are signed with");
        }
        let path = data.join("signing-history.json");
        let known = read_history(&path)?;
        let history = known.clone().with_current(signer.public(), now, overlap);
        let mut history = history.ok_or_else(|| {
            KeyError::new(key.unwrap_or(&own), format!("the key {id} has expired; give another one"))
        })?;
        if history != known {
            if !known.keys.is_empty() {
                tracing::info!(key = %id, ?overlap, "another key signs from now on; those before stay good so long");
            }
            while history.keys.len() > MAX_KEYS {
                history.keys.remove(0);
            }
            let json = serde_json::to_vec_pretty(&history).map_err(|error| KeyError::new(&path, error))?;
            write_whole(&path, &json).map_err(|error| KeyError::new(&path, error))?;
        }
        Ok(Self { signer, history })
    }

    /// Every key that signed here.
    #[must_use]
    pub fn history(&self) -> &KeyHistory {
        &self.history
    }

    /// The statement about a Patch that an attempt of `run` captured; none for one that was withheld.
    #[must_use]
    pub fn captured(
        &self,
        run: &Record,
        attempt: AttemptNumber,
        patch: &Patch,
        time: Timestamp,
    ) -> Option<Envelope> {
        let captured = Captured {
            run: run.key.name.clone(),
            uid: run.uid.clone(),
            attempt,
            runtime: run.runtime().clone(),
            requested_by: run.status.requested_by.clone(),
            base: patch.base.clone(),
            result: patch.result.clone(),
        };
        let namespace = run.key.namespace.clone();
        Some(self.sign(patch.digest?, namespace, time, Origin::Captured(captured)))
    }

    /// The statement about a patch that a person uploaded.
    #[must_use]
    pub fn uploaded(&self, patch: Digest, namespace: Namespace, by: &str, time: Timestamp) -> Envelope {
        self.sign(patch, namespace, time, Origin::Uploaded(Uploaded { by: by.to_owned() }))
    }

    fn sign(&self, patch: Digest, namespace: Namespace, time: Timestamp, origin: Origin) -> Envelope {
        self.signer.sign(&Statement { patch, predicate: Predicate { namespace, time, origin } })
    }
}

fn read_history(path: &Path) -> Result<KeyHistory, KeyError> {
    let failed = |why: String| KeyError::new(path, why);
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(KeyHistory::default()),
        Err(error) => return Err(failed(error.to_string())),
        Ok(metadata) if metadata.len() > MAX_HISTORY => return Err(failed("it is larger than 1 MiB".into())),
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    runtimed_api::parse::json(&bytes).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn uploaded(signing: &Signing) -> Envelope {
        let namespace = "default".parse().expect("a name");
        signing.uploaded(Digest::of(b"x"), namespace, "alice", Timestamp::now())
    }

    #[test]
    fn a_restart_keeps_the_key_and_another_key_takes_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |key: Option<&Path>| Signing::open(dir.path(), key, DAY, Timestamp::now());
        let first = open(None).expect("made");
        let again = open(None).expect("read");
        assert_eq!(first.history(), again.history());
        let envelope = uploaded(&first);

        let key = dir.path().join("new.key");
        assert!(open(Some(&key)).expect_err("refused").to_string().contains("new.key"));
        std::fs::write(&key, [9; 32]).expect("written");
        let next = open(Some(&key)).expect("taken over");
        assert_eq!(next.history().keys.len(), 2);
        let (now, later) = (Timestamp::now(), Timestamp::now() + DAY);
        assert!(envelope.verify(next.history(), now).is_ok());
        assert!(envelope.verify(next.history(), later).is_err());
        assert!(uploaded(&next).verify(next.history(), later).is_ok());
    }

    #[test]
    fn a_key_that_has_expired_signs_nothing_more() {
        let dir = tempfile::tempdir().expect("a directory");
        Signing::open(dir.path(), None, DAY, Timestamp::now()).expect("made");
        let key = dir.path().join("new.key");
        std::fs::write(&key, [9; 32]).expect("written");
        Signing::open(dir.path(), Some(&key), SignedDuration::ZERO, Timestamp::now()).expect("taken over");
        let error = Signing::open(dir.path(), None, DAY, Timestamp::now()).expect_err("refused");
        assert!(error.to_string().contains("expired"), "{error}");
    }

    #[test]
    fn a_damaged_history_is_not_written_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("signing-history.json");
        std::fs::write(&path, "{ \"keys\": 3 }").expect("written");
        assert!(Signing::open(dir.path(), None, DAY, Timestamp::now()).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "{ \"keys\": 3 }");
    }
}
