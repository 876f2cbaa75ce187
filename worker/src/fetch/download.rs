//! The download of one file over https.
//!
//! Redirects are followed to other hosts as well, for that is how most of them serve large files; the credential is
//! shown only to hosts that it is for. The kernel holds the child to the first URL's port all the while.

use std::fs::File;
use std::io::{Read, Write};

use runtimed_api::digest::Digest;
use runtimed_api::https_url::HttpsUrl;
use sha2::{Digest as _, Sha256};
use ureq::Agent;

use super::archive::too_long;
use super::credential::Sealed;
use super::http::{failed, refused, unreachable};
use crate::failure::{Failure, storage};

/// Redirects on the way.
const REDIRECTS: usize = 5;
/// Bytes of a file.
const MAX_FILE: u64 = 4 << 30;
/// Bytes taken at once.
const CHUNK: usize = 64 * 1024;

/// Writes what is at `url` to `file`, and gives its digest.
pub(super) fn download(
    agent: &Agent,
    mut url: HttpsUrl,
    credential: Option<&Sealed>,
    file: &mut File,
) -> Result<Digest, Failure> {
    // A credential that is for another host is a mistake, and told before anything is sent.
    let mut authorization = credential.map(|sealed| sealed.authorization(url.host())).transpose()?;
    let mut query = String::new();
    for _ in 0..=REDIRECTS {
        let request = agent.get(format!("{url}{query}"));
        let answer = match &authorization {
            Some(value) => request.header("Authorization", value.as_str()).call(),
            None => request.call(),
        };
        let answer = answer.map_err(|error| unreachable(&url, &error))?;
        if !answer.status().is_redirection() {
            refused(&url, answer.status(), authorization.is_some())?;
            let body = answer.into_body().into_with_config().limit(MAX_FILE + 1).reader();
            return save(body, &url, file);
        }
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        // Signatures for a short time are in queries, which is why these are never shown.
        let (path, rest) = location.map_or(("", ""), |it| it.split_at(it.find('?').unwrap_or(it.len())));
        let plain = rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        url = url.resolve(path).filter(|_| plain).ok_or_else(|| {
            failed(&url, "it redirects to what is no https URL without user and fragment").lasting()
        })?;
        query = rest.to_owned();
        authorization = match credential.filter(|sealed| sealed.is_for(url.host())) {
            Some(sealed) => Some(sealed.authorization(url.host())?),
            None => None,
        };
    }
    Err(failed(&url, "it redirects again and again"))
}

fn save(mut body: impl Read, url: &HttpsUrl, file: &mut File) -> Result<Digest, Failure> {
    let (mut hash, mut chunk, mut size) = (Sha256::new(), vec![0; CHUNK], 0_u64);
    loop {
        let count = body.read(&mut chunk).map_err(|error| failed(url, &error.to_string()))?;
        if count == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        size += u64::try_from(count).unwrap_or(u64::MAX);
        if size > MAX_FILE {
            return Err(too_long(MAX_FILE));
        }
        let piece = chunk.get(..count).unwrap_or_default();
        hash.update(piece);
        file.write_all(piece).map_err(|error| storage("store the archive", &error))?;
    }
}
