//! Results: blobs, patches, artifacts, and prior patches.

use bytes::Bytes;
use runtimed_api::digest::Digest;
use runtimed_api::manifest::{Artifact, Manifest};
use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_api::run::status::{ArtifactSummary, AttemptResult, Patch, Phase};
use runtimed_api::session::Lease;
use runtimed_client::controller::Blob;

use crate::harness::{ALICE, Daemon, Server, completed, default, finished, phase, run, status, until_over};

const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
const MOST: u64 = 1 << 20;

async fn put(daemon: &Daemon, lease: &Lease, bytes: &'static [u8]) -> Digest {
    let digest = Digest::of(bytes);
    let size = u64::try_from(bytes.len()).expect("small");
    let blob = Blob::Bytes(Bytes::from_static(bytes));
    daemon.client.put_blob(&digest, 0, size, blob, &lease.token).await.expect("stored");
    digest
}

fn with_patch(digest: Digest) -> AttemptResult {
    let patch = Patch {
        digest: Some(digest),
        size: 5,
        files: 1,
        insertions: 1,
        deletions: 0,
        base: TREE.parse().expect("a tree"),
        result: TREE.parse().expect("a tree"),
        withheld: None,
    };
    AttemptResult { patch: Some(patch), ..completed(0) }
}

#[tokio::test]
async fn results_are_there_when_the_daemon_is_gone() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let name = "a".parse().expect("a name");
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let patch = put(&daemon, &lease, b"patch").await;
    let file = put(&daemon, &lease, b"<b>report</b>").await;
    let manifest = Manifest {
        files: vec![Artifact {
            path: "out/report.html".to_owned(),
            digest: file,
            size: 13,
            content_type: "text/html".to_owned(),
            executable: false,
            redacted: false,
        }],
        skipped: Vec::new(),
    };
    let text: &'static [u8] = serde_json::to_vec(&manifest).expect("JSON").leak();
    let listed = put(&daemon, &lease, text).await;
    let artifacts = ArtifactSummary { manifest: listed, count: 1, bytes: 13, skipped: 0 };
    let result = AttemptResult { artifacts: Some(artifacts), ..with_patch(patch) };
    daemon.report(vec![finished(&lease, 1, result)]).await;
    assert_eq!(phase(&until_over(&alice, "a").await), Phase::Succeeded);

    assert_eq!(alice.manifest(&default(), &name).await.expect("listed"), manifest);
    let got = alice.artifact(&default(), &name, "out/report.html").await.expect("there");
    assert_eq!(got.content_type(), Some("text/html"));
    assert_eq!(&got.bytes().await.expect("whole")[..], b"<b>report</b>");
    let missing = alice.artifact(&default(), &name, "out/none").await.expect_err("refused");
    assert_eq!(missing.code(), Some(Code::NotFound));
    let got = alice.patch(&default(), &name).await.expect("there").bytes().await.expect("whole");
    assert_eq!(&got[..], b"patch");
    let got = alice.get_patch(&default(), &patch).await.expect("there").bytes().await.expect("whole");
    assert_eq!(&got[..], b"patch");
}

