//! Who may do what, and what is refused at submission.

use std::collections::BTreeMap;

use runtimed_api::digest::Digest;
use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{SecretText, SecretValue};
use runtimed_client::controller::{Controller, ListQuery};
use runtimed_client::{ClientError, Endpoint};

use crate::harness::{ADMIN, ALICE, DAEMON, OBSERVER, Server, default, phase, run, status};

#[tokio::test]
async fn a_token_opens_what_its_role_and_namespaces_say() {
    let server = Server::start();
    let name = "a".parse().expect("a name");
    let team: runtimed_api::ids::Namespace = "team-b".parse().expect("a namespace");
    server.client(ALICE).submit(&default(), &run("a", "")).await.expect("submitted");

    let code = |result: Result<_, ClientError>| result.map(drop).expect_err("refused").code();
    assert_eq!(code(server.client("wrong").get(&default(), &name).await), Some(Code::Unauthenticated));
    assert_eq!(code(server.client(DAEMON).get(&default(), &name).await), Some(Code::Forbidden));
    assert_eq!(code(server.client(ALICE).get(&team, &name).await), Some(Code::Forbidden));
    assert_eq!(code(server.client(OBSERVER).submit(&default(), &run("b", "")).await), Some(Code::Forbidden));
    assert_eq!(code(server.client(OBSERVER).cancel(&default(), &name).await), Some(Code::Forbidden));
    let deleted = server.client(ALICE).delete(&default(), &name).await;
    assert_eq!(deleted.expect_err("refused").code(), Some(Code::Forbidden));
    assert_eq!(code(server.client(ADMIN).get(&team, &name).await), Some(Code::NotFound));
    assert!(server.client(OBSERVER).get(&default(), &name).await.is_ok());
}

