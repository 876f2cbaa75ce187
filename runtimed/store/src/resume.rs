//! Putting a large file into a cloud store so that a failure costs a part, however often it happens: what has arrived is
//! remembered, and another try sends only the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, PutPayload};
use runtimed_api::digest::Digest;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use super::BlobError;
use super::upload::{PARALLEL, PART, same};

/// What has arrived of a file: to be given to the next try at the same file.
#[derive(Debug, Default)]
pub struct Begun {
    id: Option<MultipartId>,
    parts: BTreeMap<usize, PartId>,
}

type Flying = JoinSet<(usize, Result<PartId, object_store::Error>)>;

/// Sends what has not arrived, and completes it.
pub(super) async fn put(
    store: &Arc<dyn MultipartStore>,
    path: &Path,
    digest: &Digest,
    file: File,
    begun: &mut Begun,
) -> Result<(), BlobError> {
    let sent = send(store, path, digest, file, begun).await;
    // An upload that is not there any more was aborted by somebody's rule: the next try begins another.
    if let Err(BlobError::Store(object_store::Error::NotFound { .. })) = &sent {
        *begun = Begun::default();
    }
    sent
}

async fn send(
    store: &Arc<dyn MultipartStore>,
    path: &Path,
    digest: &Digest,
    mut file: File,
    begun: &mut Begun,
) -> Result<(), BlobError> {
    let id = match &begun.id {
        Some(id) => id.clone(),
        None => begun.id.insert(store.create_multipart(path).await.map_err(BlobError::Store)?).clone(),
    };
    let (mut hasher, mut flying, mut count) = (Sha256::new(), Flying::new(), 0);
    loop {
        let part = read(&mut file).await?;
        if part.is_empty() {
            break;
        }
        // All of it is hashed again, and read from this disk alone.
        hasher.update(&part);
        let index = count;
        count += 1;
        if begun.parts.contains_key(&index) {
            continue;
        }
        if flying.len() == PARALLEL {
            land(&mut flying, begun).await?;
        }
        let (store, path, id) = (Arc::clone(store), path.clone(), id.clone());
        flying.spawn(async move {
            let payload = PutPayload::from_bytes(part.freeze());
            (index, store.put_part(&path, &id, index, payload).await)
        });
    }
    while !flying.is_empty() {
        land(&mut flying, begun).await?;
    }
    // It is not kept as what it was: a disk that loses bytes must not be believed.
    if let Err(error) = same(hasher, digest) {
        *begun = Begun::default();
        if let Err(failed) = store.abort_multipart(path, &id).await {
            tracing::warn!(error = %failed, "the beginning of a broken upload could not be removed");
        }
        return Err(error);
    }
    let parts = begun.parts.values().cloned().collect();
    store.complete_multipart(path, &id, parts).await.map(drop).map_err(BlobError::Store)
}

/// The next part; an empty one at the end.
async fn read(file: &mut File) -> Result<BytesMut, BlobError> {
    let mut part = BytesMut::with_capacity(PART);
    while part.len() < PART {
        let most = (PART - part.len()) as u64;
        if (&mut *file).take(most).read_buf(&mut part).await.map_err(BlobError::File)? == 0 {
            break;
        }
    }
    Ok(part)
}

/// Waits for one of the parts that are under way, and notes what arrived. After a failure the others still land: what they
/// brought need not be sent again.
async fn land(flying: &mut Flying, begun: &mut Begun) -> Result<(), BlobError> {
    let mut first = None;
    while let Some(landed) = flying.join_next().await {
        let failure = match landed {
            Ok((index, Ok(part))) => {
                begun.parts.insert(index, part);
                None
            }
            Ok((_, Err(error))) => Some(BlobError::Store(error)),
            Err(error) => Some(BlobError::Broken(error.to_string())),
        };
        first = first.or(failure);
        if first.is_none() {
            return Ok(());
        }
    }
    first.map_or(Ok(()), Err)
}