/// What the controller answers to a request for artifacts: its head and its body.
async fn archive(server: &Server, below: &str) -> (String, Vec<u8>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = server.url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let path = format!("/v1/namespaces/default/runs/a/artifacts{below}?format=tar");
    let request = format!("GET {path} HTTP/1.0\r\nauthorization: Bearer {ALICE}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("received");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    (String::from_utf8_lossy(&answer).into_owned(), body)
}

#[tokio::test]
async fn a_directory_of_artifacts_is_given_as_one_archive() {
    use std::io::Read as _;
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let long = format!("out/{}/caf\u{e9}.txt", "directory/".repeat(20).trim_end_matches('/'));
    let contents: [(&str, &'static [u8], bool); 5] = [
        ("out/bin/tool", b"#!/bin/sh\n", true),
        ("out/empty", b"", false),
        ("out/block", &[b'x'; 512], false),
        (&long, b"deep", false),
        ("output", b"a neighbour whose name begins alike", false),
    ];
    let mut files = Vec::new();
    for (path, bytes, executable) in contents {
        files.push(Artifact {
            path: path.to_owned(),
            digest: put(&daemon, &lease, bytes).await,
            size: bytes.len() as u64,
            content_type: "text/plain".to_owned(),
            executable,
            redacted: false,
        });
    }
    let manifest = Manifest { files, skipped: Vec::new() };
    let text: &'static [u8] = serde_json::to_vec(&manifest).expect("JSON").leak();
    let artifacts =
        ArtifactSummary { manifest: put(&daemon, &lease, text).await, count: 5, bytes: 561, skipped: 0 };
    let result = AttemptResult { artifacts: Some(artifacts), ..completed(0) };
    daemon.report(vec![finished(&lease, 1, result)]).await;
    until_over(&alice, "a").await;

    let unpacked = |body: &[u8]| -> Vec<(String, Vec<u8>, bool)> {
        let mut archive = tar::Archive::new(body);
        let entries = archive.entries().expect("an archive").map(|entry| {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            (path, bytes, entry.header().mode().expect("a mode") & 0o111 == 0o111)
        });
        entries.collect()
    };
    let wanted: Vec<_> =
        contents.map(|(path, bytes, executable)| (path.to_owned(), bytes.to_vec(), executable)).to_vec();
    let (head, body) = archive(&server, "").await;
    assert!(head.starts_with("HTTP/1.0 200") && head.contains("application/x-tar"), "{head}");
    assert_eq!(unpacked(&body), wanted);
    assert!(body.ends_with(&[0; 1024]), "an archive that did not break off has its end");
    for below in ["/out", "/out/"] {
        let (_, body) = archive(&server, below).await;
        assert_eq!(unpacked(&body), wanted[..4], "{below}");
    }
    for missing in ["/none", "/out/empty", "/ou"] {
        let (head, _) = archive(&server, missing).await;
        assert!(head.starts_with("HTTP/1.0 404"), "{missing}: {head}");
    }
}

#[tokio::test]
async fn a_lease_token_opens_its_own_attempt_while_it_goes_on() {
    let server = Server::start();
    let alice = server.client(ALICE);
    for name in ["a", "b"] {
        alice.submit(&default(), &run(name, "")).await.expect("submitted");
    }
    let daemon = server.daemon("d1", 2).await;
    let (one, two) = (daemon.lease().await, daemon.lease().await);
    let digest = put(&daemon, &one, b"mine").await;
    let got = daemon.client.get_blob(&digest, &one.token, MOST).await.expect("there");
    assert_eq!(&got.bytes().await.expect("whole")[..], b"mine");
    let error = daemon.client.get_blob(&digest, &two.token, MOST).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::NotFound));
    let error = daemon.client.get_blob(&digest, &one.read_token, MOST).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::Unauthenticated));
    // Whoever stole it cannot speak for the daemon, neither of its own attempt nor of a sibling.
    let client = server.client(one.token.expose());
    let (session, opened) = (daemon.session.clone(), daemon.opened.clone());
    let thief = Daemon { client, session, opened };
    for lease in [&one, &two] {
        let error = thief.try_report(vec![finished(lease, 1, completed(0))]).await.expect_err("refused");
        assert_eq!(error.code(), Some(Code::Unauthenticated));
    }
    daemon.complete(&one, 0).await;
    let error = daemon.client.get_blob(&digest, &one.token, MOST).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::StaleFence));
}

