use futures_util::stream;
use runtimed_api::ids::AttemptNumber;

use super::*;

fn pieces(pieces: &[&'static [u8]]) -> impl futures_util::Stream<Item = Result<Bytes, String>> + use<> {
    stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect::<Vec<_>>())
}

fn place(uid: &str) -> Place {
    Place::of_run(&uid.parse().expect("a uid"))
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
    let part = blobs.get(&place("u1"), &digest, Some(1..3)).await.expect("there");
    let bytes: Vec<Bytes> = part.bytes.try_collect().await.expect("bytes");
    assert_eq!((part.size, bytes.concat().as_slice()), (5, &b"el"[..]));
    assert!(matches!(blobs.get(&place("u3"), &digest, None).await, Err(BlobError::Missing)));
    assert!(matches!(blobs.read(&place("u1"), &digest, 4).await, Err(BlobError::TooLarge(4))));
    let file = dir.path().join("runs/u2").join(digest.hex());
    std::fs::write(file, "HELLO").expect("somebody else can write there");
    let altered = blobs.read(&place("u2"), &digest, 9).await;
    assert!(matches!(altered, Err(BlobError::Altered(of)) if of == digest), "{altered:?}");
    let attempt = AttemptNumber(1);
    for (offset, text) in [(10, "b"), (0, "a"), (10, "bc"), (9, "-")] {
        blobs.put_log(&place("u1"), attempt, offset, text.into()).await.expect("kept");
    }
    let parts = blobs.log_parts(&place("u1"), attempt).await.expect("listed");
    assert_eq!(parts.iter().map(|part| part.offset).collect::<Vec<_>>(), [0, 9, 10]);
    assert_eq!(&blobs.read_log(&place("u1"), attempt, parts[2]).await.expect("there")[..], b"bc");
    assert!(blobs.log_parts(&place("u1"), AttemptNumber(2)).await.expect("listed").is_empty());
    blobs.remove(&place("u1")).await.expect("removed");
    blobs.remove(&place("u1")).await.expect("removed already");
    assert!(matches!(blobs.get(&place("u1"), &digest, None).await, Err(BlobError::Missing)));
    assert!(blobs.get(&place("u2"), &digest, None).await.is_ok());
    let left: Vec<_> = std::fs::read_dir(dir.path().join("runs")).expect("there").flatten().collect();
    assert_eq!(left.len(), 1, "no empty directory is left");
}

#[tokio::test]
async fn a_shorter_segment_does_not_replace_a_longer() {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = BlobStore::local(dir.path()).expect("a store");
    let (attempt, text) = (AttemptNumber(1), [b'x'; 64]);
    let put = |length: usize| {
        let (blobs, bytes) = (blobs.clone(), Bytes::copy_from_slice(&text[..length]));
        async move { blobs.put_log(&place("u1"), attempt, 0, bytes).await.expect("answered as kept") }
    };
    let kept = || async {
        let part = LogPart { offset: 0 };
        blobs.read_log(&place("u1"), attempt, part).await.expect("there").len()
    };
    for (sent, there) in [(10, 10), (3, 10), (10, 10), (20, 20), (0, 20)] {
        put(sent).await;
        assert_eq!(kept().await, there, "after {sent} bytes");
    }
    // All of them at once, as when old requests come late: the longest stays, whichever is last.
    let puts: Vec<_> = (20..=64).rev().chain(20..=64).map(|length| tokio::spawn(put(length))).collect();
    for put in puts {
        put.await.expect("done");
    }
    assert_eq!(kept().await, 64);
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
    let part: &'static [u8] = vec![1; 8 * 1024 * 1024].leak();
    let wrong = blobs.put(&place("u1"), &digest, u64::MAX, pieces(&[part, part])).await;
    assert!(matches!(wrong, Err(BlobError::Digest(_))));
    let file = dir.path().join("changed");
    std::fs::write(&file, "olleh").expect("written");
    let other = blobs.put_file(&place("u1"), &digest, 5, &file, &mut Begun::default()).await;
    assert!(matches!(other, Err(BlobError::Digest(_))));
    assert_eq!(files(dir.path()), [file]);
}

#[tokio::test]
async fn a_file_of_several_parts_is_kept_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = BlobStore::local(dir.path()).expect("a store");
    let bytes: Vec<u8> = (0..20_000_003_u32).map(|i| (i % 251) as u8).collect();
    let file = dir.path().join("large");
    std::fs::write(&file, &bytes).expect("written");
    let digest = Digest::of(&bytes);
    blobs
        .put_file(&place("u1"), &digest, bytes.len() as u64, &file, &mut Begun::default())
        .await
        .expect("kept");
    let kept = blobs.read(&place("u1"), &digest, u64::MAX).await.expect("there");
    assert!(kept == bytes, "other bytes");
    // It is there already: what the file holds by now is not asked.
    std::fs::remove_file(&file).expect("removed");
    blobs
        .put_file(&place("u1"), &digest, bytes.len() as u64, &file, &mut Begun::default())
        .await
        .expect("there");
}

#[test]
fn each_kind_is_read_and_built_from_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("written");
        dir.path().join(name).display().to_string()
    };
    let here = dir.path().display().to_string();
    file("access-key-id", "id\n");
    file("secret-access-key", "key\n");
    let azure = file("azure", "a2V5\n");
    let open = |text: &str| {
        let read = toml::from_str::<StoreConfig>(text).map_err(|error| error.to_string())?;
        read.open().map_err(|error| error.to_string())
    };
    for good in [
        format!("kind = \"directory\"\npath = \"{here}\""),
        format!("kind = \"s3\"\nbucket = \"b\"\nprefix = \"a/b\"\ncredentials_dir = \"{here}\""),
        "kind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://127.0.0.1:9\"".to_owned(),
        "kind = \"gcs\"\nbucket = \"b\"".to_owned(),
        "kind = \"gcs\"\nbucket = \"b\"\nendpoint = \"https://storage-x.p.googleapis.com/\"".to_owned(),
        format!("kind = \"azure\"\naccount = \"a\"\ncontainer = \"c\"\naccess_key_file = \"{azure}\""),
    ] {
        assert!(open(&good).is_ok(), "{good}: {:?}", open(&good));
    }
    for (bad, word) in [
        ("kind = \"ftp\"".to_owned(), "ftp"),
        ("kind = \"directory\"\npath = \"/nowhere\"".to_owned(), "/nowhere"),
        ("kind = \"s3\"\nbucket = \"b\"\nbukket = \"b\"".to_owned(), "bukket"),
        ("kind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://10.0.0.1\"".to_owned(), "https"),
        ("kind = \"s3\"\nbucket = \"b\"\ncredentials_dir = \"/nowhere\"".to_owned(), "/nowhere"),
        ("kind = \"gcs\"\nbucket = \"b\"\nendpoint = \"http://10.0.0.1\"".to_owned(), "https"),
        (format!("kind = \"gcs\"\nbucket = \"b\"\nservice_account_file = \"{azure}\""), "gs://b"),
    ] {
        let error = open(&bad).expect_err("refused");
        assert!(error.contains(word), "{bad}: {error}");
        assert!(!error.contains("a2V5"), "{error}");
    }
}

fn files(top: &FilePath) -> Vec<std::path::PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![top.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("read").flatten() {
            if entry.path().is_dir() { directories.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files
}
