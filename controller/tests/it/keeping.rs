//! What is kept, for whom, and for how long: quotas, retention, the audit, backups.

use std::time::Duration;

use runtimed_api::digest::Digest;
use runtimed_api::problem::Code;
use runtimed_api::run::status::Phase;
use runtimed_client::ClientError;
use runtimed_client::controller::{Blob, Controller, ListQuery};

use crate::harness::{
    ADMIN, ALICE, OBSERVER, Server, completed, default, finished, phase, run, until, until_over,
};

async fn names(client: &Controller) -> Vec<String> {
    let listed = client.list(&default(), &ListQuery::default()).await.expect("listed");
    listed.items.iter().filter_map(|run| run.metadata.name.as_ref().map(ToString::to_string)).collect()
}

/// Looks until it is so, at most ten seconds.
async fn eventually<F: Future<Output = bool>>(what: &str, so: impl Fn() -> F) {
    for _ in 0..1000 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within ten seconds");
}

fn denied(error: &ClientError) -> (Option<Code>, Option<Duration>) {
    (error.code(), error.retry_after())
}

#[tokio::test]
async fn a_namespace_has_so_many_runs_at_once_and_no_more() {
    let server = Server::start_flags(&["--max-active", "2"]);
    let alice = server.client(ALICE);
    for name in ["a", "b"] {
        alice.submit(&default(), &run(name, "")).await.expect("submitted");
    }
    let error = alice.submit(&default(), &run("c", "")).await.expect_err("denied");
    assert_eq!(denied(&error), (Some(Code::RateLimited), Some(Duration::from_secs(1))), "{error}");
    // What is there may be submitted again, and another namespace is not concerned.
    alice.submit(&default(), &run("b", "")).await.expect("the same");
    let other = "other".parse().expect("a name");
    server.client(ADMIN).submit(&other, &run("c", "")).await.expect("submitted");
    alice.cancel(&default(), &"a".parse().expect("a name")).await.expect("cancelled");
    alice.submit(&default(), &run("c", "")).await.expect("submitted");
}

#[tokio::test]
async fn of_many_runs_at_once_no_more_are_taken_either() {
    let server = Server::start_flags(&["--max-active", "5"]);
    let alice = server.client(ALICE);
    let submit = |number: usize| {
        let alice = &alice;
        async move { alice.submit(&default(), &run(&format!("r-{number}"), "")).await }
    };
    let answers = futures_util::future::join_all((0..60).map(submit)).await;
    let denied: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).map(denied).collect();
    assert_eq!(denied, [(Some(Code::RateLimited), Some(Duration::from_secs(1))); 55]);
    assert_eq!(names(&alice).await.len(), 5);
    // Those that were not taken hold no place.
    for name in names(&alice).await {
        alice.cancel(&default(), &name.parse().expect("a name")).await.expect("cancelled");
    }
    let answers = futures_util::future::join_all((60..120).map(submit)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5);
}