#[tokio::test]
async fn bytes_of_another_digest_are_not_kept() {
    let server = Server::start();
    server.client(ALICE).submit(&default(), &run("a", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let digest = Digest::of(b"other");
    // Of two sizes: one that is stored at once, one that is stored in parts.
    for size in [4, 9 << 20] {
        let blob = Blob::Bytes(vec![0; size].into());
        let size = u64::try_from(size).expect("fits");
        let error = daemon.client.put_blob(&digest, 0, size, blob, &lease.token).await.expect_err("refused");
        assert_eq!(error.code(), Some(Code::InvalidRequest), "{error}");
        let error = daemon.client.get_blob(&digest, &lease.token, MOST).await.expect_err("refused");
        assert_eq!(error.code(), Some(Code::NotFound));
    }
    let large: Bytes = vec![7; 9 << 20].into();
    let digest = Digest::of(&large);
    daemon
        .client
        .put_blob(&digest, 0, 9 << 20, Blob::Bytes(large.clone()), &lease.token)
        .await
        .expect("stored");
    let got = daemon.client.get_blob(&digest, &lease.token, 1 << 30).await.expect("there");
    assert_eq!(got.bytes().await.expect("whole"), large);
}

#[tokio::test]
async fn prior_patches_are_resolved_in_their_own_namespace() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("plan", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let captured = put(&daemon, &lease, b"captured").await;
    daemon.report(vec![finished(&lease, 1, with_patch(captured))]).await;
    let uploaded = alice.put_patch(&default(), Bytes::from_static(b"uploaded")).await.expect("uploaded");

    let more = format!(r#","priorPatches":[{{"run":"plan"}},{{"digest":"{uploaded}"}}]"#);
    alice.submit(&default(), &run("next", &more)).await.expect("submitted");
    let lease = daemon.lease().await;
    let labels: Vec<_> = lease.patches.iter().map(|patch| (patch.digest, patch.label.clone())).collect();
    assert_eq!(labels, [(captured, "plan".to_owned()), (uploaded, uploaded.to_string())]);
    assert_eq!(lease.patches[0].base.as_ref().map(|tree| tree.as_str()), Some(TREE));
    assert_eq!(lease.patches[1].base, None);
    for (digest, bytes) in [(captured, &b"captured"[..]), (uploaded, b"uploaded")] {
        let got = daemon.client.get_blob(&digest, &lease.token, MOST).await.expect("there");
        assert_eq!(&got.bytes().await.expect("whole")[..], bytes);
    }
    daemon.complete(&lease, 0).await;

    let team: runtimed_api::ids::Namespace = "team-b".parse().expect("a namespace");
    let admin = server.client(crate::harness::ADMIN);
    for (index, prior) in
        [r#"{"run":"plan"}"#.to_owned(), format!(r#"{{"digest":"{uploaded}"}}"#)].iter().enumerate()
    {
        let name = format!("stranger-{index}");
        let submission = run(&name, &format!(r#","priorPatches":[{prior}]"#));
        admin.submit(&team, &submission).await.expect("submitted");
    }
    assert!(daemon.lease_within(std::time::Duration::from_millis(200)).await.is_none());
    for index in 0..2 {
        let name = format!("stranger-{index}").parse().expect("a name");
        let over = admin.get(&team, &name).await.expect("there");
        assert_eq!(phase(&over), Phase::Refused);
        assert_eq!(status(&over).refusals.first().map(|refusal| refusal.rule), Some(Rule::PATCH_UNKNOWN));
    }
}

#[tokio::test]
async fn artifacts_are_given_to_attempts_of_their_namespace() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let name = "made".parse().expect("a name");
    alice.submit(&default(), &run("made", "")).await.expect("submitted");
    let daemon = server.daemon("d1", 1).await;
    let lease = daemon.lease().await;
    let file = put(&daemon, &lease, b"text").await;
    let content_type = "text/plain".to_owned();
    let artifact = Artifact {
        path: "a".to_owned(),
        digest: file,
        size: 4,
        content_type,
        executable: false,
        redacted: false,
    };
    let manifest = Manifest { files: vec![artifact], skipped: Vec::new() };
    let text: &'static [u8] = serde_json::to_vec(&manifest).expect("JSON").leak();
    let listed = put(&daemon, &lease, text).await;
    let artifacts = ArtifactSummary { manifest: listed, count: 1, bytes: 4, skipped: 0 };
    let result = AttemptResult { artifacts: Some(artifacts), ..completed(0) };
    daemon.report(vec![finished(&lease, 1, result)]).await;
    until_over(&alice, "made").await;

    let admin = server.client(crate::harness::ADMIN);
    let team: runtimed_api::ids::Namespace = "team-b".parse().expect("a namespace");
    let (source, input) = (r#","source":{"artifacts":{"run":"made"}}"#, r#","inputs":[{"run":"made"}]"#);
    for (namespace, at, extra, refused) in [
        (default(), "source", source, None),
        (default(), "input", input, None),
        (default(), "neither", "", Some(Code::Forbidden)),
        (team.clone(), "source", source, Some(Code::NotFound)),
        (team, "input", input, Some(Code::NotFound)),
    ] {
        admin.submit(&namespace, &run(at, extra)).await.expect("submitted");
        let lease = daemon.lease().await;
        let got = daemon.client.get_artifacts(&name, &lease.token).await;
        match refused {
            None => assert_eq!(got.expect("given"), manifest, "{at}"),
            Some(code) => assert_eq!(got.expect_err("refused").code(), Some(code), "{namespace} {at}"),
        }
        let bytes = daemon.client.get_artifact(&name, &file, &lease.token, 4).await;
        assert_eq!(bytes.err().and_then(|error| error.code()), refused, "{namespace} {at}");
        daemon.complete(&lease, 0).await;
    }
}
