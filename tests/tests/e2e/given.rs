//! What a Run is given beside its workspace, and what of another namespace it is not given.

use std::collections::BTreeMap;
use std::fs;

use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::rule::Rule;
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_api::session::Submission;
use runtimed_client::controller::LogQuery;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs::shell;

const BUILD: &str = "mkdir $RUNTIMED_ARTIFACTS_DIR/sub; printf '#!/bin/sh\\necho ran\\n' > $RUNTIMED_ARTIFACTS_DIR/sub/tool; \
                     chmod +x $RUNTIMED_ARTIFACTS_DIR/sub/tool; echo one > $RUNTIMED_ARTIFACTS_DIR/a; echo one > $RUNTIMED_ARTIFACTS_DIR/b";

#[tokio::test(flavor = "multi_thread")]
async fn inputs_can_be_read_and_executed_and_not_changed() {
    for tier in ["Base", "Namespaces"] {
        let runtime_toml = format!("[sandbox]\ntier = \"{tier}\"\n");
        let mut cluster = Cluster::start(Options { runtime_toml, ..Options::default() }).await;
        assert_eq!(phase(&cluster.run(shell("build", BUILD, "")).await), Phase::Succeeded);
        let line = "cd $RUNTIMED_INPUTS_DIR/build || exit 9; find . -type f | sort; sub/tool; cat a b; \
                    (echo two > a) 2> /dev/null || echo kept; (echo > new) 2> /dev/null || echo closed; \
                    rm -f a 2> /dev/null || echo there; ls $RUNTIMED_WORKSPACE";
        let run = cluster.run(shell("use", line, "inputs: [{ run: build }]")).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{tier}: {:?}", run.status);
        assert_eq!(
            cluster.log(&"use".parse().expect("a name")).await,
            "./a\n./b\n./sub/tool\nran\none\none\nkept\nclosed\nthere\n",
            "{tier}"
        );
        assert!(result(&run).patch.is_none(), "inputs are no part of the workspace");
        // As a source they keep what made them executable.
        let source = "source: { artifacts: { run: build } }";
        let run = cluster.run(shell("from", "sub/tool; cp sub/tool $RUNTIMED_ARTIFACTS_DIR", source)).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{tier}: {:?}", run.status);
        let name = "from".parse().expect("a name");
        assert_eq!(cluster.log(&name).await, "ran\n");
        let manifest = cluster.client.manifest(&namespace(), &name).await.expect("a manifest");
        assert!(manifest.files[0].executable, "{manifest:?}");
        for (name, other) in [("nobody", "nobody"), ("nothing", "use")] {
            let run = cluster.run(shell(name, "true", &format!("inputs: [{{ run: {other} }}]"))).await;
            assert_eq!(phase(&run), Phase::Refused, "{name}: {:?}", run.status);
            assert_eq!(result(&run).refusals[0].rule, Rule::SOURCE_ARTIFACTS, "{name}");
        }
        let twice = shell("twice", "true", "inputs: [{ run: build }, { run: build }]");
        let submission = Submission { run: twice, secrets: BTreeMap::new() };
        let error = cluster.client.submit(&namespace(), &submission).await.expect_err("refused");
        assert!(error.to_string().contains("input.twice"), "{error}");
        assert!(cluster.drain().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_namespace_made_is_not_to_be_had() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = format!("{BUILD}; echo changed > file");
    let made = cluster.run(shell("build", &line, "")).await;
    let patch = result(&made).patch.as_ref().and_then(|patch| patch.digest).expect("a patch");
    let uploaded = cluster.client.put_patch(&namespace(), "no patch".into()).await.expect("uploaded");
    let archive = cluster.client.put_source(&namespace(), "no archive".into()).await.expect("uploaded");
    let other: Namespace = "other".parse().expect("a namespace");
    for (name, extra, rule) in [
        ("source", "source: { artifacts: { run: build } }".to_owned(), Rule::SOURCE_ARTIFACTS),
        ("input", "inputs: [{ run: build }]".to_owned(), Rule::SOURCE_ARTIFACTS),
        ("patch", "priorPatches: [{ run: build }]".to_owned(), Rule::PATCH_UNKNOWN),
        ("captured", format!("priorPatches: [{{ digest: \"{patch}\" }}]"), Rule::PATCH_UNKNOWN),
        ("uploaded", format!("priorPatches: [{{ digest: \"{uploaded}\" }}]"), Rule::PATCH_UNKNOWN),
        ("archive", format!("source: {{ archive: {{ digest: \"{archive}\" }} }}"), Rule::SOURCE_UNKNOWN),
    ] {
        let submission = Submission { run: shell(name, "true", &extra), secrets: BTreeMap::new() };
        match cluster.client.submit(&other, &submission).await {
            Ok(_) => {
                let run = end(&cluster, &other, &name.parse().expect("a name")).await;
                assert_eq!(phase(&run), Phase::Refused, "{name}: {:?}", run.status);
                let status = run.status.as_ref().expect("a status");
                let rules = status.refusals.iter().chain(
                    status
                        .attempts
                        .iter()
                        .filter_map(|attempt| attempt.result.as_ref())
                        .flat_map(|it| &it.refusals),
                );
                assert!(rules.map(|refusal| refusal.rule).any(|it| it == rule), "{name}: {status:?}");
            }
            // What the controller sees at once is not even stored.
            Err(error) => assert!(error.to_string().contains(rule.as_str()), "{name}: {error}"),
        }
    }
    assert!(cluster.drain().is_empty());
}

async fn end(cluster: &Cluster, namespace: &Namespace, name: &RunName) -> Run {
    let query = LogQuery { follow: true, ..LogQuery::default() };
    // A followed log ends with its Run; one that never ran has none.
    if let Ok(events) = cluster.client.logs(namespace, name, &query).await {
        futures_util::StreamExt::count(events).await;
    }
    runtimed_tests::wait::eventually("the Run to end", async || {
        let run = cluster.client.get(namespace, name).await.expect("a Run");
        phase(&run).is_terminal()
    })
    .await;
    cluster.client.get(namespace, name).await.expect("a Run")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_uploaded_and_read_where_it_can_do_no_harm() {
    let mut cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().expect("a directory");
    fs::create_dir(home.path().join("in")).expect("made");
    fs::write(home.path().join("in/file"), "text\n").expect("written");
    let tar = |arguments: &[&str]| {
        let status = command("tar").current_dir(home.path()).args(arguments).status();
        assert!(status.expect("tar runs").success());
    };
    tar(&["-czf", "good.tgz", "in"]);
    tar(&["-cf", "bad.tar", "--transform", "s,in/file,../file,", "-P", "in/file"]);
    let ctl = |arguments: &[&str]| crate::patches::ctl(&cluster, home.path(), arguments);
    let words = ["run", "--runtime", "test", "--archive"];
    let (code, out, err) = ctl(&[
        &words[..],
        &["good.tgz", "--name", "good", "--", "sh", "-c", "cat in/file; echo more >> in/file"],
    ]
    .concat());
    assert_eq!((code, out.as_str()), (Some(0), "text\n"), "{err}");
    let run = cluster.client.get(&namespace(), &"good".parse().expect("a name")).await.expect("a Run");
    assert_eq!(result(&run).patch.as_ref().expect("a patch").files, 1);
    let (code, _, err) = ctl(&["rerun", "good", "--on-top", "--name", "again", "--", "cat", "in/file"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = ctl(&[&words[..], &["bad.tar", "--name", "bad", "--", "true"]].concat());
    assert!(code == Some(121) && err.contains("archive.traversal"), "{err}");
    assert!(!home.path().parent().expect("a parent").join("file").exists());
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_a_network_is_told_of_authorities_and_proxy() {
    let place = tempfile::tempdir().expect("a directory");
    let bundle = place.path().join("ca.pem");
    let authority = rcgen::generate_simple_self_signed(["corp.example".to_owned()]).expect("a certificate");
    let authority = authority.cert.pem();
    fs::write(&bundle, &authority).expect("written");
    fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let runtime_toml = "[proxy]\nurl = \"http://proxy.example:3128\"\nno_proxy = [\"git.corp\"]\n".to_owned();
    let text: &'static str = Box::leak(bundle.display().to_string().into_boxed_str());
    let daemon_env = vec![("RUNTIMED_TLS_CA_FILE", text)];
    let mut cluster = Cluster::start(Options { runtime_toml, daemon_env, ..Options::default() }).await;
    let line = "cat $SSL_CERT_FILE; test $SSL_CERT_FILE = $NODE_EXTRA_CA_CERTS || exit 1; echo ${https_proxy-none} ${NO_PROXY-none}";
    for (name, network, told) in [
        ("full", "network: { mode: Full }", "http://proxy.example:3128 git.corp,localhost,127.0.0.1,::1"),
        ("ports", "network: { mode: Ports, ports: [443] }", "none none"),
    ] {
        let run = cluster.run(shell(name, line, network)).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{name}: {:?}", run.status);
        let log = cluster.log(&name.parse().expect("a name")).await;
        assert_eq!(log, format!("{authority}{told}\n"), "{name}");
    }
    let closed = "env | grep -ci -e proxy -e SSL_CERT -e INPUTS; true";
    cluster.run(shell("none", closed, "")).await;
    assert_eq!(cluster.log(&"none".parse().expect("a name")).await, "0\n");
    fs::remove_file(&bundle).expect("removed");
    let run = cluster.run(shell("gone", "true", "network: { mode: Full }")).await;
    assert_eq!(phase(&run), Phase::Fault);
    assert!(result(&run).fault.as_ref().expect("a fault").message.contains("ca.pem"));
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_over_its_cap_costs_neither_log_nor_artifacts_nor_outputs() {
    let runtime_toml = "[patches]\nmaxFiles = 2\n".to_owned();
    let mut cluster = Cluster::start(Options { runtime_toml, ..Options::default() }).await;
    let line =
        "echo said; touch a b c; echo kept > $RUNTIMED_ARTIFACTS_DIR/kept; echo k=v > $RUNTIMED_OUTPUTS";
    let run = cluster.run(shell("many", line, "")).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let told = result(&run);
    assert!(told.patch.is_none());
    assert!(told.warnings.iter().any(|it| it.contains("there is no patch")), "{:?}", told.warnings);
    assert_eq!(told.outputs["k"], "v");
    let name: RunName = "many".parse().expect("a name");
    assert_eq!(cluster.log(&name).await, "said\n");
    let kept = cluster.client.artifact(&namespace(), &name, "kept").await.expect("an artifact");
    assert_eq!(&kept.bytes().await.expect("its bytes")[..], b"kept\n");
    assert!(cluster.client.patch(&namespace(), &name).await.is_err());
    assert!(cluster.drain().is_empty());
}
