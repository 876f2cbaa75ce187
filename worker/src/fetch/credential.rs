//! The credential of a fetch: read from its sealed memory file in the fetch child alone, and shown to its hosts alone.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use runtimed_api::link::{Credential, CredentialKind};
use runtimed_api::problem::Code;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::ssh::SshKeys;
use crate::failure::Failure;

/// A credential whose bytes have not been looked at.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) about: Credential,
    pub(crate) bytes: OwnedFd,
}

/// The bytes of a credential of kind `git-https`.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct GitHttps {
    username: String,
    password: String,
}

/// The most bytes that a credential may have: a key and host keys of 64 KiB each, as JSON.
const MAX_CREDENTIAL: usize = 256 * 1024;

impl Sealed {
    /// The value of an Authorization header for `host`.
    pub(super) fn authorization(&self, host: &str) -> Result<Zeroizing<String>, Failure> {
        let login: GitHttps = self.open(CredentialKind::GitHttps, host)?;
        let pair = Zeroizing::new(format!("{}:{}", login.username, login.password));
        Ok(Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_bytes()))))
    }

    /// The key and the host keys for ssh to `host`.
    pub(super) fn ssh_keys(&self, host: &str) -> Result<SshKeys, Failure> {
        self.open(CredentialKind::GitSsh, host)
    }

    /// Whether it may be shown to `host`.
    pub(super) fn is_for(&self, host: &str) -> bool {
        self.about.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn open<T: DeserializeOwned>(&self, wanted: CredentialKind, host: &str) -> Result<T, Failure> {
        if self.about.kind != wanted {
            let name = if wanted == CredentialKind::GitHttps { "git-https" } else { "git-ssh" };
            return Err(refused(&format!("the credential is not of kind {name}, which this URL needs")));
        }
        if !self.is_for(host) {
            return Err(refused(&format!("the credential may not be shown to {host}"))
                .hint("add the host to the secret's `hosts`"));
        }
        let bytes = read_sealed(&self.bytes, MAX_CREDENTIAL)
            .map_err(|_| refused("the credential cannot be read, or is too large"))?;
        // serde's own words could repeat what it read.
        serde_json::from_slice(&bytes)
            .map_err(|_| refused("the credential is not JSON of the parts that its kind has"))
    }
}

fn refused(message: &str) -> Failure {
    Failure::fault(Code::SourceCredential, message)
}

/// The bytes of a sealed memory file, from its start wherever its offset is; an error if there are more than `most`.
pub(crate) fn read_sealed(file: &OwnedFd, most: usize) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let file = File::from(file.try_clone()?);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > most {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
