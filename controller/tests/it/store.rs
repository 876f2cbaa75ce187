//! What the store has and the controller did not know: a write that was made and whose answer was lost looks like this.

use runtimed_api::run::status::Phase;
use rusqlite::Connection;

use crate::harness::{ALICE, Server, default, phase, run, until_over};

/// The database beside the controller, to write as an earlier write of its own would have.
fn database(server: &Server) -> Connection {
    let database = Connection::open(server.dir.path().join("data/controller.db")).expect("opens");
    database.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
    database
}

#[tokio::test]
async fn a_run_of_another_version_is_decided_on_as_it_is() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let changed = database(&server)
        .execute("UPDATE object SET version = version + 1000000 WHERE kind = 'run' AND name = 'a'", [])
        .expect("written");
    assert_eq!(changed, 1);
    alice.cancel(&default(), &"a".parse().expect("a name")).await.expect("cancelled");
    assert_eq!(phase(&until_over(&alice, "a").await), Phase::Cancelled);
}

#[tokio::test]
async fn a_run_that_was_stored_and_not_answered_is_taken_when_it_comes_again() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let first = alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let body: Vec<u8> = database(&server)
        .query_row("SELECT body FROM object WHERE kind = 'run' AND name = 'a'", [], |row| row.get(0))
        .expect("read");
    let uid = first.metadata.uid.expect("a uid").to_string();
    let other = uid.replacen(&uid[..8], "01a00000", 1);
    let body = String::from_utf8(body).expect("JSON");
    let body = body.replace(&uid, &other).replace(r#""name":"a""#, r#""name":"b""#);
    database(&server)
        .execute(
            "INSERT INTO object SELECT kind, namespace, 'b', version + 1000000, ?1, phase, ?2 FROM object
             WHERE kind = 'run' AND name = 'a'",
            rusqlite::params![other, body.as_bytes()],
        )
        .expect("written");
    let again = alice.submit(&default(), &run("b", "")).await.expect("taken");
    assert_eq!(again.metadata.uid.expect("a uid").to_string(), other);
    let daemon = server.daemon("d1", 2).await;
    let mut leased = [daemon.lease().await, daemon.lease().await];
    leased.sort_by_key(|lease| lease.attempt.name.to_string());
    assert_eq!(leased.each_ref().map(|lease| lease.attempt.name.as_str()), ["a", "b"]);
    daemon.complete(&leased[1], 0).await;
    assert_eq!(phase(&until_over(&alice, "b").await), Phase::Succeeded);
}