/// A tree that nobody can walk, not even root: a symbolic link in it leads back to its beginning.
#[tokio::test]
async fn a_run_whose_results_could_not_be_removed_goes_later() {
    let server = Server::start_flags(&["--keep-runs", "1"]);
    let alice = server.client(ALICE);
    let daemon = server.daemon("d1", 1).await;
    let mut knot = None;
    for name in ["a", "b", "c"] {
        alice.submit(&default(), &run(name, "")).await.expect("submitted");
        let lease = daemon.lease_alive().await;
        knot.get_or_insert_with(|| {
            let results = server.dir.path().join("data/blobs/runs").join(lease.attempt.uid.as_str());
            std::fs::create_dir_all(&results).expect("made");
            let knot = results.join("knot");
            std::os::unix::fs::symlink(".", &knot).expect("made");
            knot
        });
        daemon.report(vec![finished(&lease, 1, completed(0))]).await;
        until_over(&alice, name).await;
    }
    // The first could not go; what was due after it went.
    eventually("the second goes", || async { names(&alice).await == ["c", "a"] }).await;
    std::fs::remove_file(knot.expect("made")).expect("removed");
    // It is tried again after twenty seconds.
    let gone = async {
        while names(&alice).await != ["c"] {
            daemon.renew(&[]).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it goes later");
}

#[tokio::test]
async fn a_namespace_submits_at_its_pace() {
    let server = Server::start_flags(&["--max-submissions", "3"]);
    let alice = server.client(ALICE);
    for name in ["a", "b", "c"] {
        alice.submit(&default(), &run(name, "")).await.expect("submitted");
    }
    let error = alice.submit(&default(), &run("d", "")).await.expect_err("denied");
    let (code, after) = denied(&error);
    assert_eq!(code, Some(Code::RateLimited), "{error}");
    assert!(
        after.is_some_and(|after| after > Duration::from_secs(15) && after <= Duration::from_secs(20)),
        "{after:?}"
    );
}

#[tokio::test]
async fn the_newest_finished_runs_are_kept_and_the_others_go_with_their_results() {
    let mut server = Server::start_flags(&["--keep-runs", "2"]);
    let alice = server.client(ALICE);
    let daemon = server.daemon("d1", 1).await;
    let blob = bytes::Bytes::from_static(b"a result");
    for name in ["a", "b", "c"] {
        alice.submit(&default(), &run(name, "")).await.expect("submitted");
        let lease = daemon.lease().await;
        let digest = Digest::of(&blob);
        daemon.client.put_blob(&digest, 0, 8, Blob::Bytes(blob.clone()), &lease.token).await.expect("stored");
        daemon.report(vec![finished(&lease, 1, completed(0))]).await;
        until_over(&alice, name).await;
    }
    eventually("the first goes", || async { names(&alice).await == ["c", "b"] }).await;
    eventually("and its results", || async {
        let runs = std::fs::read_dir(server.dir.path().join("data/blobs/runs")).expect("listed").flatten();
        runs.filter(|run| std::fs::read_dir(run.path()).is_ok_and(|mut kept| kept.next().is_some())).count()
            == 2
    })
    .await;
    // Results of a Run that nobody knows go at the next start, and so do Runs beyond the number.
    let orphan = server.dir.path().join("data/blobs/runs/0190-nobody");
    std::fs::create_dir(&orphan).expect("made");
    std::fs::write(orphan.join(Digest::of(b"x").hex()), "x").expect("written");
    server.restart();
    eventually("the orphan goes", || async { !orphan.join(Digest::of(b"x").hex()).exists() }).await;
    assert_eq!(names(&server.client(ALICE)).await, ["c", "b"]);
}

#[tokio::test]
async fn an_uploaded_patch_goes_after_its_time() {
    let mut server = Server::start_flags(&["--keep-uploads", "1s"]);
    let alice = server.client(ALICE);
    let bytes = bytes::Bytes::from_static(b"diff --git a/x b/x\n");
    let digest = alice.put_patch(&default(), bytes.clone()).await.expect("uploaded");
    let gone = |client: Controller| async move {
        let answer = client.get_patch(&default(), &digest).await;
        answer.err().and_then(|error| error.code()) == Some(Code::NotFound)
    };
    assert!(!gone(alice.clone()).await);
    eventually("it goes", || gone(alice.clone())).await;
    // One that is found at a start goes as well.
    alice.put_patch(&default(), bytes).await.expect("uploaded");
    server.restart();
    let alice = server.client(ALICE);
    eventually("it goes", || gone(alice.clone())).await;
}

#[tokio::test]
async fn an_uploaded_work_tree_goes_after_its_time_and_takes_nothing_else_along() {
    let server = Server::start_flags(&["--keep-uploads", "1s"]);
    let alice = server.client(ALICE);
    let start_from = |name: &str, digest: Digest| {
        let commit = "a".repeat(40);
        let source = format!(r#","source":{{"upload":{{"digest":"{digest}","commit":"{commit}"}}}}"#);
        run(name, &source)
    };
    let pack = alice.put_source(&default(), bytes::Bytes::from_static(b"a pack")).await.expect("uploaded");
    alice.submit(&default(), &start_from("a", pack)).await.expect("submitted");
    alice.cancel(&default(), &"a".parse().expect("a name")).await.expect("cancelled");
    let tried = std::sync::atomic::AtomicUsize::new(0);
    eventually("it goes", || async {
        let name = format!("b-{}", tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        alice.submit(&default(), &start_from(&name, pack)).await.is_err()
    })
    .await;

    // A digest that a patch has is not that of a work tree.
    let server = Server::start();
    let alice = server.client(ALICE);
    let bytes = bytes::Bytes::from_static(b"diff --git a/x b/x\n");
    let digest = alice.put_patch(&default(), bytes.clone()).await.expect("uploaded");
    let error = alice.submit(&default(), &start_from("c", digest)).await.expect_err("no work tree");
    assert!(error.to_string().contains("source.unknown"), "{error}");
    // And where it is both, the Run that starts from the one does not end the other.
    assert_eq!(alice.put_source(&default(), bytes.clone()).await.expect("uploaded"), digest);
    alice.submit(&default(), &start_from("c", digest)).await.expect("submitted");
    server.client(ADMIN).delete(&default(), &"c".parse().expect("a name")).await.expect("deleted");
    eventually("the Run goes", || async { names(&alice).await.is_empty() }).await;
    alice.get_patch(&default(), &digest).await.expect("still there");
}

#[tokio::test]
async fn a_namespace_uploads_so_much_and_no_more() {
    let mut server = Server::start_flags(&["--max-uploads", "64Ki"]);
    let bytes = |fill: u8, count: usize| bytes::Bytes::from(vec![fill; count]);
    for _ in 0..2 {
        let alice = server.client(ALICE);
        alice.put_patch(&default(), bytes(1, 30_000)).await.expect("uploaded");
        alice.put_source(&default(), bytes(2, 30_000)).await.expect("uploaded");
        let error = alice.put_source(&default(), bytes(3, 6_000)).await.expect_err("denied");
        assert_eq!(denied(&error), (Some(Code::RateLimited), Some(Duration::from_secs(1))), "{error}");
        assert!(error.to_string().contains("--max-uploads"), "{error}");
        let error = alice.put_patch(&default(), bytes(3, 66_000)).await.expect_err("denied");
        assert_eq!(error.code(), Some(Code::TooLarge), "{error}");
        // What is there may come once more, and another namespace is not concerned.
        alice.put_source(&default(), bytes(2, 30_000)).await.expect("the same");
        let other = "other".parse().expect("a name");
        server.client(ADMIN).put_patch(&other, bytes(4, 60_000)).await.expect("uploaded");
        // A controller that starts again reckons from what it finds.
        server.restart();
    }
    // What goes makes room. One that did not come whole took none.
    let server = Server::start_flags(&["--max-uploads", "64Ki", "--keep-uploads", "1s"]);
    let alice = server.client(ALICE);
    let mut broken =
        std::net::TcpStream::connect(server.url.trim_start_matches("http://")).expect("connects");
    let head = format!(
        "PUT /v1/namespaces/default/sources/{} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALICE}\r\nContent-Length: 60000\r\nExpect: 100-continue\r\n\r\n",
        Digest::of(b"x")
    );
    std::io::Write::write_all(&mut broken, head.as_bytes()).expect("sent");
    // The server asks for the bytes when it has made room for them.
    let mut asked = [0; 12];
    std::io::Read::read_exact(&mut broken, &mut asked).expect("answered");
    assert_eq!(&asked, b"HTTP/1.1 100");
    let error = alice.put_source(&default(), bytes(5, 10_000)).await.expect_err("what is under way counts");
    assert_eq!(error.code(), Some(Code::RateLimited), "{error}");
    drop(broken);
    eventually("it is given back", || async { alice.put_source(&default(), bytes(5, 10_000)).await.is_ok() })
        .await;
    alice.put_source(&default(), bytes(6, 50_000)).await.expect("uploaded");
    eventually("room is made", || async { alice.put_source(&default(), bytes(7, 60_000)).await.is_ok() })
        .await;
}

/// Uploads that come once more in the very moment in which they would go: what was answered is there.
#[tokio::test]
async fn what_is_uploaded_once_more_while_it_goes_is_not_lost() {
    let server = Server::start_flags(&["--keep-uploads", "2s"]);
    let alice = server.client(ALICE);
    let each = (0..80_u64).map(|number| {
        let alice = alice.clone();
        async move {
            let bytes = bytes::Bytes::from(format!("diff --git a/{number} b/{number}\n"));
            let digest = alice.put_patch(&default(), bytes.clone()).await.expect("uploaded");
            // Each at another moment around the removal, which is a matter of time alone.
            tokio::time::sleep(Duration::from_millis(1_960 + number)).await;
            alice.put_patch(&default(), bytes.clone()).await.expect("uploaded once more");
            let answered = tokio::time::Instant::now();
            // Longer than it takes to remove it.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let got = alice.get_patch(&default(), &digest).await;
            // On a machine that stood still, its time may have come again.
            if answered.elapsed() < Duration::from_millis(1_500) {
                let got = got.unwrap_or_else(|error| panic!("{number}: {error}"));
                assert_eq!(got.bytes().await.expect("its bytes"), bytes, "{number}");
            }
        }
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn the_audit_says_who_did_what_and_what_was_refused() {
    let mut server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    alice.cancel(&default(), &"a".parse().expect("a name")).await.expect("cancelled");
    let watcher = server.client(OBSERVER);
    watcher.submit(&default(), &run("b", "")).await.expect_err("an observer");
    server.client("nobodys-token").get(&default(), &"a".parse().expect("a name")).await.expect_err("unknown");
    alice.get(&default(), &"a".parse().expect("a name")).await.expect("a look is not written down");
    server.daemon("d1", 1).await;
    server.restart();
    assert_eq!(server.get("/v1/audit", ALICE).0, 403);
    let (status, text) = server.get("/v1/audit?limit=50", ADMIN);
    assert_eq!(status, 200);
    let audit: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let items = audit["items"].as_array().expect("a list");
    let lines: Vec<String> = items
        .iter()
        .rev()
        .map(|item| {
            let text = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {}",
                text("subject"),
                text("method"),
                text("path"),
                item["status"],
                text("code")
            )
        })
        .collect();
    let runs = "/v1/namespaces/default/runs";
    assert_eq!(
        lines,
        [
            format!("alice POST {runs} 201 -"),
            format!("alice POST {runs}/a/cancel 200 -"),
            format!("watcher POST {runs} 403 forbidden"),
            format!("- GET {runs}/a 401 unauthenticated"),
            "daemon of bash POST /v1/sessions 201 -".to_owned(),
            "alice GET /v1/audit 403 forbidden".to_owned(),
        ]
    );
    assert_eq!(items.last().expect("the first")["run"], "a");
    assert!(!text.contains(ALICE) && !text.contains("nobodys-token"), "{text}");
}

#[tokio::test]
async fn a_backup_is_made_while_the_controller_works_and_is_a_data_directory() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let daemon = server.daemon("d1", 2).await;
    alice.submit(&default(), &run("over", "")).await.expect("submitted");
    let lease = daemon.lease().await;
    let blob = bytes::Bytes::from_static(b"a result");
    let digest = Digest::of(&blob);
    daemon.client.put_blob(&digest, 0, 8, Blob::Bytes(blob), &lease.token).await.expect("stored");
    daemon.complete(&lease, 0).await;
    let over = until_over(&alice, "over").await;
    alice.submit(&default(), &run("held", "")).await.expect("submitted");
    let held = daemon.lease().await;

    let restored = tempfile::tempdir().expect("a directory");
    crate::harness::prepare(restored.path());
    let backup = || {
        let (data, to) = (server.dir.path().join("data"), restored.path().join("data"));
        crate::harness::backup(&data, &to).output().expect("ran")
    };
    let output = backup();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A second one does not write into the first.
    let again = backup();
    assert_eq!(again.status.code(), Some(120), "{}", String::from_utf8_lossy(&again.stderr));
    alice.submit(&default(), &run("later", "")).await.expect("submitted");
    drop(server);

    let server = Server::start_in(restored, "15s", &[]);
    let alice = server.client(ALICE);
    assert_eq!(names(&alice).await, ["held", "over"]);
    assert_eq!(alice.get(&default(), &"over".parse().expect("a name")).await.expect("there"), over);
    // The tokens of attempts are still good, and so are results.
    let daemon = server.daemon("d1", 2).await;
    daemon.complete(&held, 0).await;
    assert_eq!(phase(&until_over(&alice, "held").await), Phase::Succeeded);
    let kept = server.dir.path().join("data/blobs/runs").join(over.metadata.uid.expect("a uid").as_str());
    assert_eq!(std::fs::read(kept.join(digest.hex())).expect("kept"), b"a result");
}

#[tokio::test]
async fn a_query_that_cannot_be_read_is_a_problem_too() {
    let server = Server::start();
    server.client(ALICE).submit(&default(), &run("a", "")).await.expect("submitted");
    for path in ["artifacts?attempt=99999999999999", "patch?attempt=x", "artifacts?nonsense=1"] {
        let (status, body) = server.get(&format!("/v1/namespaces/default/runs/a/{path}"), ALICE);
        assert_eq!(status, 400, "{path}: {body}");
        let problem: runtimed_api::problem::Problem = serde_json::from_str(&body).expect("a problem");
        assert_eq!(problem.code, Code::InvalidRequest, "{path}");
    }
}

#[tokio::test]
async fn a_runtime_that_is_added_serves_at_once() {
    let server = Server::start();
    let file = server.dir.path().join("runtimes/added.yaml");
    let text = std::fs::read_to_string(server.dir.path().join("runtimes/bash.yaml")).expect("read");
    let mut submission = run("a", "");
    submission.run.spec.runtime = "added".parse().expect("a name");
    let admin = server.client(ADMIN);
    let error = admin.submit(&default(), &submission).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::Refused));
    std::fs::write(file, text.replace("name: bash", "name: added")).expect("written");
    admin.submit(&default(), &submission).await.expect("submitted");
    until(&admin, "a", |run| phase(run) == Phase::Pending).await;
}
