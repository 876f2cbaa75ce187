//! Which store, as an operator says it: the same words in a daemon's `[store]` and in a controller's `--store` file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use runtimed_client::Endpoint;
use serde::{Deserialize, Serialize};

use super::BlobStore;
use super::credentials::{AwsFiles, read};
use super::sweep::Bucket;

/// The longest silence of a store, in the middle of an answer or of what is sent: then the connection is given up, and the
/// request tried again.
const STALL: Duration = Duration::from_secs(30);

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum StoreConfig {
    /// A directory, such as a volume that controller and daemons share.
    Directory {
        /// It is there, and may be written.
        path: PathBuf,
    },
    /// Amazon S3, and what speaks its protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// Below this in the bucket.
        #[serde(default)]
        prefix: String,
        /// `us-east-1` without it.
        region: Option<String>,
        /// `https://…`, or `http://` on loopback; Amazon's own without it.
        endpoint: Option<String>,
        /// Certificate authorities instead of the system's.
        ca_file: Option<PathBuf>,
        /// A directory, such as a mounted Secret, with `access-key-id`, `secret-access-key` and perhaps `session-token`. They
        /// are read again when they change. Without it the identity of the pod.
        credentials_dir: Option<PathBuf>,
    },
    /// Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// Below this in the bucket.
        #[serde(default)]
        prefix: String,
        /// `https://…` of a private way to it, or `http://` on loopback; Google's own without it, whatever the key says.
        #[serde(default)]
        endpoint: Option<String>,
        /// Certificate authorities instead of the system's.
        ca_file: Option<PathBuf>,
        /// The key of a service account, JSON. Without it the identity of the pod.
        service_account_file: Option<PathBuf>,
    },
    /// Azure Blob Storage.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// Below this in the container.
        #[serde(default)]
        prefix: String,
        /// `https://…` of another cloud than the public one, or `http://` on loopback, with whatever comes before the container.
        #[serde(default)]
        endpoint: Option<String>,
        /// Certificate authorities instead of the system's.
        ca_file: Option<PathBuf>,
        /// The account's key. Without it the identity of the pod.
        access_key_file: Option<PathBuf>,
    },
}

/// A store that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("the store {what} cannot be used: {why}")]
pub struct StoreError {
    what: String,
    why: String,
}

impl StoreConfig {
    /// The store. Nothing is asked of it yet: a cloud that is away now may be back when there is something to store.
    ///
    /// # Errors
    /// The directory is not there, a file cannot be read, or the endpoint's URL is none.
    pub fn open(&self) -> Result<BlobStore, StoreError> {
        let failed = |why: String| StoreError { what: self.to_string(), why };
        let cloud = |error: object_store::Error| failed(error.to_string());
        let mut bucket_of_s3 = None;
        let (store, parts, prefix): (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>, &str) = match self {
            Self::Directory { path } => {
                return BlobStore::local(path).map_err(|error| failed(error.to_string()));
            }
            Self::S3 { bucket, prefix, region, endpoint, ca_file, credentials_dir } => {
                let url = endpoint.as_deref().unwrap_or("https://s3.amazonaws.com");
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(region.as_deref().unwrap_or("us-east-1"))
                    .with_retry(retry())
                    .with_allow_http(url.starts_with("http://"))
                    .with_http_connector(connector(url, ca_file.as_ref()).map_err(failed)?);
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some(dir) = credentials_dir {
                    builder = builder.with_credentials(Arc::new(AwsFiles::new(dir).map_err(failed)?));
                }
                let s3 = Arc::new(builder.build().map_err(cloud)?);
                let client = client(url, ca_file.as_ref()).map_err(failed)?;
                bucket_of_s3 = Some(Bucket { s3: Arc::clone(&s3), client });
                (Arc::clone(&s3) as _, s3, prefix)
            }
            Self::Gcs { bucket, prefix, endpoint, ca_file, service_account_file } => {
                let url = endpoint.as_deref().unwrap_or("https://storage.googleapis.com");
                let mut builder = GoogleCloudStorageBuilder::new()
                    .with_bucket_name(bucket)
                    .with_base_url(url.trim_end_matches('/'))
                    .with_retry(retry())
                    .with_http_connector(connector(url, ca_file.as_ref()).map_err(failed)?);
                if let Some(file) = service_account_file {
                    builder = builder.with_service_account_key(read(file).map_err(failed)?.as_str());
                }
                let store = Arc::new(builder.build().map_err(cloud)?);
                (Arc::clone(&store) as _, store, prefix)
            }
            Self::Azure { account, container, prefix, endpoint, ca_file, access_key_file } => {
                let public = format!("https://{account}.blob.core.windows.net");
                let url = endpoint.clone().unwrap_or(public);
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_account(account)
                    .with_container_name(container)
                    .with_retry(retry())
                    .with_allow_http(url.starts_with("http://"))
                    .with_http_connector(connector(&url, ca_file.as_ref()).map_err(failed)?)
                    .with_endpoint(url);
                if let Some(file) = access_key_file {
                    builder = builder.with_access_key(read(file).map_err(failed)?.as_str());
                }
                let store = Arc::new(builder.build().map_err(cloud)?);
                (Arc::clone(&store) as _, store, prefix)
            }
        };
        let prefix = Path::parse(prefix).map_err(|error| failed(format!("the prefix: {error}")))?;
        let segments = crate::segments();
        Ok(BlobStore { store, parts: Some(parts), bucket: bucket_of_s3, prefix, directory: None, segments })
    }
}

impl std::fmt::Display for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory { path } => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Gcs { bucket, prefix, .. } => write!(f, "gs://{bucket}/{prefix}"),
            Self::Azure { account, container, prefix, .. } => {
                write!(f, "az://{account}/{container}/{prefix}")
            }
        }
    }
}

/// Each request is tried again for a while; who uploads tries again after that, until its own deadline.
fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_secs(120),
    }
}

/// Connections under the same policy as all others: rustls with ring, the configured authorities, bounded silence.
#[derive(Debug)]
struct Connector(HttpClient);

fn connector(url: &str, ca_file: Option<&PathBuf>) -> Result<Connector, String> {
    Ok(Connector(HttpClient::new(client(url, ca_file)?)))
}

fn client(url: &str, ca_file: Option<&PathBuf>) -> Result<reqwest::Client, String> {
    let endpoint = Endpoint { url: url.to_owned(), ca_file: ca_file.cloned() };
    endpoint.store_client(STALL).map_err(|error| error.to_string())
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}
