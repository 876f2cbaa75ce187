//! Staged secrets, from their source to their scrub.

use std::fs;
use std::os::unix::fs::symlink;

use runtimed_api::digest::Digest;
use runtimed_api::problem::Code;
use runtimed_api::rule::Rule;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use runtimed_tests::runs::shell;
use tempfile::TempDir;

/// A source as a kubelet mounts it: a chain of symlinks.
fn source(text: &str) -> (TempDir, Options) {
    let dir = tempfile::tempdir().expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).expect("set");
    fs::create_dir(dir.path().join("..2026_01")).expect("made");
    fs::write(dir.path().join("..2026_01/token"), text).expect("written");
    symlink("..2026_01", dir.path().join("..data")).expect("linked");
    symlink("..data/token", dir.path().join("token")).expect("linked");
    let secret = |name: &str| {
        let path = dir.path().join("token");
        format!("[secrets.{name}]\nsource = \"file:{}\"\nnamespaces = [\"default\"]\n", path.display())
    };
    let others = "[secrets.other]\nsource = \"file:/nowhere/at/all\"\nnamespaces = [\"team-b\"]\n";
    let runtime_toml = secret("transaction") + &secret("context-subject") + others;
    (dir, Options { runtime_toml, ..Options::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn both_token_names_point_to_one_file_which_is_masked_and_then_gone() {
    let (_source, options) = source("a-transaction-token\n");
    let mut cluster = Cluster::start(options).await;
    let line = "test $RUNTIMED_TRANSACTION_TOKEN_FILE = $RUNTIMED_CONTEXT_TOKEN_SUBJECT_TOKEN_FILE || exit 4; stat -c %a $RUNTIMED_TRANSACTION_TOKEN_FILE; cat $RUNTIMED_TRANSACTION_TOKEN_FILE; echo; wc -c < $RUNTIMED_TRANSACTION_TOKEN_FILE; cp $RUNTIMED_TRANSACTION_TOKEN_FILE $RUNTIMED_ARTIFACTS_DIR/copy; echo leak=$(cat $RUNTIMED_TRANSACTION_TOKEN_FILE) >> $RUNTIMED_OUTPUTS; chmod 000 $(dirname $RUNTIMED_TRANSACTION_TOKEN_FILE)";
    let run =
        cluster.run(shell("both", line, "secrets: [{ name: transaction }, { name: context-subject }]")).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let log = cluster.log(&"both".parse().expect("a name")).await;
    assert_eq!(log, "600\n***transaction***\n19\n");
    let result = result(&run);
    assert_eq!(result.outputs["leak"], "***transaction***");
    let scrub = result.scrub.clone().expect("a scrub");
    assert!(scrub.verified && scrub.staged == 1, "{scrub:?}");
    assert!(
        result.artifacts.as_ref().is_some_and(|artifacts| artifacts.count == 1),
        "{:?}",
        result.artifacts
    );
    let status = serde_json::to_string(&run).expect("JSON");
    assert!(!status.contains("a-transaction-token"), "{status}");
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_ends_the_run_before_anything_starts() {
    for (text, word) in [("", "empty"), ("\n", "empty"), ("          ", "blank"), ("short", "shorter")] {
        let (_source, options) = source(text);
        let mut cluster = Cluster::start(options).await;
        let run = cluster.run(shell("bad", "echo started", "secrets: [{ name: transaction }]")).await;
        assert_eq!(phase(&run), Phase::Fault, "{text:?}");
        let fault = result(&run).fault.clone().expect("a fault");
        assert_eq!(fault.code, Code::SecretInvalid);
        assert!(fault.message.contains("secret transaction") && fault.message.contains(word), "{fault}");
        assert!(!result(&run).steps.iter().any(|time| time.step.as_str() == "run"));
        assert!(cluster.drain().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_another_namespace_or_of_nobody_is_refused() {
    let (_source, options) = source("a-transaction-token\n");
    let cluster = Cluster::start(options).await;
    for (name, rule) in [("other", Rule::SECRET_NAMESPACE), ("nobody", Rule::SECRET_UNKNOWN)] {
        let run = cluster.run(shell(name, "true", &format!("secrets: [{{ name: {name} }}]"))).await;
        assert_eq!(phase(&run), Phase::Refused);
        assert_eq!(result(&run).refusals[0].rule, rule);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_secret_reaches_the_command_and_nothing_else() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "printf %s \"$API_KEY\" | md5sum | cut -c1-6; cat $RUNTIMED_SECRET_LLM_FILE";
    let run = shell("own", line, "secrets: [{ name: llm, env: API_KEY }]");
    let name = cluster.submit(run, &[("llm", "a-submitted-value")]).await;
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(cluster.log(&name).await, "5032d4\n***llm***");
    let deliveries = &result(&run).env_deliveries;
    assert_eq!(deliveries.values().collect::<Vec<_>>(), ["API_KEY"]);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_holds_a_secret_is_withheld() {
    let mut cluster = Cluster::start(Options::default()).await;
    for (name, line) in [
        ("text", "cat $RUNTIMED_SECRET_LLM_FILE > in-the-tree"),
        ("binary", "printf 'x\\0%s' $(cat $RUNTIMED_SECRET_LLM_FILE) > in-the-tree"),
        (
            "later",
            "{ head -c 300000 /dev/zero; cat $RUNTIMED_SECRET_LLM_FILE; head -c 300000 /dev/zero; } > in-the-tree",
        ),
        (
            "gone",
            "echo hello > greeting; mkdir d; printf '\\0%s' $(cat $RUNTIMED_SECRET_LLM_FILE) > d/in-the-tree",
        ),
        ("name", "touch $(cat $RUNTIMED_SECRET_LLM_FILE)"),
        ("link", "ln -s $(cat $RUNTIMED_SECRET_LLM_FILE) in-the-tree"),
        // Both break what they write into lines, and a patch has a mark before each.
        ("base64", "base64 $RUNTIMED_SECRET_LLM_FILE > in-the-tree"),
        ("hex", "od -An -tx1 -v $RUNTIMED_SECRET_LLM_FILE | tr -d ' ' > in-the-tree"),
    ] {
        let run = shell(name, line, "secrets: [{ name: llm }]");
        let long = "a-submitted-value-of-more-than-one-line-".repeat(3);
        let value = if ["base64", "hex"].contains(&name) { &long } else { "a-submitted-value" };
        let name = cluster.submit(run, &[("llm", value)]).await;
        let run = cluster.end(&name).await;
        let patch = result(&run).patch.clone().expect("a patch");
        assert_eq!(patch.digest, None, "{name}");
        assert_eq!(patch.withheld.map(|refusal| refusal.rule), Some(Rule::PATCH_CONTAINS_SECRET));
    }
    // One that holds none is kept, binary files and all, and is nothing but the patch.
    let line = "head -c 300000 /dev/urandom > binary; printf 'a\\0b' > $(printf 'caf\\351'); test -s $RUNTIMED_SECRET_LLM_FILE";
    let run = shell("clean", line, "secrets: [{ name: llm }]");
    let name = cluster.submit(run, &[("llm", "a-submitted-value")]).await;
    let patch = result(&cluster.end(&name).await).patch.clone().expect("a patch");
    assert_eq!((patch.files, &patch.withheld), (2, &None));
    let bytes = cluster.client.patch(&namespace(), &name).await.expect("kept").bytes().await.expect("bytes");
    assert_eq!((bytes.len() as u64, Some(Digest::of(&bytes))), (patch.size, patch.digest));
    assert!(cluster.drain().is_empty());
    assert_eq!(cluster.files_with(b"a-submitted-value"), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_name_or_a_key_goes_nowhere() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "T=$(cat $RUNTIMED_SECRET_LLM_FILE); echo x > $RUNTIMED_ARTIFACTS_DIR/$T; ln -s x $RUNTIMED_ARTIFACTS_DIR/l-$T; echo $T=1 > $RUNTIMED_OUTPUTS; mkdir d; echo $T > d/$T";
    let run = shell("named", line, "secrets: [{ name: llm }]\nartifacts: { paths: [\"d/**\"] }");
    let name = cluster.submit(run, &[("llm", "a-submitted-value")]).await;
    let run = cluster.end(&name).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert!(result(&run).outputs.is_empty());
    let artifacts = result(&run).artifacts.clone().expect("a list");
    assert_eq!((artifacts.count, artifacts.skipped), (0, 3));
    let shown = serde_json::to_string(&run).expect("JSON");
    assert!(!shown.contains("a-submitted-value"), "{shown}");
    assert!(cluster.drain().is_empty());
    assert_eq!(cluster.files_with(b"a-submitted-value"), Vec::<std::path::PathBuf>::new());
}
