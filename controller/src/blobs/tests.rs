use futures_util::stream;

use super::*;

fn pieces(pieces: &[&'static [u8]]) -> impl Stream<Item = Result<Bytes, String>> {
    stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect::<Vec<_>>())
}

fn place(uid: &str) -> Blobs {
    Blobs::Run(uid.parse().expect("a uid"))
}

#[tokio::test]
async fn a_blob_is_in_its_own_place_alone_and_goes_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = BlobStore::local(dir.path()).expect("a store");
    let digest = Digest::of(b"hello");
    for uid in ["u1", "u2"] {
        let size = blobs.put(&place(uid), &digest, 9, pieces(&[b"hel", b"lo"])).await.expect("kept");
        assert_eq!(size, 5);
    }
    assert_eq!(&blobs.read(&place("u1"), &digest, 9).await.expect("there")[..], b"hello");
    assert!(matches!(blobs.get(&place("u3"), &digest).await, Err(BlobError::Missing)));
    assert!(matches!(blobs.read(&place("u1"), &digest, 4).await, Err(BlobError::TooLarge(4))));
    blobs.remove(&place("u1")).await.expect("removed");
    blobs.remove(&place("u1")).await.expect("removed already");
    assert!(matches!(blobs.get(&place("u1"), &digest).await, Err(BlobError::Missing)));
    assert!(blobs.get(&place("u2"), &digest).await.is_ok());
    let left: Vec<_> = std::fs::read_dir(dir.path().join("runs")).expect("there").flatten().collect();
    assert_eq!(left.len(), 1, "no empty directory is left");
}

#[tokio::test]
async fn what_is_not_as_named_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = BlobStore::local(dir.path()).expect("a store");
    let digest = Digest::of(b"hello");
    let wrong = blobs.put(&place("u1"), &digest, 9, pieces(&[b"other"])).await;
    assert!(matches!(wrong, Err(BlobError::Digest(found)) if found == Digest::of(b"other")));
    let long = blobs.put(&place("u1"), &digest, 4, pieces(&[b"hello"])).await;
    assert!(matches!(long, Err(BlobError::TooLarge(4))));
    let broken = stream::iter([Ok(Bytes::from_static(b"he")), Err("cut".to_owned())]);
    assert!(matches!(blobs.put(&place("u1"), &digest, 9, broken).await, Err(BlobError::Broken(_))));
    // More than one part: what was begun is taken back.
    let part: &'static [u8] = vec![1; PART].leak();
    let wrong = blobs.put(&place("u1"), &digest, u64::MAX, pieces(&[part, part])).await;
    assert!(matches!(wrong, Err(BlobError::Digest(_))));
    let mut files = Vec::new();
    let mut directories = vec![dir.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("read").flatten() {
            if entry.path().is_dir() { directories.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    assert!(files.is_empty(), "{files:?}");
}
