//! Uploads that were begun and never came to their end: whoever began them died, or their id was lost on its way back. Nobody
//! sees their parts, and somebody pays for them.
//!
//! `object_store` cannot list them, so that S3 is asked here: `GET /?uploads&prefix=…`
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>). In a directory they are files beside the one
//! that they are to become, `NAME#NUMBER`, which no listing shows. Azure drops what was not committed after a week, and in a bucket
//! of GCS a lifecycle rule does it.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs, io};

use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer as _};
use reqwest::{Client, Method};
use runtimed_api::digest::Digest;

use super::upload::PART;
use super::{BlobStore, Place};

/// How long the signature of a listing is good for.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// How long a listing may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a file that is kept may be looked after.
const SWEEP_FILE: Duration = Duration::from_secs(5);
/// The largest listing, in bytes: a thousand uploads, which is what one answer has at most, are a tenth of it.
const MAX_LISTING: usize = 8 * 1024 * 1024;
/// Listings that follow each other, each of a thousand uploads.
const ROUNDS: usize = 20;

/// A bucket of S3.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) s3: Arc<AmazonS3>,
    pub(super) client: Client,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.s3)
    }
}

/// Uploads that could not be found or aborted.
#[derive(Debug, thiserror::Error)]
#[error(
    "unfinished uploads could not be removed: {0}; a lifecycle rule of the bucket can abort them after a day"
)]
pub struct SweepError(String);

impl BlobStore {
    /// Aborts every upload into this place that was begun and has not ended, and says how many. Nothing may be uploaded there
    /// meanwhile that is still wanted.
    ///
    /// # Errors
    /// They cannot be listed, as where the credential may not, or one of them cannot be aborted.
    pub async fn sweep(&self, place: &Place) -> Result<usize, SweepError> {
        let within = self.within(place);
        if let Some(directory) = &self.directory {
            let directory = directory.join(within.as_ref());
            let swept = tokio::task::spawn_blocking(move || sweep_directory(&directory, DEEPEST));
            let swept = swept.await.map_err(io::Error::other).flatten();
            return swept.map_err(|error| SweepError(error.to_string()));
        }
        self.sweep_below(&format!("{within}/")).await
    }

    /// Aborts every upload of people's patches and sources that was begun and has not ended, as [`BlobStore::sweep`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn sweep_uploaded(&self) -> Result<usize, SweepError> {
        let [patches, trees] = ["patches", "trees"].map(|kind| Place(Path::from(kind)));
        Ok(self.sweep(&patches).await? + self.sweep(&trees).await?)
    }

    /// Aborts what else was begun of a blob of so many bytes that is kept now, and says so in the log alone. Nobody may be sending
    /// it meanwhile whose answer matters.
    pub async fn sweep_blob(&self, place: &Place, digest: &Digest, size: u64) {
        if size > PART as u64 {
            self.sweep_file(&self.blob(place, digest)).await;
        }
    }

    /// Aborts what else was begun of a file that is kept now: the answer that had its id may have been lost.
    pub(super) async fn sweep_file(&self, path: &Path) {
        match tokio::time::timeout(SWEEP_FILE, self.sweep_below(path.as_ref())).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::debug!(count, "the beginnings of an upload were removed"),
            Ok(Err(error)) => tracing::debug!(%error, "parts may be left in the store"),
            Err(_elapsed) => tracing::debug!("parts may be left in the store, which does not answer"),
        }
    }

    async fn sweep_below(&self, prefix: &str) -> Result<usize, SweepError> {
        let Some(bucket) = &self.bucket else { return Ok(0) };
        let failed = |error: object_store::Error| SweepError(error.to_string());
        let mut swept = 0;
        for _ in 0..ROUNDS {
            let begun = bucket.begun(prefix).await?;
            if begun.is_empty() {
                break;
            }
            for (path, id) in begun {
                match bucket.s3.abort_multipart(&path, &id).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => swept += 1,
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(swept)
    }
}

/// Directories within each other below a place: those of logs and attempts, and one to spare.
const DEEPEST: usize = 3;

/// Removes what was begun in a directory, and the directories that are empty then.
fn sweep_directory(directory: &FilePath, depth: usize) -> io::Result<usize> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut swept = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            swept += sweep_directory(&entry.path(), depth - 1)?;
        } else if kind.is_file() && is_begun(entry.file_name().as_encoded_bytes()) {
            fs::remove_file(entry.path())?;
            swept += 1;
        }
    }
    if swept > 0 {
        // One that is not empty stays.
        let _kept = fs::remove_dir(directory);
    }
    Ok(swept)
}

/// Whether `object_store` named a file so that is to become another: a digest or an offset has no `#`.
fn is_begun(name: &[u8]) -> bool {
    let mut parts = name.rsplitn(2, |byte| *byte == b'#');
    let number = parts.next().unwrap_or_default();
    parts.next().is_some() && !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

impl Bucket {
    /// What was begun below a prefix: at most a thousand.
    async fn begun(&self, prefix: &str) -> Result<Vec<(Path, String)>, SweepError> {
        let options = SignedUrlOptions::default().with_query([("prefix", prefix), ("uploads", "")]);
        let url = self.s3.signed_url_opts(Method::GET, &Path::default(), GOOD_FOR, &options).await;
        let url = url.map_err(|error| SweepError(error.to_string()))?;
        // A URL that is signed is a credential: it is in no error.
        let failed = |error: reqwest::Error| SweepError(error.without_url().to_string());
        let mut answer = self.client.get(url).timeout(PATIENCE).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(SweepError(format!("listing them answers {}", answer.status())));
        }
        let mut listing = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if listing.len() + piece.len() > MAX_LISTING {
                return Err(SweepError("the list of them has no end".to_owned()));
            }
            listing.extend_from_slice(&piece);
        }
        Ok(uploads(&String::from_utf8_lossy(&listing), prefix))
    }
}

/// The uploads of a listing. Names in it are ours, and so need no more of XML than this; others are left alone.
fn uploads(listing: &str, prefix: &str) -> Vec<(Path, String)> {
    let field = |upload: &str, name: &str| {
        let (_, rest) = upload.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.replace("&amp;", "&"))
    };
    let upload = |text: &str| {
        let key = field(text, "Key").filter(|key| key.starts_with(prefix))?;
        Some((Path::parse(key).ok()?, field(text, "UploadId").filter(|id| !id.is_empty())?))
    };
    listing.split("<Upload>").skip(1).filter_map(upload).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_read_and_what_is_not_ours_is_left_alone() {
        let listing = "<?xml version=\"1.0\"?><ListMultipartUploadsResult><Bucket>b</Bucket><UploadIdMarker></UploadIdMarker>\
            <Upload>\n<Key>runs/u1/ab</Key><UploadId>x&amp;y</UploadId></Upload>\
            <Upload><Key>runs/u12/ab</Key><UploadId>z</UploadId></Upload>\
            <Upload><Key>runs/u1/cd</Key><UploadId></UploadId></Upload>\
            <Upload><UploadId>2</UploadId><Key>runs/u1/ef</Key></Upload></ListMultipartUploadsResult>";
        let found = uploads(listing, "runs/u1/");
        let found: Vec<_> = found.iter().map(|(path, id)| (path.as_ref(), id.as_str())).collect();
        assert_eq!(found, [("runs/u1/ab", "x&y"), ("runs/u1/ef", "2")]);
        assert!(uploads("<Upload><Key>runs/u1/a", "runs/u1/").is_empty());
    }
}
