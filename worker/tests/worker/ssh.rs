//! git over ssh, against a real sshd.

use std::os::fd::AsFd;
use std::path::Path;

use runtimed_api::link::{Assign, Credential, CredentialKind, Down, ExitStatus, Source, layout};
use runtimed_api::problem::Problem;
use runtimed_api::run::source::GitSource;

use crate::git::Repository;
use crate::harness::{Daemon, files_with, sealed};
use crate::source::at;
use crate::sshd::Sshd;
use crate::tinyproxy::Tinyproxy;

/// Lets the second version of git's protocol be asked for.
const SECOND: &str = "AcceptEnv GIT_PROTOCOL";

/// A worker that has been given a key, host keys and the host they are for.
fn with_login(key: &str, known_hosts: &str, host: &str) -> Daemon {
    let mut daemon = Daemon::new();
    let about = Credential { kind: CredentialKind::GitSsh, hosts: vec![host.to_owned()] };
    let bytes = serde_json::to_vec(&serde_json::json!({ "key": key, "known_hosts": known_hosts })).unwrap();
    daemon.send_with(&Down::Credential(about), &[sealed(&bytes).as_fd()]);
    daemon
}

fn fetch(sshd: &Sshd, source: GitSource) -> Daemon {
    let mut daemon = with_login(&sshd.file("key"), &sshd.known_hosts(), "127.0.0.1");
    daemon.assign(Source::Git(source));
    daemon
}

fn fault(mut daemon: Daemon, url: &str) -> Problem {
    daemon.assign(Source::Git(at(url, None)));
    let problem = daemon.fault().problem;
    assert_eq!(daemon.exit_code(), 0);
    assert!(daemon.trees.files().is_empty());
    assert!(!Path::new(&daemon.trees.wire.tmp).join(layout::KEYS).exists());
    problem
}

#[test]
fn head_branches_tags_and_commits_are_found_by_both_versions_of_the_protocol() {
    let repository = Repository::new();
    let bare = repository.bare();
    let first = repository.id("side");
    // An ordinary sshd lets no variable through, and git then speaks its first version.
    for lines in [SECOND, ""] {
        let sshd = Sshd::new(lines);
        for (reference, depth, commit, history) in [
            (None, None, "main", "1"),
            (Some("main"), Some(0), "main", "2"),
            (Some("side"), None, "side", "1"),
            (Some("v1"), Some(1), "side", "1"),
            (Some(first.as_str()), None, "side", "1"),
        ] {
            let source = GitSource { depth, ..at(&sshd.url(&bare), reference) };
            let mut daemon = fetch(&sshd, source);
            let baseline = daemon.baseline();
            assert_eq!(baseline.commit.unwrap().as_str(), repository.id(commit), "{lines}: {reference:?}");
            let workspace = daemon.trees.workspace();
            assert_eq!(
                crate::git::git(&workspace, &["rev-list", "--count", "HEAD"]),
                history,
                "{reference:?}"
            );
            assert_eq!(crate::git::git(&workspace, &["status", "--porcelain"]), "");
            let (exited, stdout, _, _) = daemon.complete(&["./sub/run"]);
            assert_eq!((exited.status, stdout.as_str()), (ExitStatus::Code(0), "ran\n"));
        }
    }
}

#[test]
fn the_key_is_gone_before_the_command_starts() {
    let repository = Repository::new();
    let sshd = Sshd::new(SECOND);
    let mut daemon = fetch(&sshd, at(&sshd.url(&repository.bare()), None));
    daemon.baseline();
    let key = sshd.file("key");
    let secret = key.lines().nth(1).unwrap();
    for tree in [&daemon.trees.wire.tmp, &daemon.trees.wire.home, &daemon.trees.wire.workspace] {
        assert!(!Path::new(tree).join(layout::KEYS).exists());
        assert!(files_with(Path::new(tree), secret.as_bytes()).is_empty());
    }
    let config = std::fs::read_to_string(daemon.trees.workspace().join(".git/config")).unwrap();
    assert!(config.contains(&sshd.url(&repository.bare())), "{config}");
}

#[test]
fn a_host_key_that_is_not_known_is_not_accepted() {
    let repository = Repository::new();
    let bare = repository.bare();
    let sshd = Sshd::new(SECOND);
    let words = |name: &str| sshd.file(name).split(' ').nth(1).unwrap().to_owned();
    let other = sshd.known_hosts().replace(&words("host_key.pub"), &words("other_key.pub"));
    for known_hosts in ["", "elsewhere ssh-ed25519 AAAA\n", &other] {
        let problem = fault(with_login(&sshd.file("key"), known_hosts, "127.0.0.1"), &sshd.url(&bare));
        assert_eq!((problem.code.to_string().as_str(), problem.retryable), ("source-credential", false));
        assert!(problem.message.contains("known_hosts"), "{problem:?}");
    }
}

