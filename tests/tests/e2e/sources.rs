//! Where a workspace's content comes from, as far as it takes more than a worker: who judges what, and what is told.

use std::fs;

use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, phase, result};
use runtimed_tests::runs::shell;

/// A key in the form that ssh-keygen writes; it opens nothing.
const KEY: &str =
    "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAAnotakeybutlongenough\n-----END OPENSSH PRIVATE KEY-----\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_another_kind_or_host_is_refused_at_once() {
    let secrets = tempfile::tempdir().expect("a directory");
    for (name, text) in
        [("username", "me"), ("password", "the password"), ("key", KEY), ("known_hosts", "h AAAA")]
    {
        fs::write(secrets.path().join(name), text).expect("written");
    }
    let dir = secrets.path().display();
    let runtime_toml = format!(
        "[secrets.web]\nsource = \"dir:{dir}\"\nkind = \"git-https\"\nhosts = [\"git.example\"]\nnamespaces = [\"*\"]\n\
         [secrets.key]\nsource = \"dir:{dir}\"\nkind = \"git-ssh\"\nhosts = [\"git.example\"]\nnamespaces = [\"*\"]\n"
    );
    let mut cluster = Cluster::start(Options { runtime_toml, ..Options::default() }).await;
    for (name, source) in [
        ("kind", "git: { url: \"ssh://git@git.example/r\", credential: web }"),
        ("other-kind", "git: { url: \"https://git.example/r\", credential: key }"),
        ("host", "git: { url: \"https://other.example/r\", credential: web }"),
        ("archive", "archive: { url: \"https://other.example/a.tar\", credential: web }"),
    ] {
        let run = cluster.run(shell(name, "true", &format!("source: {{ {source} }}"))).await;
        assert_eq!(phase(&run), Phase::Refused, "{name}: {:?}", run.status);
        assert_eq!(result(&run).refusals[0].rule, Rule::SOURCE_CREDENTIAL, "{name}");
    }
    assert!(cluster.drain().is_empty());
}

/// A key for ssh to 127.0.0.1 as a mounted Secret, and the configuration that names it `key`.
fn mounted_key() -> (tempfile::TempDir, String) {
    let secrets = tempfile::tempdir().expect("a directory");
    fs::write(secrets.path().join("ssh-privatekey"), KEY).expect("written");
    fs::write(secrets.path().join("known_hosts"), "[127.0.0.1]:1 ssh-ed25519 AAAA").expect("written");
    if rustix::process::geteuid().is_root() {
        // The daemon lives under another uid then, and must be able to read them, as it is with a mounted Secret.
        std::os::unix::fs::chown(secrets.path(), Some(65532), None).expect("owned");
    }
    let runtime_toml = format!(
        "[secrets.key]\nsource = \"dir:{}\"\nkind = \"git-ssh\"\nhosts = [\"127.0.0.1\"]\nnamespaces = [\"*\"]\n",
        secrets.path().display()
    );
    (secrets, runtime_toml)
}

const OVER_SSH: &str = "source: { git: { url: \"ssh://git@127.0.0.1:1/r\", credential: key } }";

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_source_is_a_fault_and_no_key_stays() {
    let (_secrets, runtime_toml) = mounted_key();
    let mut cluster = Cluster::start(Options { runtime_toml, ..Options::default() }).await;
    let run = cluster.run(shell("ssh", "true", OVER_SSH)).await;
    assert_eq!(phase(&run), Phase::Fault, "{:?}", run.status);
    let fault = result(&run).fault.clone().expect("a fault");
    assert_eq!(fault.code, Code::SourceUnreachable, "{fault:?}");
    // Started as root the daemon becomes a uid without an entry in /etc/passwd, under which ssh does not run.
    if rustix::process::geteuid().is_root() {
        assert!(fault.message.contains("/etc/passwd") && fault.hint.is_some(), "{fault:?}");
    }
    assert!(cluster.files_with(b"notakeybutlongenough").is_empty());
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_asks_for_the_proxy_where_it_is_told_to() {
    // A proxy that cannot be used, so that whoever asks for it says so before ssh starts.
    let daemon_env = vec![("HTTPS_PROXY", "http://somebody:secret@proxy.example:3128")];
    for ssh in [true, false] {
        let (_secrets, key) = mounted_key();
        let runtime_toml = format!("[proxy]\nssh = {ssh}\n{key}");
        let options = Options { runtime_toml, daemon_env: daemon_env.clone(), ..Options::default() };
        let mut cluster = Cluster::start(options).await;
        let run = cluster.run(shell("ssh", "true", OVER_SSH)).await;
        let text = format!("{:?}", run.status);
        assert_ne!(phase(&run), Phase::Succeeded, "{text}");
        assert_eq!(text.contains("HTTPS_PROXY is not"), ssh, "{text}");
        assert!(!text.contains("somebody"), "{text}");
        assert!(cluster.drain().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_a_source_within_their_namespace() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "mkdir $RUNTIMED_ARTIFACTS_DIR/sub; echo one > $RUNTIMED_ARTIFACTS_DIR/a; echo one > $RUNTIMED_ARTIFACTS_DIR/sub/b; \
                head -c 300000 /dev/zero > $RUNTIMED_ARTIFACTS_DIR/sub/zeros";
    assert_eq!(phase(&cluster.run(shell("build", line, "")).await), Phase::Succeeded);
    let source = "source: { artifacts: { run: build } }";
    let run = cluster.run(shell("use", "cat a sub/b; wc -c < sub/zeros; echo two > a", source)).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(cluster.log(&"use".parse().expect("a name")).await, "one\none\n300000\n");
    assert_eq!(result(&run).patch.as_ref().expect("a patch").files, 1);
    for (name, other) in [("nobody", "nobody"), ("nothing", "use")] {
        let source = format!("source: {{ artifacts: {{ run: {other} }} }}");
        let run = cluster.run(shell(name, "true", &source)).await;
        assert_eq!(phase(&run), Phase::Refused, "{name}: {:?}", run.status);
        assert_eq!(result(&run).refusals[0].rule, Rule::SOURCE_ARTIFACTS, "{name}");
    }
    assert!(cluster.drain().is_empty());
}
