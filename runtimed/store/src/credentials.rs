//! Credentials from files, which a Secret mount swaps when they rotate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

/// The largest file of a credential: a key, a token, the JSON of a service account.
const MAX_FILE: u64 = 64 * 1024;

/// The text of a small file, without the newline that editors add.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let failed = |why: String| format!("{} cannot be read: {why}", path.display());
    let size = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(failed(format!("{size} bytes are too many")));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let text = text.trim_end_matches(['\n', '\r']).to_owned();
    if text.is_empty() { Err(failed("it is empty".to_owned())) } else { Ok(text) }
}

/// A key of S3 in a directory.
#[derive(Debug)]
pub(super) struct AwsFiles {
    dir: PathBuf,
    /// The key, and when its file was changed.
    read: Mutex<(Arc<AwsCredential>, Option<SystemTime>)>,
}

impl AwsFiles {
    pub(super) fn new(dir: &Path) -> Result<Self, String> {
        let changed = changed(dir);
        let credential = Arc::new(credential(dir)?);
        Ok(Self { dir: dir.to_owned(), read: Mutex::new((credential, changed)) })
    }
}

fn changed(dir: &Path) -> Option<SystemTime> {
    fs::metadata(dir.join("secret-access-key")).and_then(|metadata| metadata.modified()).ok()
}

fn credential(dir: &Path) -> Result<AwsCredential, String> {
    let token = dir.join("session-token");
    Ok(AwsCredential {
        key_id: read(&dir.join("access-key-id"))?,
        secret_key: read(&dir.join("secret-access-key"))?,
        token: if token.exists() { Some(read(&token)?) } else { None },
    })
}

#[async_trait]
impl CredentialProvider for AwsFiles {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let now = changed(&self.dir);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.1 != now {
            // In the middle of a rotation the last good key is as good as any.
            match credential(&self.dir) {
                Ok(fresh) => *read = (Arc::new(fresh), now),
                Err(why) => tracing::warn!(why, "the store's credentials have changed and cannot be used"),
            }
        }
        Ok(Arc::clone(&read.0))
    }
}
