//! Stores other than the controller's own directory, and what a bad network does to what goes there.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::TryStreamExt as _;
use runtimed_api::digest::Digest;
use runtimed_api::run::status::Phase;
use runtimed_store::{Begun, BlobError, BlobStore, Place, StoreConfig};
use runtimed_tests::azure::{ACCOUNT, Azure, CONTAINER, KEY};
use runtimed_tests::broken_network::{Fault, FaultProxy};
use runtimed_tests::cluster::{Cluster, Options, UNPRIVILEGED, namespace, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs::shell;
use runtimed_tests::s3::{BUCKET, S3};
use runtimed_tests::wait::eventually;

/// A directory with the files of a credential.
fn credentials() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    fs::write(dir.path().join("access-key-id"), "a-key-id\n").expect("written");
    fs::write(dir.path().join("secret-access-key"), "a-secret-access-key\n").expect("written");
    dir
}

fn s3_config(address: SocketAddr, credentials: &tempfile::TempDir) -> String {
    let dir = credentials.path().display();
    format!(
        "kind = \"s3\"\nbucket = \"{BUCKET}\"\nprefix = \"pods/one\"\nendpoint = \"http://{address}\"\ncredentials_dir = \"{dir}\"\n"
    )
}

fn open(address: SocketAddr, credentials: &tempfile::TempDir) -> BlobStore {
    let config: StoreConfig = toml::from_str(&s3_config(address, credentials)).expect("a configuration");
    config.open().expect("a store")
}

/// A whole Run whose daemon writes straight to S3, and whose controller reads from there and removes it with the Run.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_writes_to_s3_and_its_controller_serves_from_there() {
    let (s3, credentials) = (S3::start(), credentials());
    let store = Some(s3_config(s3.address(), &credentials));
    let mut cluster = Cluster::start(Options { store, ..Options::default() }).await;
    let line = "echo out; echo $((6*7)) > $RUNTIMED_ARTIFACTS_DIR/answer; mkdir dist; for i in 1 2 3; do echo $i > dist/$i; done";
    let run =
        cluster.run(shell("stored", line, "artifacts: { paths: [\"dist/**\"] }\nttlAfterFinished: 1h")).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert!(result(&run).uploads_incomplete.is_empty(), "{:?}", result(&run).uploads_incomplete);
    assert!(cluster.drain().is_empty());
    let name = "stored".parse().expect("a name");
    assert_eq!(cluster.log(&name).await, "out\n");
    let answer = cluster.client.artifact(&namespace(), &name, "answer").await.expect("an artifact");
    assert_eq!(&answer.bytes().await.expect("its bytes")[..], b"42\n");
    let keys = s3.keys();
    // The log, the manifest, four files and the patch, below the prefix; nothing on the controller's own disk.
    assert_eq!(keys.len(), 7, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("pods/one/runs/")), "{keys:?}");
    cluster.client.delete(&namespace(), &name).await.expect("deleted");
    eventually("the results go with the Run", async || s3.keys().is_empty()).await;
}

/// A controller that keeps results in S3 for its daemons: what an earlier try left of a large file goes when it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_keeps_results_in_s3_and_leaves_no_parts() {
    let (s3, credentials) = (S3::start(), credentials());
    let store = Some(s3_config(s3.address(), &credentials));
    let options = Options { store, through_controller: true, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let line = "head -c 20000000 /dev/zero > $RUNTIMED_ARTIFACTS_DIR/zeros; echo up; sleep 60";
    let name = cluster.submit(shell("large", line, ""), &[]).await;
    cluster.until_printed(&name).await;
    // As a controller leaves it that is killed in the middle: begun, and its id known to nobody.
    let digest = Digest::of(&vec![0; 20_000_000]);
    let uid = cluster.client.get(&namespace(), &name).await.expect("a Run").metadata.uid.expect("a uid");
    let begun = s3.ask("POST", &format!("/{BUCKET}/pods/one/runs/{uid}/{}?uploads", digest.hex()));
    assert!(begun.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    assert_eq!(s3.unfinished(), 1);
    cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Cancelled);
    assert!(result(&run).uploads_incomplete.is_empty(), "{:?}", result(&run).uploads_incomplete);
    assert_eq!(s3.unfinished(), 0);
    let zeros = cluster.client.artifact(&namespace(), &name, "zeros").await.expect("an artifact");
    assert!(zeros.bytes().await.expect("its bytes") == vec![0; 20_000_000], "other bytes");
    assert!(cluster.drain().is_empty());
}