#[test]
fn a_key_that_is_not_let_in_or_is_none_is_told() {
    let repository = Repository::new();
    let bare = repository.bare();
    let sshd = Sshd::new(SECOND);
    for (key, why) in [
        (sshd.file("other_key"), "does not accept the credential's key"),
        ("nonsense".to_owned(), "cannot read the credential's key"),
    ] {
        let problem = fault(with_login(&key, &sshd.known_hosts(), "127.0.0.1"), &sshd.url(&bare));
        assert_eq!(problem.code.to_string(), "source-credential");
        assert!(problem.message.contains(why), "{problem:?}");
        assert!(!format!("{problem:?}").contains(key.lines().nth(1).unwrap_or("nonsense")), "{problem:?}");
    }
}

#[test]
fn a_credential_is_for_its_hosts_and_its_kind_of_url() {
    let repository = Repository::new();
    let bare = repository.bare();
    let sshd = Sshd::new(SECOND);
    let elsewhere = with_login(&sshd.file("key"), &sshd.known_hosts(), "git.example");
    assert!(fault(elsewhere, &sshd.url(&bare)).message.contains("may not be shown"), "host-bound");
    let problem = fault(Daemon::new(), &sshd.url(&bare));
    assert!(problem.message.contains("ssh needs a credential"), "{problem:?}");
    let mut daemon = Daemon::new();
    let about = Credential { kind: CredentialKind::GitHttps, hosts: vec!["127.0.0.1".to_owned()] };
    let bytes = sealed(br#"{"username":"me","password":"the password"}"#);
    daemon.send_with(&Down::Credential(about), &[bytes.as_fd()]);
    assert!(fault(daemon, &sshd.url(&bare)).message.contains("kind git-ssh"), "kind-bound");
}

#[test]
fn what_is_not_there_is_refused_or_told() {
    let repository = Repository::new();
    let bare = repository.bare();
    let absent = "1234567890123456789012345678901234567890";
    for lines in [SECOND, ""] {
        let sshd = Sshd::new(lines);
        for reference in ["nothing", absent] {
            let mut daemon = fetch(&sshd, at(&sshd.url(&bare), Some(reference)));
            assert_eq!(daemon.refused(), ["source.ref-not-found"], "{lines}: {reference}");
        }
        let login = with_login(&sshd.file("key"), &sshd.known_hosts(), "127.0.0.1");
        let problem = fault(login, &sshd.url(Path::new("/nowhere.git")));
        assert_eq!(problem.code.to_string(), "source-failed");
        assert!(problem.message.contains("/nowhere.git"), "the server's own words: {problem:?}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sshd = Sshd::new(SECOND);
    let login = with_login(&sshd.file("key"), &sshd.known_hosts(), "127.0.0.1");
    let problem = fault(login, &format!("ssh://git@127.0.0.1:{closed}/a.git"));
    assert_eq!((problem.code.to_string().as_str(), problem.retryable), ("source-unreachable", true));
}

fn through(proxy: &Tinyproxy, sshd: &Sshd, bare: &Path) -> Daemon {
    let mut daemon = with_login(&sshd.file("key"), &sshd.known_hosts(), "127.0.0.1");
    let source = Source::Git(at(&sshd.url(bare), None));
    let assign = Assign { proxy: Some(proxy.url()), ..daemon.assignment(source) };
    daemon.send(&Down::Assign(Box::new(assign)));
    daemon
}

#[test]
fn a_proxy_leads_to_the_server_and_its_refusal_is_told() {
    let repository = Repository::new();
    let bare = repository.bare();
    let sshd = Sshd::new(SECOND);
    let proxy = Tinyproxy::new(sshd.port);
    let mut daemon = through(&proxy, &sshd, &bare);
    assert_eq!(daemon.baseline().commit.unwrap().as_str(), repository.id("main"));
    let asked = format!("CONNECT 127.0.0.1:{} ", sshd.port);
    assert!(proxy.said().contains(&asked), "{}", proxy.said());
    assert!(!Path::new(&daemon.trees.wire.tmp).join(layout::KEYS).exists());
    // A proxy that leads to https alone, as many do.
    let problem = through(&Tinyproxy::new(443), &sshd, &bare).fault().problem;
    assert_eq!((problem.code.to_string().as_str(), problem.retryable), ("source-unreachable", true));
    assert!(problem.message.contains("the proxy cannot be used: it answers"), "{problem:?}");
}

#[test]
fn a_stop_ends_a_fetch_from_a_server_that_says_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sshd = Sshd::new(SECOND);
    let mut daemon = with_login(&sshd.file("key"), &sshd.known_hosts(), "127.0.0.1");
    daemon.assign(Source::Git(at(&format!("ssh://git@{}/x", silent.local_addr().unwrap()), None)));
    let (_connection, _) = silent.accept().unwrap();
    daemon.stop(1000);
    assert_eq!(daemon.exit_code(), 0);
    assert!(!Path::new(&daemon.trees.wire.tmp).join(layout::KEYS).exists());
}
