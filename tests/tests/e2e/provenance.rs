//! Who vouches for a prior patch: what the controller signs, and what daemons refuse.

use std::fs;

use jiff::Timestamp;
use runtimed_api::digest::Digest;
use runtimed_api::provenance::{Envelope, KeyHistory, Origin, Signer, Statement};
use runtimed_api::rule::Rule;
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use serde_json::Value;

use crate::results::Repository;

/// The statement about the Patch of a Run's last attempt.
fn statement(run: &Run) -> Envelope {
    let status = run.status.as_ref().expect("a stored Run has a status");
    status.attempts.last().expect("an attempt").statement.clone().expect("a statement")
}

async fn refused(cluster: &Cluster, run: Run) -> Rule {
    let run = cluster.run(run).await;
    assert_eq!(phase(&run), Phase::Refused, "{:?}", run.status);
    assert!(result(&run).outcome.is_none() && result(&run).baseline.is_none(), "nothing has begun");
    result(&run).refusals[0].rule
}

fn prior(repository: &Repository, name: &str, digest: &Digest) -> Run {
    repository.run(name, "cat greeting", &format!("priorPatches: [{{ digest: \"{digest}\" }}]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_patch_is_vouched_for_and_the_next_run_starts_from_it() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    let first = cluster.run(repository.run("first", "echo more >> greeting", "")).await;
    let patch = result(&first).patch.clone().expect("a patch");
    let keys = cluster.client.keys().await.expect("the keys");
    let vouched = statement(&first).verify(&keys, Timestamp::now()).expect("signed by the controller");
    let stated = vouched.statement();
    assert_eq!((Some(stated.patch), &stated.predicate.namespace), (patch.digest, &namespace()));
    let Origin::Captured(captured) = &stated.predicate.origin else { panic!("{stated:?}") };
    assert_eq!((captured.run.as_str(), captured.runtime.as_str()), ("first", "test"));
    assert_eq!((captured.requested_by.as_str(), captured.attempt.0), ("tester", 1));
    assert_eq!((&captured.base, &captured.result), (&patch.base, &patch.result));
    assert_eq!(Some(&captured.uid), first.metadata.uid.as_ref());

    let second = repository.run("second", "cat greeting", "priorPatches: [{ run: first }]");
    assert_eq!(phase(&cluster.run(second).await), Phase::Succeeded);
    assert_eq!(cluster.log(&"second".parse().expect("a name")).await, "hello\nmore\n");
    let third = prior(&repository, "third", &patch.digest.expect("kept"));
    assert_eq!(phase(&cluster.run(third).await), Phase::Succeeded);

    // The same bytes of another Run, on another tree: each Run's own statement counts.
    fs::write(repository.path().join("other"), "x\n").expect("written");
    repository.commit("another tree");
    let again = cluster.run(repository.run("again", "echo more >> greeting", "")).await;
    let other = result(&again).patch.clone().expect("a patch");
    assert!(other.digest == patch.digest && other.base != patch.base);
    let on_again = repository.run("on-again", "cat greeting", "priorPatches: [{ run: again }]");
    assert_eq!(phase(&cluster.run(on_again).await), Phase::Succeeded);
    let on_first = repository.run("on-first", "true", "priorPatches: [{ run: first }]");
    assert_eq!(refused(&cluster, on_first).await, Rule::PATCH_BASE_MISMATCH);
    // With the two trees, and what to do.
    let told = cluster.client.get(&namespace(), &"on-first".parse().expect("a name")).await.expect("there");
    let refusal = &result(&told).refusals[0];
    for tree in [&patch.base, &other.base] {
        assert!(refusal.message.contains(tree.as_str()), "{refusal:?}");
    }
    assert!(refusal.hint.is_some(), "{refusal:?}");
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_vouched_for_is_refused_by_its_own_rule() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    let made = cluster.run(repository.run("made", "echo more >> greeting", "")).await;
    let genuine = statement(&made).verify(&cluster.client.keys().await.expect("keys"), Timestamp::now());
    let genuine = genuine.expect("genuine").statement().clone();
    let key = fs::read(cluster.controller_dir().join("signing.key")).expect("the key");
    let key = Signer::from_seed(&key.try_into().expect("32 bytes"));
    let stranger = Signer::from_seed(&[7; 32]);

    // Each is a patch of its own whose stored statement is then changed behind the controller's back.
    type Forge<'a> = Box<dyn Fn(Statement) -> Option<Envelope> + 'a>;
    let of = |change: fn(&mut Statement)| -> Forge<'_> {
        let key = &key;
        Box::new(move |mut statement| {
            change(&mut statement);
            Some(key.sign(&statement))
        })
    };
    let tree = |which: &'static str| -> Forge<'_> {
        let key = &key;
        Box::new(move |mut statement| {
            let Origin::Captured(captured) = &mut statement.predicate.origin else { return None };
            let wrong = "b".repeat(40).parse().expect("a tree");
            *(if which == "base" { &mut captured.base } else { &mut captured.result }) = wrong;
            Some(key.sign(&statement))
        })
    };
    let spliced: Forge<'_> = Box::new(|statement| {
        let good = key.sign(&statement);
        let mut other = statement;
        other.predicate.time = Timestamp::UNIX_EPOCH;
        Some(Envelope { payload: key.sign(&other).payload, ..good })
    });
    let cases: Vec<(&str, Rule, Forge<'_>)> = vec![
        ("good", Rule::PATCH_KIND, of(|_| {})),
        ("unsigned", Rule::PATCH_PROVENANCE, Box::new(|_| None)),
        ("spliced", Rule::PATCH_SIGNATURE, spliced),
        ("stranger", Rule::PATCH_KEY_UNKNOWN, Box::new(|statement| Some(stranger.sign(&statement)))),
        (
            "namespace",
            Rule::PATCH_NAMESPACE,
            of(|it| it.predicate.namespace = "other".parse().expect("a name")),
        ),
        ("digest", Rule::PATCH_DIGEST, of(|it| it.patch = Digest::of(b"other"))),
        ("base", Rule::PATCH_BASE_MISMATCH, tree("base")),
        ("result", Rule::PATCH_TREE_MISMATCH, tree("result")),
    ];
    let mut digests = Vec::new();
    for (name, ..) in &cases {
        // What stands before a patch is prose, so that these are the same change in different bytes.
        let text = format!("{name}\n{}", repository.patch_of("greeting", "hello\n", "hello\nmore\n"));
        let digest = cluster.client.put_patch(&namespace(), text.into()).await.expect("uploaded");
        digests.push(digest);
    }
    cluster.edit_controller(|database| {
        for ((_, _, forge), digest) in cases.iter().zip(&digests) {
            let mut statement = genuine.clone();
            statement.patch = *digest;
            edit_patch(database, digest, |record| match forge(statement.clone()) {
                Some(envelope) => record["statement"] = serde_json::to_value(envelope).expect("JSON"),
                None => drop(record.as_object_mut().expect("an object").remove("statement")),
            });
        }
    });
    for ((name, rule, _), digest) in cases.iter().zip(&digests) {
        let run = prior(&repository, name, digest);
        if *name == "good" {
            assert_eq!(phase(&cluster.run(run).await), Phase::Succeeded);
        } else {
            assert_eq!(refused(&cluster, run).await, *rule, "{name}");
        }
    }

    // Other bytes where the patch is kept.
    let kept = cluster.controller_dir().join("blobs/patches/default").join(digests[0].hex());
    let bytes = fs::read_to_string(&kept).expect("it is kept there");
    fs::write(&kept, bytes.replace("+more", "+evil")).expect("written");
    assert_eq!(refused(&cluster, prior(&repository, "tampered", &digests[0])).await, Rule::PATCH_DIGEST);

    // A statement about another Run's patch in a Run that is named.
    cluster.edit_controller(|database| {
        edit(database, "run", "made", |record| {
            let Origin::Captured(captured) = &mut genuine.clone().predicate.origin else { return };
            let mut other = genuine.clone();
            captured.run = "another".parse().expect("a name");
            other.predicate.origin = Origin::Captured(captured.clone());
            record["status"]["attempts"][0]["statement"] =
                serde_json::to_value(key.sign(&other)).expect("JSON");
        });
    });
    let named = repository.run("named", "true", "priorPatches: [{ run: made }]");
    assert_eq!(refused(&cluster, named).await, Rule::PATCH_PROVENANCE);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_attributed_and_a_rotated_key_expires() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    let patch = repository.patch_of("greeting", "hello\n", "hello, world\n");
    let digest = cluster.client.put_patch(&namespace(), patch.clone().into()).await.expect("uploaded");
    cluster.edit_controller(|database| {
        edit_patch(database, &digest, |record| {
            let envelope: Envelope = serde_json::from_value(record["statement"].clone()).expect("stated");
            let history = fs::read(cluster_history(database)).expect("the history");
            let keys: KeyHistory = serde_json::from_slice(&history).expect("keys");
            let vouched = envelope.verify(&keys, Timestamp::now()).expect("signed");
            let Origin::Uploaded(uploaded) = &vouched.statement().predicate.origin else {
                panic!("{record}")
            };
            assert_eq!(uploaded.by, "tester");
        });
    });
    let data = cluster.controller_dir();
    let file = fs::File::options().write(true).open(data.join("signing.key"));
    std::io::Write::write_all(&mut file.expect("the key"), &[3; 32]).expect("written");
    cluster.edit_controller(|_| {});
    let keys = cluster.client.keys().await.expect("keys").keys;
    assert!(keys.len() == 2 && keys[0].expires.is_some() && keys[1].until.is_none(), "{keys:?}");
    let run = cluster.run(prior(&repository, "overlap", &digest)).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);

    let history = data.join("signing-history.json");
    cluster.edit_controller(|_| {
        let mut keys: Value = serde_json::from_slice(&fs::read(&history).expect("read")).expect("JSON");
        keys["keys"][0]["expires"] = "2026-01-01T00:00:00Z".into();
        fs::write(&history, keys.to_string()).expect("written");
    });
    assert_eq!(refused(&cluster, prior(&repository, "expired", &digest)).await, Rule::PATCH_KEY_EXPIRED);
    // Uploaded again it is signed anew.
    cluster.client.put_patch(&namespace(), patch.into()).await.expect("uploaded");
    assert_eq!(phase(&cluster.run(prior(&repository, "anew", &digest)).await), Phase::Succeeded);
    assert!(cluster.drain().is_empty());
}