/// A controller on connections none of which lasts for the whole of a large artifact: it would never arrive if each began anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_artifact_comes_over_connections_that_break() {
    let mut cluster = Cluster::start(Options { daemons: 0, ..Options::default() }).await;
    let controller = cluster.url.trim_start_matches("http://").parse().expect("an address");
    let proxy = FaultProxy::start(controller, &[], Fault::CutRequest(12_500_000));
    cluster.add_daemon(&format!("http://{}", proxy.address()));
    let line = "head -c 30000000 /dev/zero > $RUNTIMED_ARTIFACTS_DIR/zeros";
    let run = cluster.run(shell("broken", line, "")).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert!(result(&run).uploads_incomplete.is_empty(), "{:?}", result(&run).uploads_incomplete);
    assert!(cluster.drain().is_empty());
    let name = "broken".parse().expect("a name");
    let zeros = cluster.client.artifact(&namespace(), &name, "zeros").await.expect("an artifact");
    assert!(zeros.bytes().await.expect("its bytes") == vec![0; 30_000_000], "other bytes");
    let uid = run.metadata.uid.expect("a uid");
    let results = cluster.controller_dir().join("blobs/runs").join(uid.as_str());
    let names = fs::read_dir(results).expect("there").flatten().map(|entry| entry.file_name());
    let names: Vec<_> = names.collect();
    assert!(names.iter().all(|name| !name.as_encoded_bytes().contains(&b'#')), "{names:?}");
}

/// The same with a directory that both have.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_can_be_shared() {
    let dir = tempfile::tempdir().expect("a directory");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("owned");
    }
    let store = Some(format!("kind = \"directory\"\npath = \"{}\"\n", dir.path().display()));
    let mut cluster = Cluster::start(Options { store, ..Options::default() }).await;
    let run = cluster.run(shell("shared", "echo out; echo x > $RUNTIMED_ARTIFACTS_DIR/x; exit 1", "")).await;
    assert_eq!(phase(&run), Phase::Failed);
    assert!(cluster.drain().is_empty());
    let name = "shared".parse().expect("a name");
    assert_eq!(cluster.log(&name).await, "out\n");
    assert!(dir.path().join("runs").is_dir());
}

