//! git over https: against git's own server program, and against servers that misbehave.

use std::os::fd::AsFd;
use std::path::Path;

use runtimed_api::link::{Assign, Credential, CredentialKind, Down, ExitStatus, Source};
use runtimed_api::run::source::GitSource;

use crate::git::Repository;
use crate::harness::{Daemon, sealed};
use crate::server::{Behaviour, Server};
use crate::source::at;

fn served(behaviour: Behaviour) -> (Repository, Server) {
    let repository = Repository::new();
    let bare = repository.bare();
    let server = Server::new(bare.parent().unwrap(), behaviour);
    (repository, server)
}

fn assign(daemon: &mut Daemon, source: GitSource, authority: Option<&Path>) {
    let ca_file = authority.map(|path| path.to_str().unwrap().to_owned());
    let assign = Assign { ca_file, ..daemon.assignment(Source::Git(source)) };
    daemon.send(&Down::Assign(Box::new(assign)));
}

/// Gives the worker a credential that may be shown to `host`, and the source to fetch.
fn with_credential(server: &Server, url: &str, host: &str) -> Daemon {
    let mut daemon = Daemon::new();
    let about = Credential { kind: CredentialKind::GitHttps, hosts: vec![host.to_owned()] };
    let bytes = sealed(br#"{"username":"me","password":"the password"}"#);
    daemon.send_with(&Down::Credential(about), &[bytes.as_fd()]);
    assign(&mut daemon, at(url, None), Some(&server.authority()));
    daemon
}

/// `me:the password` in base64.
const LOGIN: &str = "Basic bWU6dGhlIHBhc3N3b3Jk";

#[test]
fn head_branches_tags_and_commits_are_found() {
    let (repository, server) = served(Behaviour::Serve);
    let first = repository.id("side");
    for (reference, depth, commit) in [
        (None, None, "main"),
        (Some("main"), Some(0), "main"),
        (Some("side"), None, "side"),
        (Some("v1"), Some(1), "side"),
        (Some(first.as_str()), None, "side"),
    ] {
        let mut daemon = Daemon::new();
        let source = GitSource { depth, ..at(&server.url("bare.git"), reference) };
        assign(&mut daemon, source, Some(&server.authority()));
        let baseline = daemon.baseline();
        assert_eq!(baseline.commit.unwrap().as_str(), repository.id(commit), "{reference:?}");
        let workspace = daemon.trees.workspace();
        let history = if depth == Some(0) { "2" } else { "1" };
        assert_eq!(crate::git::git(&workspace, &["rev-list", "--count", "HEAD"]), history, "{reference:?}");
        assert_eq!(crate::git::git(&workspace, &["status", "--porcelain"]), "");
        let (exited, stdout, _, _) = daemon.complete(&["./sub/run"]);
        assert_eq!((exited.status, stdout.as_str()), (ExitStatus::Code(0), "ran\n"));
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let (_repository, server) = served(Behaviour::Serve);
    let absent = "1234567890123456789012345678901234567890";
    for (reference, rule) in [("nothing", "source.ref-not-found"), (absent, "source.ref-not-found")] {
        let mut daemon = Daemon::new();
        assign(&mut daemon, at(&server.url("bare.git"), Some(reference)), Some(&server.authority()));
        assert_eq!(daemon.refused(), [rule]);
    }
    let mut daemon = Daemon::new();
    assign(&mut daemon, at(&server.url("other.git"), None), Some(&server.authority()));
    let problem = daemon.fault().problem;
    assert_eq!(
        (problem.code.to_string().as_str(), problem.retryable),
        ("source-failed", false),
        "{problem:?}"
    );
}

#[test]
fn a_server_that_nobody_vouches_for_is_not_trusted() {
    let (_repository, server) = served(Behaviour::Serve);
    let (_other, stranger) = served(Behaviour::Serve);
    let mut daemon = Daemon::new();
    assign(&mut daemon, at(&server.url("bare.git"), None), Some(&stranger.authority()));
    let problem = daemon.fault().problem;
    assert_eq!(
        (problem.code.to_string().as_str(), problem.retryable),
        ("source-unreachable", false),
        "{problem:?}"
    );
    assert!(problem.hint.unwrap().contains("ca_file"));
    assert!(server.shown.lock().unwrap().is_empty(), "nothing was asked before the certificate was checked");
}

#[test]
fn nobody_there_is_unreachable() {
    let (_repository, server) = served(Behaviour::Serve);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for url in [format!("https://127.0.0.1:{port}/x"), "https://no-such-host.invalid/x".to_owned()] {
        let mut daemon = Daemon::new();
        assign(&mut daemon, at(&url, None), Some(&server.authority()));
        let problem = daemon.fault().problem;
        assert_eq!(
            (problem.code.to_string().as_str(), problem.retryable),
            ("source-unreachable", true),
            "{problem:?}"
        );
    }
}

#[test]
fn a_credential_opens_and_goes_to_its_hosts_alone() {
    let (repository, server) = served(Behaviour::Login(LOGIN.to_owned()));
    let mut daemon = with_credential(&server, &server.url("bare.git"), "127.0.0.1");
    assert_eq!(daemon.baseline().commit.unwrap().as_str(), repository.id("main"));
    let config = std::fs::read_to_string(daemon.trees.workspace().join(".git/config")).unwrap();
    assert!(config.contains(&server.url("bare.git")) && !config.contains("password"), "{config}");

    let before = server.shown.lock().unwrap().len();
    let mut daemon = with_credential(&server, &server.url("bare.git"), "git.example");
    let problem = daemon.fault().problem;
    assert_eq!(problem.code.to_string(), "source-credential");
    assert!(!format!("{problem:?}").contains("the password"));
    assert_eq!(server.shown.lock().unwrap().len(), before, "the server was not even asked");
}

#[test]
fn a_login_without_or_with_a_wrong_credential_is_told_apart() {
    let (_repository, server) = served(Behaviour::Login("Basic other".to_owned()));
    let mut daemon = Daemon::new();
    assign(&mut daemon, at(&server.url("bare.git"), None), Some(&server.authority()));
    let problem = daemon.fault().problem;
    assert_eq!(problem.code.to_string(), "source-credential");
    assert!(problem.message.contains("the Run names none"), "{problem:?}");
    let problem = with_credential(&server, &server.url("bare.git"), "127.0.0.1").fault().problem;
    assert!(problem.message.contains("does not accept the credential"), "{problem:?}");
}

#[test]
fn redirects_are_followed_within_their_origin_only() {
    let (repository, server) = served(Behaviour::Redirect("/bare.git".to_owned()));
    let mut daemon = Daemon::new();
    assign(&mut daemon, at(&server.url("first/x"), None), Some(&server.authority()));
    assert_eq!(daemon.baseline().commit.unwrap().as_str(), repository.id("main"));

    let (_other, elsewhere) = served(Behaviour::Serve);
    let (_repository, server) = served(Behaviour::Redirect(elsewhere.url("bare.git")));
    let problem = with_credential(&server, &server.url("first/x"), "127.0.0.1").fault().problem;
    assert!(problem.message.contains("redirects to another place"), "{problem:?}");
    assert!(elsewhere.shown.lock().unwrap().is_empty());

    let (_repository, server) = served(Behaviour::Redirect("/first/again".to_owned()));
    let mut daemon = Daemon::new();
    assign(&mut daemon, at(&server.url("first/x"), None), Some(&server.authority()));
    assert!(daemon.fault().problem.message.contains("again and again"));
}

#[test]
fn answers_that_cannot_be_used_are_faults() {
    for (behaviour, why, retryable) in [
        (Behaviour::Truncate, "", true),
        (Behaviour::Corrupt, "", true),
        (Behaviour::Page(200), "not as a git server does", false),
        (Behaviour::Page(500), "the server failed", true),
        (Behaviour::Page(429), "asked too often", true),
        (Behaviour::Page(404), "no such repository", false),
    ] {
        let (_repository, server) = served(behaviour.clone());
        let mut daemon = Daemon::new();
        assign(&mut daemon, at(&server.url("bare.git"), None), Some(&server.authority()));
        let problem = daemon.fault().problem;
        assert_eq!(
            (problem.code.to_string().as_str(), problem.retryable),
            ("source-failed", retryable),
            "{problem:?}"
        );
        assert!(problem.message.contains(why), "{behaviour:?}: {problem:?}");
        assert_eq!(daemon.exit_code(), 0);
        assert!(daemon.trees.files().is_empty());
    }
}

#[test]
fn a_stop_ends_a_fetch_from_a_server_that_says_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/x", silent.local_addr().unwrap());
    let (_repository, server) = served(Behaviour::Serve);
    let mut daemon = Daemon::new();
    assign(&mut daemon, at(&url, None), Some(&server.authority()));
    let (_connection, _) = silent.accept().unwrap();
    daemon.stop(1000);
    assert_eq!(daemon.exit_code(), 0);
}