/// A Runtime may ask for less than a signature, and for smaller patches than others.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_says_what_it_takes() {
    for (require, base) in [("Digest", Phase::Refused), ("None", Phase::Succeeded)] {
        let runtime_toml = format!("[patches]\nrequire = \"{require}\"\nmaxBytes = \"1Ki\"\n");
        let mut cluster = Cluster::start(Options { runtime_toml, ..Options::default() }).await;
        let repository = Repository::new(&cluster);
        let large = format!("hello, {}\n", "world ".repeat(300));
        let large = cluster
            .client
            .put_patch(&namespace(), repository.patch_of("greeting", "hello\n", &large).into())
            .await
            .expect("uploaded");
        assert_eq!(refused(&cluster, prior(&repository, "large", &large)).await, Rule::PATCH_TOO_LARGE);
        let patch = repository.patch_of("greeting", "hello\n", "hello, world\n");
        let digest = cluster.client.put_patch(&namespace(), patch.into()).await.expect("uploaded");
        cluster.edit_controller(|database| {
            edit_patch(database, &digest, |patch| {
                drop(patch.as_object_mut().expect("one").remove("statement"));
            });
        });
        let unsigned = cluster.run(prior(&repository, "unsigned", &digest)).await;
        assert_eq!(phase(&unsigned), Phase::Succeeded, "{require}: {:?}", unsigned.status);
        // The trees that a Run's patch was captured between hold without a signature, or not even they.
        cluster.run(repository.run("first", "echo more >> greeting", "")).await;
        fs::write(repository.path().join("other"), "x\n").expect("written");
        repository.commit("another tree");
        let moved = repository.run("moved", "true", "priorPatches: [{ run: first }]");
        let moved = cluster.run(moved).await;
        assert_eq!(phase(&moved), base, "{require}: {:?}", moved.status);
        assert!(cluster.drain().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_told_its_keys_takes_no_others() {
    let stranger = Signer::from_seed(&[7; 32]);
    let keys =
        KeyHistory::default().with_current(stranger.public(), Timestamp::now(), jiff::SignedDuration::ZERO);
    let keys = Some(serde_json::to_string(&keys.expect("a new key")).expect("JSON"));
    let mut cluster = Cluster::start(Options { keys, ..Options::default() }).await;
    let repository = Repository::new(&cluster);
    let patch = repository.patch_of("greeting", "hello\n", "hello, world\n");
    let digest = cluster.client.put_patch(&namespace(), patch.into()).await.expect("uploaded");
    assert_eq!(refused(&cluster, prior(&repository, "pinned", &digest)).await, Rule::PATCH_KEY_UNKNOWN);
    // The file is read for each use.
    let own = cluster.client.keys().await.expect("keys");
    let file = cluster.config(0).with_file_name("keys.json");
    fs::write(file, serde_json::to_string(&own).expect("JSON")).expect("written");
    assert_eq!(phase(&cluster.run(prior(&repository, "trusted", &digest)).await), Phase::Succeeded);
    assert!(cluster.drain().is_empty());
}

fn cluster_history(database: &rusqlite::Connection) -> std::path::PathBuf {
    std::path::Path::new(database.path().expect("a file")).with_file_name("signing-history.json")
}

fn edit_patch(database: &rusqlite::Connection, digest: &Digest, change: impl FnOnce(&mut Value)) {
    edit(database, "patch", &digest.hex(), change);
}

/// Changes a stored object.
fn edit(database: &rusqlite::Connection, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
    let of = "lower(kind) = ?1 AND namespace = 'default' AND name = ?2";
    let read = format!("SELECT body FROM object WHERE {of}");
    let body: Vec<u8> =
        database.query_row(&read, [kind, name], |row| row.get(0)).expect("the object is stored");
    let mut record = serde_json::from_slice(&body).expect("JSON");
    change(&mut record);
    let write = format!("UPDATE object SET body = ?3 WHERE {of}");
    let body = serde_json::to_vec(&record).expect("JSON");
    assert_eq!(database.execute(&write, rusqlite::params![kind, name, body]).expect("stored"), 1);
}
