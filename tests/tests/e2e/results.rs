//! What a Run leaves behind on purpose: outputs, artifacts, its patch.

use std::fs;
use std::path::Path;

use runtimed_api::rule::Rule;
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase, result};
use runtimed_tests::process::command;
use runtimed_tests::runs::{read, shell};

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_kept_or_refused_with_the_reason() {
    let mut cluster = Cluster::start(Options::default()).await;
    let good =
        r#"echo a=1 >> $RUNTIMED_OUTPUTS; printf 'b<<EOF\nx\ny\nEOF\na=2\n' >> $RUNTIMED_OUTPUTS; exit 3"#;
    let run = cluster.run(shell("good", good, "")).await;
    assert_eq!(phase(&run), Phase::Failed);
    let outputs = &result(&run).outputs;
    assert_eq!((outputs["a"].as_str(), outputs["b"].as_str()), ("2", "x\ny"));
    for (name, line, reason) in [
        ("many", "for i in $(seq 65); do echo k$i=v; done > $RUNTIMED_OUTPUTS", "more than 64 keys"),
        ("key", "printf '%0129d=v\\n' 0 > $RUNTIMED_OUTPUTS", "the key of line 1"),
        ("value", "printf 'k=%08193d\\n' 0 > $RUNTIMED_OUTPUTS", "longer than 8 KiB"),
        ("bytes", "printf 'k=\\377\\n' > $RUNTIMED_OUTPUTS", "not UTF-8"),
        ("all", "head -c 70000 /dev/zero | tr '\\0' '\\n' > $RUNTIMED_OUTPUTS", "65536"),
        ("link", "ln -s /etc/passwd $RUNTIMED_OUTPUTS", "symbolic link"),
    ] {
        let run = cluster.run(shell(name, line, "")).await;
        assert_eq!(phase(&run), Phase::Succeeded, "{name}");
        assert!(result(&run).outputs.is_empty(), "{name}");
        let warnings = result(&run).warnings.join("\n");
        assert!(warnings.contains(reason), "{name}: {warnings}");
    }
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_kept_of_failed_runs_too_and_nothing_is_followed() {
    let mut cluster = Cluster::start(Options::default()).await;
    let line = "mkdir -p dist/x; echo app > dist/x/app; echo hello > $RUNTIMED_ARTIFACTS_DIR/greeting; ln -s /etc/passwd $RUNTIMED_ARTIFACTS_DIR/link; mkfifo $RUNTIMED_ARTIFACTS_DIR/fifo; exit 1";
    let run = cluster.run(shell("made", line, "artifacts: { paths: [\"dist/**\"] }")).await;
    assert_eq!(phase(&run), Phase::Failed);
    let name = "made".parse().expect("a name");
    let manifest = cluster.client.manifest(&namespace(), &name).await.expect("a manifest");
    let kept: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(kept, ["dist/x/app", "greeting"]);
    let skipped: Vec<_> = manifest.skipped.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(skipped, ["fifo", "link"]);
    let download = cluster.client.artifact(&namespace(), &name, "greeting").await.expect("an artifact");
    assert_eq!(&download.bytes().await.expect("its bytes")[..], b"hello\n");
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_and_artifacts_of_every_attempt_and_every_end_are_kept() {
    let mut cluster = Cluster::start(Options { slots: 3, ..Options::default() }).await;
    let make = "echo n=$RUNTIMED_ATTEMPT > $RUNTIMED_OUTPUTS; echo $RUNTIMED_ATTEMPT > $RUNTIMED_ARTIFACTS_DIR/n; echo made";
    let line = |rest: &str| format!("{make}; {rest}");
    let retry = "retry: { maxAttempts: 2, backoff: 10ms, on: [Failed] }";
    let again = cluster.submit(shell("again", &line("test $RUNTIMED_ATTEMPT = 2"), retry), &[]).await;
    let timeout = "limits: { timeout: 1s, grace: 100ms }";
    let timed = cluster.submit(shell("timed", &line("sleep 35.1"), timeout), &[]).await;
    let cancelled = cluster.submit(shell("cancelled", &line("sleep 35.1"), ""), &[]).await;
    cluster.until_printed(&cancelled).await;
    cluster.client.cancel(&namespace(), &cancelled).await.expect("cancelled");
    for (name, ended, attempts) in
        [(again, Phase::Succeeded, 2), (timed, Phase::TimedOut, 1), (cancelled, Phase::Cancelled, 1)]
    {
        let run = cluster.end(&name).await;
        assert_eq!(phase(&run), ended, "{name}");
        let tried = run.status.expect("a status").attempts;
        assert_eq!(tried.len(), attempts, "{name}");
        for attempt in &tried {
            let number = attempt.number.to_string();
            let outputs = &attempt.result.as_ref().expect("a result").outputs;
            assert_eq!(outputs.get("n"), Some(&number), "{name}");
            let path = format!("/v1/namespaces/default/runs/{name}/artifacts/n?attempt={number}");
            let answer = cluster.ask_controller(&path);
            assert!(answer.ends_with(&format!("\r\n\r\n{number}\n")), "{name}: {answer}");
        }
    }
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_run_starts_from_a_patched_tree_and_its_patch_applies_on_top() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    let prior = repository.patch_of("greeting", "hello\n", "hello, world\n");
    let digest = cluster.client.put_patch(&namespace(), prior.clone().into()).await.expect("uploaded");
    let line = "cat greeting; echo again >> greeting; git status --porcelain";
    let run = cluster
        .run(repository.run("patched", line, &format!("priorPatches: [{{ digest: \"{digest}\" }}]")))
        .await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    let name = "patched".parse().expect("a name");
    assert_eq!(cluster.log(&name).await, "hello, world\n M greeting\n");
    let patch = result(&run).patch.clone().expect("a patch");
    assert_eq!((patch.files, patch.insertions, patch.deletions), (1, 1, 0));
    assert_eq!(Some(&patch.base), result(&run).baseline.as_ref());
    let bytes =
        cluster.client.patch(&namespace(), &name).await.expect("it is kept").bytes().await.expect("bytes");
    // git itself agrees, on the tree that the prior patch made.
    fs::write(repository.path().join("prior.patch"), &prior).expect("written");
    fs::write(repository.path().join("captured.patch"), &bytes).expect("written");
    repository.git(&["update-index", "--refresh"]);
    repository.git(&["apply", "--index", "prior.patch"]);
    repository.git(&["apply", "--index", "captured.patch"]);
    assert_eq!(repository.git(&["write-tree"]).trim(), patch.result.as_str());
    // A later Run can start from what this one changed.
    let later =
        "priorPatches: [{ digest: \"DIGEST\" }, { run: patched }]".replace("DIGEST", &digest.to_string());
    let run = cluster.run(repository.run("later", "cat greeting", &later)).await;
    assert_eq!(phase(&run), Phase::Succeeded, "{:?}", run.status);
    assert_eq!(cluster.log(&"later".parse().expect("a name")).await, "hello, world\nagain\n");
    assert!(result(&run).patch.is_none(), "nothing was changed");
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_does_not_apply_is_refused_with_its_rule() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    for (name, patch, rule) in [
        ("context", repository.patch_of("greeting", "goodbye\n", "hello\n"), Rule::PATCH_DOES_NOT_APPLY),
        ("hooks", repository.patch_of(".git/hooks/pre-commit", "", "echo\n"), Rule::PATCH_PATH_DOT_GIT),
        ("dots", repository.patch_of("../outside", "", "x\n"), Rule::PATCH_TRAVERSAL),
        ("ci", repository.patch_of(".github/workflows/x.yml", "", "x\n"), Rule::PATCH_PROTECTED_PATH),
        ("garbage", "this is no patch\n".to_owned(), Rule::PATCH_MALFORMED),
    ] {
        let digest = cluster.client.put_patch(&namespace(), patch.into()).await.expect("uploaded");
        let run = repository.run(name, "true", &format!("priorPatches: [{{ digest: \"{digest}\" }}]"));
        let run = cluster.run(run).await;
        assert_eq!(phase(&run), Phase::Refused, "{name}: {:?}", run.status);
        assert_eq!(result(&run).refusals[0].rule, rule, "{name}: {:?}", result(&run).refusals);
    }
    let unknown = "priorPatches: [{ run: nobody }]";
    let run = cluster.run(repository.run("unknown", "true", unknown)).await;
    assert_eq!(phase(&run), Phase::Refused);
    assert!(cluster.drain().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ref_or_a_place_that_is_not_there_is_refused() {
    let mut cluster = Cluster::start(Options::default()).await;
    let repository = Repository::new(&cluster);
    let commit = "0123456789012345678901234567890123456789";
    for (name, reference, sub_path, rule) in [
        ("ref", "nowhere", None, Rule::SOURCE_REF_NOT_FOUND),
        ("commit", commit, None, Rule::SOURCE_REF_NOT_FOUND),
        ("option", "--upload-pack=x", None, Rule::SOURCE_REF),
        ("sub", "main", Some("nowhere"), Rule::SOURCE_SUB_PATH),
    ] {
        let mut run = repository.run(name, "true", "");
        let git = run.spec.source.as_mut().and_then(|source| source.git.as_mut()).expect("a git source");
        git.reference = Some(reference.to_owned());
        git.sub_path = sub_path.map(str::to_owned);
        let submission =
            runtimed_api::session::Submission { run, secrets: std::collections::BTreeMap::new() };
        match cluster.client.submit(&namespace(), &submission).await {
            Ok(_) => {
                let run = cluster.end(&name.parse().expect("a name")).await;
                assert_eq!(phase(&run), Phase::Refused, "{name}: {:?}", run.status);
                assert_eq!(result(&run).refusals[0].rule, rule, "{name}");
            }
            // The controller judges what it can see before anything is stored.
            Err(error) => assert!(error.to_string().contains(rule.as_str()), "{name}: {error}"),
        }
    }
    assert!(cluster.drain().is_empty());
}

/// A small repository that the daemons can read.
pub(crate) struct Repository {
    path: std::path::PathBuf,
}

impl Repository {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let path = cluster.roots(0).join("repository");
        fs::create_dir(&path).expect("made");
        let repository = Self { path };
        repository.git(&["init", "-q", "-b", "main"]);
        fs::write(repository.path().join("greeting"), "hello\n").expect("written");
        repository.commit("first");
        repository
    }

    /// Commits all that lies there.
    pub(crate) fn commit(&self, message: &str) {
        self.git(&["add", "."]);
        self.git(&["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", message]);
        // git insists that a repository belongs to whoever reads it.
        if rustix::process::geteuid().is_root() {
            let uid = runtimed_tests::cluster::UNPRIVILEGED.to_string();
            let owner = format!("{uid}:{uid}");
            let status = command("chown").args(["-R", &owner]).arg(self.path()).status().expect("chown");
            assert!(status.success());
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let mut git = command("git");
        git.args(["-c", "safe.directory=*"]).arg("-C").arg(&self.path).args(arguments);
        let output = git.output().expect("git runs");
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A patch that changes one file so, as git writes it; a new file where `before` is empty.
    pub(crate) fn patch_of(&self, file: &str, before: &str, after: &str) -> String {
        let lines =
            |text: &str, mark: char| text.lines().map(|line| format!("{mark}{line}\n")).collect::<String>();
        let (old, new) = (lines(before, '-'), lines(after, '+'));
        let (removed, added) = (before.lines().count(), after.lines().count());
        if before.is_empty() {
            format!(
                "diff --git a/{file} b/{file}\nnew file mode 100644\n--- /dev/null\n+++ b/{file}\n@@ -0,0 +1,{added} @@\n{new}"
            )
        } else {
            format!(
                "diff --git a/{file} b/{file}\n--- a/{file}\n+++ b/{file}\n@@ -1,{removed} +1,{added} @@\n{old}{new}"
            )
        }
    }

    pub(crate) fn run(&self, name: &str, line: &str, extra: &str) -> Run {
        let line = serde_json::to_string(line).expect("a string");
        read(&format!(
            "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {{ name: {name} }}\nspec:\n  runtime: test\n  source: {{ git: {{ url: \"{}\", ref: main }} }}\n  command: [sh, -c, {line}]\n  {extra}\n",
            self.path.display()
        ))
    }
}
