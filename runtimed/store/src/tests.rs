use std::fs;

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

/// As a controller leaves it that was killed while a blob came: nobody sees the file, and the disk is as full of it.
#[tokio::test]
async fn what_was_begun_in_a_directory_goes_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = BlobStore::local(dir.path()).expect("a store");
    let digest = Digest::of(b"hello");
    blobs.put(&place("u1"), &digest, 9, pieces(&[b"hello"])).await.expect("kept");
    blobs.put(&place("u2"), &digest, 9, pieces(&[b"hello"])).await.expect("kept");
    blobs.put_log(&place("u2"), AttemptNumber(1), 0, "text".into()).await.expect("kept");
    let begun =
        ["runs/u1/0a#1", "runs/u2/0a#1", "runs/u2/logs/1/00000000000000000000#12", "trees/default/0b#1"];
    fs::create_dir_all(dir.path().join("trees/default")).expect("made");
    for name in begun {
        fs::write(dir.path().join(name), "begun").expect("written");
    }
    fs::write(dir.path().join("trees/default/0b#x"), "somebody else's").expect("written");
    blobs.remove(&place("u1")).await.expect("removed");
    assert!(!dir.path().join("runs/u1").exists());
    assert_eq!(blobs.sweep(&place("u2")).await.expect("swept"), 2);
    assert_eq!(&blobs.read(&place("u2"), &digest, 9).await.expect("there")[..], b"hello");
    assert_eq!(blobs.log_parts(&place("u2"), AttemptNumber(1)).await.expect("listed").len(), 1);
    assert_eq!(blobs.sweep_uploaded().await.expect("swept"), 1);
    assert_eq!(blobs.sweep(&place("u3")).await.expect("nothing is there"), 0);
    assert!(dir.path().join("trees/default/0b#x").exists());
}

#[tokio::test]
async fn what_arrived_before_a_break_is_not_sent_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = BlobStore::local(dir.path()).expect("a store");
    let bytes: Vec<u8> = (0..30_000_003_u32).map(|i| (i % 251) as u8).collect();
    let (digest, bytes) = (Digest::of(&bytes), Bytes::from(bytes));
    // Each connection brings so many bytes, and breaks.
    let brought = |from: u64, bytes: Bytes, count: usize| {
        let rest = bytes.slice(usize::try_from(from).expect("small")..);
        let pieces: Vec<_> = rest.chunks(300_007).map(Bytes::copy_from_slice).take(count).map(Ok).collect();
        stream::iter(pieces.into_iter().chain([Err("cut".to_owned())]))
    };
    let (put, nothing) =
        blobs.incoming(&place("u1"), &digest).take(u64::MAX, brought(0, bytes.clone(), 27)).await;
    assert!(matches!(put, Err(BlobError::Broken(_))) && nothing.is_none(), "less than a part has arrived");
    let (_, begun) =
        blobs.incoming(&place("u1"), &digest).take(u64::MAX, brought(0, bytes.clone(), 29)).await;
    let begun = begun.expect("a part has arrived");
    assert_eq!(begun.arrived(), PART as u64);
    let (_, begun) = begun.take(u64::MAX, brought(PART as u64, bytes.clone(), 60)).await;
    let begun = begun.expect("two more have arrived");
    assert_eq!(begun.arrived(), 3 * PART as u64);
    assert!(matches!(blobs.get(&place("u1"), &digest, None).await, Err(BlobError::Missing)));
    let rest = stream::iter([Ok::<_, String>(bytes.slice(3 * PART..))]);
    let (put, nothing) = begun.take(u64::MAX, rest).await;
    assert_eq!((put.expect("kept"), nothing.is_none()), (30_000_003, true));
    assert!(blobs.read(&place("u1"), &digest, u64::MAX).await.expect("there") == bytes, "other bytes");
    // A rest of other bytes is none of it; neither is one that nobody brings.
    blobs.remove(&place("u1")).await.expect("removed");
    for other in [true, false] {
        let (_, begun) =
            blobs.incoming(&place("u1"), &digest).take(u64::MAX, brought(0, bytes.clone(), 29)).await;
        let begun = begun.expect("a part has arrived");
        if other {
            let (put, nothing) = begun.take(u64::MAX, pieces(&[b"other"])).await;
            assert!(matches!(put, Err(BlobError::Digest(_))) && nothing.is_none());
        } else {
            begun.abort().await;
        }
        assert_eq!(files(dir.path()), Vec::<std::path::PathBuf>::new());
    }
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
