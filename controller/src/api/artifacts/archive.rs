//! Artifacts as one tar archive, which is written while it is sent.

use std::io;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use runtimed_api::manifest::Artifact;
use runtimed_store::BlobStore;

use crate::core::Blobs;

/// What archives are made of.
const BLOCK: u64 = 512;

/// These files, as one archive. It breaks off when one of them cannot be read, and then lacks its end.
pub(super) fn answer(blobs: &BlobStore, place: &Blobs, files: &[Artifact]) -> Response {
    let (blobs, place) = (blobs.clone(), place.place());
    let files: Vec<Artifact> = files.iter().filter(|file| is_safe(&file.path)).cloned().collect();
    let entries = stream::iter(files).then(move |file| {
        let (blobs, place) = (blobs.clone(), place.clone());
        async move {
            let head = head(&file)?;
            let blob = blobs.get(&place, &file.digest, None).await.map_err(io::Error::other)?;
            if blob.size != file.size {
                return Err(io::Error::other("the store has another size than the list"));
            }
            let padding =
                vec![0; usize::try_from(file.size.next_multiple_of(BLOCK) - file.size).unwrap_or(0)];
            let head = stream::iter([Ok(head)]);
            Ok(head.chain(blob.bytes.map_err(io::Error::other)).chain(stream::iter([Ok(padding.into())])))
        }
    });
    let end = stream::iter([Ok(Bytes::from(vec![0; 1024]))]);
    let body = Body::from_stream(whole(entries).chain(end));
    let headers = [
        (CONTENT_TYPE, "application/x-tar"),
        (CONTENT_DISPOSITION, "attachment"),
        (CACHE_CONTROL, "private"),
    ];
    (headers, body).into_response()
}

/// One stream of many, which ends with the first error.
fn whole<S>(entries: impl Stream<Item = io::Result<S>> + Send) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    entries.try_flatten().scan(false, |broken, piece| {
        let shown = (!*broken).then_some(piece);
        *broken = shown.as_ref().is_some_and(Result::is_err);
        std::future::ready(shown)
    })
}

/// What stands before the bytes of a file: its header, and for a long name what says it.
fn head(file: &Artifact) -> io::Result<Bytes> {
    let mut header = tar::Header::new_gnu();
    header.set_size(file.size);
    header.set_mode(if file.executable { 0o755 } else { 0o644 });
    header.set_mtime(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, &file.path, io::empty())?;
    Ok(Bytes::copy_from_slice(builder.get_ref()))
}

/// Whether a path stays below where it is unpacked. Daemons make no other.
fn is_safe(path: &str) -> bool {
    !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_left_out() {
        for bad in ["/etc/passwd", "a/../b", "..", "a//b", "./a", ""] {
            assert!(!is_safe(bad), "{bad}");
        }
        assert!(is_safe("a/b.c"));
    }
}