#[tokio::test]
async fn tokens_are_read_again_when_their_file_changes() {
    let server = Server::start();
    let file = server.dir.path().join("tokens.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let name = "a".parse().expect("a name");
    let new = server.client("new-token");
    assert_eq!(new.get(&default(), &name).await.expect_err("refused").code(), Some(Code::Unauthenticated));

    let replace = |text: &str| {
        let draft = file.with_extension("draft");
        std::fs::write(&draft, text).expect("written");
        std::fs::rename(&draft, &file).expect("renamed");
    };
    let hash = |token: &str| Digest::of(token.as_bytes()).to_string();
    replace(&text.replace(&hash(ALICE), &hash("new-token")));
    assert_eq!(new.get(&default(), &name).await.expect_err("refused").code(), Some(Code::NotFound));
    let old = server.client(ALICE).get(&default(), &name).await.expect_err("refused");
    assert_eq!(old.code(), Some(Code::Unauthenticated));

    // What cannot be read changes nothing.
    replace("people = 1");
    assert_eq!(new.get(&default(), &name).await.expect_err("refused").code(), Some(Code::NotFound));
}

#[tokio::test]
async fn one_name_is_one_run() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let first = alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let again = alice.submit(&default(), &run("a", "")).await.expect("answered");
    assert_eq!(first.metadata, again.metadata);
    let other = alice.submit(&default(), &run("a", r#","env":{"A":"b"}"#)).await.expect_err("refused");
    assert_eq!(other.code(), Some(Code::Conflict));
    let mut generated = run("a", "");
    generated.run.metadata.name = None;
    generated.run.metadata.generate_name = Some("a-".to_owned());
    let one = alice.submit(&default(), &generated).await.expect("submitted");
    let two = alice.submit(&default(), &generated).await.expect("submitted");
    assert_ne!(one.metadata.name, two.metadata.name);
    let name = one.metadata.name.expect("a name").to_string();
    assert!(name.starts_with("a-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn what_policy_forbids_is_refused_with_every_rule() {
    let server = Server::start();
    let alice = server.client(ALICE);
    let mut bad = run("a", r#","limits":{"timeout":"3h"},"artifacts":{"paths":["../x"]}"#);
    bad.secrets =
        BTreeMap::from([("unused".parse().expect("a name"), SecretValue::new(b"hunter22".to_vec()))]);
    let Err(ClientError::Problem { status, problem, .. }) = alice.submit(&default(), &bad).await else {
        panic!("refused");
    };
    assert_eq!((status, problem.code), (422, Code::Refused));
    let rules: Vec<Rule> = problem.refusals.iter().map(|refusal| refusal.rule).collect();
    assert_eq!(rules, [Rule::SPEC_PATH, Rule::SECRET_UNKNOWN, Rule::LIMIT_CEILING]);
    assert!(!format!("{problem:?}").contains("hunter22"));

    let mut unknown = run("a", "");
    unknown.run.spec.runtime = "zsh".parse().expect("a name");
    let Err(ClientError::Problem { problem, .. }) = alice.submit(&default(), &unknown).await else {
        panic!("refused");
    };
    assert_eq!(problem.refusals.first().map(|refusal| refusal.rule), Some(Rule::RUNTIME_UNKNOWN));
    assert_eq!(problem.hint.as_deref(), Some("there are: bash, other"));

    let mut own_status = run("a", "");
    own_status.run.status = alice.submit(&default(), &run("b", "")).await.expect("submitted").status;
    let Err(ClientError::Problem { problem, .. }) = alice.submit(&default(), &own_status).await else {
        panic!("refused");
    };
    assert_eq!(problem.refusals.first().map(|refusal| refusal.rule), Some(Rule::SPEC_STATUS));
}

#[tokio::test]
async fn a_run_that_is_too_large_is_refused() {
    let server = Server::start();
    let mut large = run("a", "");
    large.run.spec.command.push("x".repeat(300 * 1024));
    let error = server.client(ALICE).submit(&default(), &large).await.expect_err("refused");
    assert_eq!(error.code(), Some(Code::TooLarge));
}

#[tokio::test]
async fn runs_are_listed_newest_first_in_pages_and_by_label_and_phase() {
    let server = Server::start();
    let alice = server.client(ALICE);
    for index in 0..5 {
        let mut one = run(&format!("r{index}"), "");
        one.run.metadata.labels.insert("parity".to_owned(), (index % 2).to_string());
        alice.submit(&default(), &one).await.expect("submitted");
    }
    alice.cancel(&default(), &"r4".parse().expect("a name")).await.expect("cancelled");
    let names = |list: &runtimed_api::run::RunList| -> Vec<String> {
        list.items.iter().filter_map(|run| run.metadata.name.as_ref()).map(ToString::to_string).collect()
    };
    let mut query = ListQuery { limit: Some(2), ..ListQuery::default() };
    let mut pages = Vec::new();
    loop {
        let list = alice.list(&default(), &query).await.expect("a page");
        pages.push(names(&list));
        query.next = list.next;
        if query.next.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec!["r4", "r3"], vec!["r2", "r1"], vec!["r0"]]);
    let even = ListQuery { labels: vec![("parity".to_owned(), "0".to_owned())], ..ListQuery::default() };
    assert_eq!(names(&alice.list(&default(), &even).await.expect("a page")), ["r4", "r2", "r0"]);
    let cancelled = ListQuery { phase: Some(Phase::Cancelled), ..ListQuery::default() };
    let list = alice.list(&default(), &cancelled).await.expect("a page");
    assert_eq!(names(&list), ["r4"]);
    assert_eq!(phase(&list.items[0]), Phase::Cancelled);
    let all = alice.list(&default(), &ListQuery::default()).await.expect("a page");
    let reason = status(&all.items[1]).reason.as_deref();
    assert_eq!(reason, Some("no daemon of Runtime bash is connected"));
}

#[tokio::test]
async fn the_runtimes_are_listed() {
    let server = Server::start();
    let runtimes = server.client(ALICE).runtimes().await.expect("listed");
    let names: Vec<_> = runtimes.iter().map(|runtime| runtime.metadata.name.as_str()).collect();
    assert_eq!(names, ["bash", "other"]);
}

#[tokio::test]
async fn a_pending_run_says_when_daemons_come() {
    let server = Server::start();
    let alice = server.client(ALICE);
    alice.submit(&default(), &run("a", "")).await.expect("submitted");
    let reason = |run: &runtimed_api::run::Run| status(run).reason.clone().unwrap_or_default();
    let watching = crate::harness::until(&alice, "a", |run| reason(run) == "1 daemon, 0 free slots");
    let (seen, _daemon) = tokio::join!(watching, server.daemon("d1", 1));
    assert_eq!(phase(&seen), Phase::Pending);
}

#[tokio::test]
async fn people_are_served_over_tls() {
    let (server, authority) = Server::start_with_tls();
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let endpoint = Endpoint { url: server.url.clone(), ca_file: Some(authority) };
    let alice = Controller::new(&endpoint).expect("a client").with_token(SecretText::new(ALICE.to_owned()));
    let submitted = alice.submit(&default(), &run("a", "")).await.expect("submitted");
    assert_eq!(phase(&submitted), Phase::Pending);
}
