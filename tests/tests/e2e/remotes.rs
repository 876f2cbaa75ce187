//! Sources from real servers, through a whole daemon: git over https behind a private authority, and git over ssh; both
//! through a proxy as well.

#[path = "../../../worker/tests/worker/git.rs"]
#[expect(clippy::unwrap_used, reason = "it is the worker's tests' own")]
mod git;
#[path = "../../../worker/tests/worker/server.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "it is the worker's tests' own, and they use the rest of it"
)]
mod server;
#[path = "../../../worker/tests/worker/sshd.rs"]
#[expect(clippy::unwrap_used, reason = "it is the worker's tests' own")]
mod sshd;
#[path = "../../../worker/tests/worker/tinyproxy.rs"]
#[expect(clippy::unwrap_used, reason = "it is the worker's tests' own")]
mod tinyproxy;

use std::fs;
use std::os::unix::fs::chown;

use runtimed_api::problem::Code;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, UNPRIVILEGED, phase, result};
use runtimed_tests::runs::shell;
use tempfile::TempDir;

use self::git::Repository;
use self::server::{Behaviour, Server};
use self::sshd::Sshd;
use self::tinyproxy::Tinyproxy;

/// A user of every distribution: ssh does not run under a uid that has no entry in passwd.
const WITH_ENTRY: u32 = 1;
/// `me:the password` in base64.
const LOGIN: &str = "Basic bWU6dGhlIHBhc3N3b3Jk";
/// The most bytes of an answer that holds an empty pack.
const NOTHING: usize = 400;

/// Files that the daemon may read, as it may those of a mounted Secret.
fn given(uid: u32, files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("written");
    }
    if rustix::process::geteuid().is_root() {
        chown(directory.path(), Some(uid), None).expect("owned");
    }
    directory
}

fn secret(name: &str, kind: &str, files: &TempDir) -> String {
    let source = files.path().display();
    format!(
        "[secrets.{name}]\nsource = \"dir:{source}\"\nkind = \"{kind}\"\nhosts = [\"127.0.0.1\"]\nnamespaces = [\"*\"]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_https_brought_for_a_login_through_a_proxy_does_not_come_twice() {
    let repository = Repository::new();
    let bare = repository.bare();
    let server = Server::new(bare.parent().expect("it has one"), Behaviour::Login(LOGIN.to_owned()));
    let proxy = Tinyproxy::new(server.port);
    let authority = fs::read_to_string(server.authority()).expect("the authority");
    let authorities = given(UNPRIVILEGED, &[("ca.pem", &authority)]);
    let login = given(UNPRIVILEGED, &[("username", "me"), ("password", "the password")]);
    let wrong = given(UNPRIVILEGED, &[("username", "me"), ("password", "another password")]);
    let runtime_toml = format!(
        "[tls]\nca_file = \"{}/ca.pem\"\n[proxy]\nurl = \"{}\"\n{}{}",
        authorities.path().display(),
        proxy.url(),
        secret("login", "git-https", &login),
        secret("wrong", "git-https", &wrong)
    );
    let mut cluster = Cluster::start(Options { runtime_toml, ..Options::default() }).await;
    let source = |credential: &str| {
        format!("source: {{ git: {{ url: \"{}\", credential: {credential} }} }}", server.url("bare.git"))
    };
    let line = "cat readme; sub/run; git status --porcelain; cat .git/config; echo changed > readme";
    for name in ["cold", "warm"] {
        let run = cluster.run(shell(name, line, &source("login"))).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
        let commit = result(&run).commit.as_ref().expect("a commit");
        assert_eq!(commit.as_str(), repository.id("main"));
        let log = cluster.log(&name.parse().expect("a name")).await;
        assert!(log.starts_with("second\nran\n[core]") && log.contains(&server.url("bare.git")), "{log}");
        assert!(!log.contains("password") && !log.contains("bWU6"), "{log}");
        assert_eq!(result(&run).patch.as_ref().expect("a patch").files, 1);
        assert!(cluster.files_with(b"the password").is_empty());
    }
    let packs = server.packs.lock().expect("not poisoned").clone();
    assert!(matches!(packs.as_slice(), [cold, warm] if *cold > NOTHING && *warm <= NOTHING), "{packs:?}");
    // What is there already is not for a login that the server does not let in.
    let run = cluster.run(shell("wrong", "true", &source("wrong"))).await;
    assert_eq!(phase(&run), Phase::Fault, "{:?}", run.status);
    assert_eq!(result(&run).fault.as_ref().expect("a fault").code, Code::SourceCredential);
    let asked = format!("CONNECT 127.0.0.1:{} ", server.port);
    assert!(proxy.said().contains(&asked), "{}", proxy.said());
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_leads_to_its_server_and_through_a_proxy_where_it_is_told_to() {
    let repository = Repository::new();
    let bare = repository.bare();
    let sshd = Sshd::new("AcceptEnv GIT_PROTOCOL");
    let (key, known_hosts) = (sshd.file("key"), sshd.known_hosts());
    let secret_line = key.lines().nth(1).expect("a key has lines").to_owned();
    let keys = given(WITH_ENTRY, &[("ssh-privatekey", &key), ("known_hosts", &known_hosts)]);
    let source = format!("source: {{ git: {{ url: \"{}\", credential: key }} }}", sshd.url(&bare));
    for through in [false, true] {
        let proxy = Tinyproxy::new(sshd.port);
        let key = secret("key", "git-ssh", &keys);
        let runtime_toml = format!("[proxy]\nurl = \"{}\"\nssh = {through}\n{key}", proxy.url());
        let options = Options { runtime_toml, daemon_uid: Some(WITH_ENTRY), ..Options::default() };
        let mut cluster = Cluster::start(options).await;
        let run = cluster.run(shell("ssh", "cat readme; sub/run; git status --porcelain", &source)).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
        assert_eq!(cluster.log(&"ssh".parse().expect("a name")).await, "second\nran\n");
        let asked = format!("CONNECT 127.0.0.1:{} ", sshd.port);
        assert_eq!(proxy.said().contains(&asked), through, "{}", proxy.said());
        assert!(cluster.files_with(secret_line.as_bytes()).is_empty());
        assert!(cluster.drain().is_empty());
    }
}