/// Resets in the middle of what is sent and of what is answered, errors, a stall: every part gets there, none twice, and
/// what does not come to its end leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn s3_survives_a_bad_network_and_keeps_no_orphans() {
    let (s3, credentials) = (S3::start(), credentials());
    let place = Place::of_run(&"u1".parse().expect("a uid"));
    let bytes: Vec<u8> = (0..30_000_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("large");
    fs::write(&file, &bytes).expect("written");
    let digest = Digest::of(&bytes);
    let size = bytes.len() as u64;
    let plan = [
        Fault::Error500,
        Fault::CutRequest(5_000_000),
        Fault::CutAnswer(20),
        Fault::Stall,
        Fault::CutRequest(100),
        Fault::Error500,
    ];
    let begin = |key: &str| {
        let begun = s3.ask("POST", &format!("/{BUCKET}/pods/one/runs/{key}?uploads"));
        assert!(begun.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")), "{key}");
    };
    // One was begun already, and its id did not arrive.
    begin(&format!("u1/{}", digest.hex()));
    let proxy = FaultProxy::start(s3.address(), &plan, Fault::Pass);
    let store = open(proxy.address(), &credentials);
    store.put_file(&place, &digest, size, &file, &mut Begun::default()).await.expect("kept");
    assert!(proxy.done().starts_with(&plan), "{:?}", proxy.done());
    let direct = open(s3.address(), &credentials);
    let kept = direct.read(&place, &digest, u64::MAX).await.expect("there");
    assert!(kept == bytes, "other bytes than were sent");
    // It is found by the file's name.
    assert_eq!(s3.unfinished(), 0);
    // A key that is refused may be on its way to be changed.
    let refusing = FaultProxy::start(s3.address(), &[], Fault::Error403);
    let refused = open(refusing.address(), &credentials)
        .put_file(&Place::of_run(&"u2".parse().expect("a uid")), &digest, size, &file, &mut Begun::default())
        .await;
    assert!(refused.expect_err("it is refused").is_retryable());
    // Others are found by their place, and none elsewhere is touched.
    begin("u1/ab");
    begin("u12/ab");
    assert_eq!(direct.sweep(&place).await.expect("swept"), 1);
    assert_eq!(s3.unfinished(), 1);

    // An answer that ends before its length is no answer: it is asked for again, from where it broke.
    let cutting = FaultProxy::start(s3.address(), &[Fault::CutAnswer(3_000_000); 3], Fault::Pass);
    let blob = open(cutting.address(), &credentials).get(&place, &digest, None).await.expect("there");
    let got: Vec<bytes::Bytes> = blob.bytes.try_collect().await.expect("whole");
    assert!(got.concat() == bytes, "other bytes than are kept");

    // A file that is not what it was when it was hashed is not kept, and its parts are aborted.
    let other = Digest::of(b"other");
    assert!(direct.put_file(&place, &other, size, &file, &mut Begun::default()).await.is_err());
    assert_eq!(s3.unfinished(), 1);
    assert_eq!(s3.keys().len(), 1);
}

/// A store that goes away in the middle of a large file and comes back: only what had not arrived is sent again. And what is
/// given up goes with its Run.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_on_where_its_upload_broke() {
    let (s3, credentials) = (S3::start(), credentials());
    let place = Place::of_run(&"u1".parse().expect("a uid"));
    let bytes: Vec<u8> = (0..60_000_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("large");
    fs::write(&file, &bytes).expect("written");
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    // Whether the server keeps connections or not: some parts pass, and then it is away.
    let proxy = FaultProxy::start(s3.address(), &[Fault::CutRequest(12_500_000); 4], Fault::Error500);
    let mut begun = Begun::default();
    let broken = open(proxy.address(), &credentials).put_file(&place, &digest, size, &file, &mut begun).await;
    assert!(broken.is_err(), "{:?}", proxy.done());
    assert_eq!(s3.unfinished(), 1);
    let counting = FaultProxy::start(s3.address(), &[], Fault::Pass);
    let store = open(counting.address(), &credentials);
    store.put_file(&place, &digest, size, &file, &mut begun).await.expect("kept");
    let sent = counting.asked();
    assert!(sent < size - 8_000_000, "{sent} of {size} bytes were sent again: {begun:?}");
    let direct = open(s3.address(), &credentials);
    assert!(
        direct.read(&place, &digest, u64::MAX).await.expect("there") == bytes,
        "other bytes than were sent"
    );
    assert_eq!(s3.unfinished(), 0);

    let other = Place::of_run(&"u2".parse().expect("a uid"));
    let left = s3.ask("POST", &format!("/{BUCKET}/pods/one/runs/u2/ab?uploads")).expect("an answer");
    assert!(left.starts_with("HTTP/1.1 200"), "{left}");
    assert_eq!(s3.unfinished(), 1);
    direct.remove(&other).await.expect("removed");
    assert_eq!(s3.unfinished(), 0);
}

/// The same of Azure: a large file whose upload breaks again and again, and what else is asked of a store.
#[tokio::test(flavor = "multi_thread")]
async fn azure_keeps_what_an_upload_brought_that_broke() {
    let azure = Azure::start();
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("key"), format!("{KEY}\n")).expect("written");
    let open = |at: SocketAddr| {
        let config = StoreConfig::Azure {
            account: ACCOUNT.to_owned(),
            container: CONTAINER.to_owned(),
            prefix: "pods/one".to_owned(),
            endpoint: Some(azure.url(at)),
            ca_file: None,
            access_key_file: Some(dir.path().join("key")),
        };
        config.open().expect("a store")
    };
    let place = Place::of_run(&"u1".parse().expect("a uid"));
    let bytes: Vec<u8> = (0..60_000_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
    let file = dir.path().join("large");
    fs::write(&file, &bytes).expect("written");
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);

    // Some parts pass, and then it is away; the next try sends the rest.
    let away = FaultProxy::start(azure.address(), &[Fault::CutRequest(12_500_000); 4], Fault::Error500);
    let mut begun = Begun::default();
    let broken = open(away.address()).put_file(&place, &digest, size, &file, &mut begun).await;
    assert!(broken.is_err(), "{:?}", away.done());
    let counting = FaultProxy::start(azure.address(), &[Fault::Error500, Fault::CutAnswer(20)], Fault::Pass);
    open(counting.address()).put_file(&place, &digest, size, &file, &mut begun).await.expect("kept");
    let sent = counting.asked();
    assert!(sent < size - 8_000_000, "{sent} of {size} bytes were sent again: {begun:?}");

    let store = open(azure.address());
    assert!(
        store.read(&place, &digest, u64::MAX).await.expect("there") == bytes,
        "other bytes than were sent"
    );
    let part = store.get(&place, &digest, Some(10_000_000..10_000_100)).await.expect("there");
    let part: Vec<bytes::Bytes> = part.bytes.try_collect().await.expect("whole");
    assert!(part.concat() == bytes[10_000_000..10_000_100]);
    let small = Digest::of(b"small");
    let body = futures_util::stream::iter([Ok::<_, String>(bytes::Bytes::from_static(b"small"))]);
    store.put(&place, &small, 5, body).await.expect("kept");
    assert_eq!(store.size(&place, &small).await.expect("there"), 5);
    assert_eq!(store.runs().await.expect("listed"), ["u1".parse().expect("a uid")]);
    store.remove(&place).await.expect("removed");
    assert!(store.size(&place, &digest).await.is_err(), "it is gone");
    assert!(store.runs().await.expect("listed").is_empty());
}

