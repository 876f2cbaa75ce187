//! A server's certificate, read again when its files change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use super::{ListenError, TlsFiles};

/// The files are looked at when a handshake begins, and at most this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A certificate that follows its files.
#[derive(Debug)]
pub(super) struct Certificates {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamps: Stamps,
    looked: Instant,
}

/// What tells one version of the two files from another. A rotated Secret mount swaps a symlink, so that the inode
/// changes even where the time does not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps([Option<Stamp>; 2]);

/// Device, inode, modification time in seconds and nanoseconds, size.
type Stamp = (u64, u64, i64, i64, u64);

impl Certificates {
    pub(super) fn load(files: TlsFiles) -> Result<Self, ListenError> {
        // Looked at before they are read: a change in between is then seen at the next look.
        let stamps = Stamps::of(&files);
        let config = read(&files).map_err(|why| ListenError::Certificate { files: files.clone(), why })?;
        let current = Mutex::new(Current { config, stamps, looked: Instant::now() });
        Ok(Self { files, current })
    }

    /// The configuration for a handshake that begins now. It reads two small local files when they changed, on the
    /// caller's thread; a new certificate that cannot be used leaves the old one in place.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            let stamps = Stamps::of(&self.files);
            if stamps != current.stamps {
                // Kept for a bad one as well, so that it is complained of once.
                current.stamps = stamps;
                let cert = self.files.cert.display();
                match read(&self.files) {
                    Ok(config) => {
                        info!(%cert, "the certificate was read again");
                        current.config = config;
                    }
                    Err(why) => warn!(%cert, why, "the new certificate cannot be used; the old one stays"),
                }
            }
        }
        Arc::clone(&current.config)
    }
}

impl Stamps {
    fn of(files: &TlsFiles) -> Self {
        let stamp = |file: &Path| -> io::Result<Stamp> {
            let about = fs::metadata(file)?;
            Ok((about.dev(), about.ino(), about.mtime(), about.mtime_nsec(), about.size()))
        };
        Self([stamp(&files.cert).ok(), stamp(&files.key).ok()])
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| format!("the certificate: {error}"))?;
    if chain.is_empty() {
        return Err("the certificate's file holds none in PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| format!("the key: {error}"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes another certificate beside the old one and renames it over it, as a rotation does.
    fn rotate(files: &TlsFiles) {
        let made = rcgen::generate_simple_self_signed(["h.example".to_owned()]).expect("a certificate");
        for (file, text) in [(&files.cert, made.cert.pem()), (&files.key, made.signing_key.serialize_pem())] {
            let new = file.with_extension("new");
            fs::write(&new, text).expect("written");
            fs::rename(&new, file).expect("renamed");
        }
    }

    /// As if the last look was long ago.
    fn config_later(certificates: &Certificates) -> Arc<ServerConfig> {
        certificates.current.lock().expect("no panic").looked -= LOOK_EVERY;
        certificates.config()
    }

    #[test]
    fn a_rotated_certificate_is_read_and_a_bad_one_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = TlsFiles { cert: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
        rotate(&files);
        let certificates = Certificates::load(files.clone()).expect("loads");
        let first = certificates.config();
        assert!(Arc::ptr_eq(&first, &config_later(&certificates)), "nothing changed");

        rotate(&files);
        assert!(Arc::ptr_eq(&first, &certificates.config()), "looked at too often");
        let second = config_later(&certificates);
        assert!(!Arc::ptr_eq(&first, &second), "the new one is taken");

        fs::write(&files.key, "no key").expect("written");
        assert!(Arc::ptr_eq(&second, &config_later(&certificates)), "a bad one is not taken");
        fs::remove_file(&files.cert).expect("removed");
        assert!(Arc::ptr_eq(&second, &config_later(&certificates)), "a missing one is not taken");

        rotate(&files);
        assert!(!Arc::ptr_eq(&second, &config_later(&certificates)), "the next good one is taken");
    }
}