/// The key of a service account, made anew, and the file of its public half.
fn service_account(dir: &Path) -> (PathBuf, PathBuf) {
    let (private, public) = (dir.join("private.pem"), dir.join("public.pem"));
    let openssl = |arguments: &[&str], out: &Path| {
        let status =
            command("openssl").args(arguments).arg("-out").arg(out).output().expect("openssl").status;
        assert!(status.success(), "{arguments:?}");
    };
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], &private);
    let from = private.display().to_string();
    openssl(&["pkey", "-pubout", "-in", &from], &public);
    let key = serde_json::json!({
        "type": "service_account",
        "private_key": fs::read_to_string(&private).expect("read"),
        "private_key_id": "key-1",
        "client_email": "daemon@project.iam.example",
        // The configuration says where the store is, and not the key.
        "gcs_base_url": "http://192.0.2.1:1",
    });
    let file = dir.join("key.json");
    fs::write(&file, key.to_string()).expect("written");
    (file, public)
}

fn gcs(at: SocketAddr, key: &Path) -> BlobStore {
    let (kind, key) = ("kind = \"gcs\"\nprefix = \"pods/one\"", key.display());
    let text = format!(
        "{kind}\nbucket = \"{BUCKET}\"\nendpoint = \"http://{at}\"\nservice_account_file = \"{key}\""
    );
    toml::from_str::<StoreConfig>(&text).expect("a configuration").open().expect("a store")
}

/// What leaves for GCS, seen by a listener that answers nothing of use: where it goes, and who it says it is. It is no server
/// of GCS.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_gcs_has_the_configured_place_and_a_token_signed_by_the_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let (key, public) = service_account(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let store = gcs(listener.local_addr().expect("its address"), &key);
    let seen = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).expect("a request");
            head.push(byte[0]);
        }
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        std::io::Write::write_all(&mut stream, answer).expect("answered");
        String::from_utf8(head).expect("text")
    });
    let digest = Digest::of(b"x");
    let place = Place::of_run(&"u1".parse().expect("a uid"));
    assert!(matches!(store.size(&place, &digest).await, Err(BlobError::Missing)));
    let head = seen.join().expect("a request came");
    // The name of an object is one segment there.
    let line = format!("HEAD /{BUCKET}/pods%2Fone%2Fruns%2Fu1%2F{} HTTP/1.1", digest.hex());
    assert_eq!(head.lines().next(), Some(line.as_str()));
    let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).expect("a token");
    let (signed, signature) = token.rsplit_once('.').expect("a signed token");
    let claims = URL_SAFE_NO_PAD.decode(signed.split('.').nth(1).expect("claims")).expect("base64");
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(claims["iss"], "daemon@project.iam.example");
    fs::write(dir.path().join("signed"), signed).expect("written");
    fs::write(dir.path().join("signature"), URL_SAFE_NO_PAD.decode(signature).expect("base64"))
        .expect("written");
    let mut verify = command("openssl");
    verify
        .args(["dgst", "-sha256", "-verify"])
        .arg(public)
        .arg("-signature")
        .arg(dir.path().join("signature"));
    let verified = verify.arg(dir.path().join("signed")).output().expect("openssl runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

/// The protocol of GCS that is used here, its XML API, is the one that it shares with S3, so that a server of S3 answers it, apart
/// from who asks: objects, lists, and uploads in parts.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_gcs_is_what_a_server_of_s3_answers() {
    let s3 = S3::start();
    let dir = tempfile::tempdir().expect("a directory");
    let (key, _) = service_account(dir.path());
    let place = Place::of_run(&"u1".parse().expect("a uid"));
    let bytes: Vec<u8> = (0..30_000_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
    let file = dir.path().join("large");
    fs::write(&file, &bytes).expect("written");
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    let away = FaultProxy::start(s3.address(), &[Fault::CutRequest(12_500_000); 4], Fault::Error500);
    let mut begun = Begun::default();
    let broken = gcs(away.address(), &key).put_file(&place, &digest, size, &file, &mut begun).await;
    assert!(broken.is_err(), "{:?}", away.done());
    let store = gcs(s3.address(), &key);
    store.put_file(&place, &digest, size, &file, &mut begun).await.expect("kept");
    assert!(
        store.read(&place, &digest, u64::MAX).await.expect("there") == bytes,
        "other bytes than were sent"
    );
    assert_eq!(s3.keys(), [format!("pods/one/runs/u1/{}", digest.hex())]);
    let small = Digest::of(b"small");
    let body = futures_util::stream::iter([Ok::<_, String>(bytes::Bytes::from_static(b"small"))]);
    store.put(&place, &small, 5, body).await.expect("kept");
    assert_eq!(&store.read(&place, &small, 5).await.expect("there")[..], b"small");
    assert_eq!(store.runs().await.expect("listed"), ["u1".parse().expect("a uid")]);
    store.remove(&place).await.expect("removed");
    assert!(s3.keys().is_empty());
}
