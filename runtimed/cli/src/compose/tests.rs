use std::fs;

use super::*;
use crate::context::default_namespace;

const FILE: &str = "apiVersion: runtimed.dev/v1alpha1
kind: Run
metadata: {name: a}
spec:
  runtime: bash
  source: {git: {url: 'https://h.example/r', ref: main, depth: 3}}
  command: [make]
  secrets: [{name: llm, env: API_KEY}]
  priorPatches: [{run: plan}]
";

fn composed(compose: &Compose) -> Result<Composed, Failure> {
    Composed::of(compose, &default_namespace().expect("a name"), None)
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn flags_are_laid_over_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("run.yaml");
    fs::write(&file, FILE).expect("written");
    let secret = dir.path().join("key");
    fs::write(&secret, "hunter22hunter22\n").expect("written");
    let compose = Compose {
        file: Some(file),
        name: Some("b".parse().expect("a name")),
        git: Some("https://h.example/other".to_owned()),
        command: words("make test"),
        secret: ["llm", "npm"].map(|name| (name.parse().expect("a name"), secret.clone())).into(),
        prior_patch: vec!["plan-2".to_owned(), secret.display().to_string()],
        ..Compose::default()
    };
    let Composed { submission, patches, sourceless, .. } = composed(&compose).expect("a Run");
    let spec = &submission.run.spec;
    assert_eq!(submission.run.metadata.name.as_ref().map(RunName::as_str), Some("b"));
    assert_eq!(spec.command, ["make", "test"]);
    let git = spec.source.as_ref().and_then(|source| source.git.as_ref()).expect("a source");
    assert_eq!(
        (git.url.as_str(), git.reference.as_deref(), git.depth),
        ("https://h.example/other", Some("main"), Some(3))
    );
    // The file's own delivery of a secret stays; one that only the command line names is delivered as a file.
    let delivered: Vec<_> =
        spec.secrets.iter().map(|use_| (use_.name.as_str(), use_.env.as_deref())).collect();
    assert_eq!(delivered, [("llm", Some("API_KEY")), ("npm", None)]);
    assert_eq!(submission.secrets.len(), 2);
    assert_eq!(patches, [Prior::Run("plan-2".parse().expect("a name")), Prior::File(secret)]);
    assert!(!sourceless);
    assert!(!format!("{submission:?}").contains("hunter"));
}

#[test]
fn a_command_alone_is_a_run_with_a_generated_name() {
    let runtime: RuntimeName = "local".parse().expect("a name");
    let compose = Compose { command: words("true"), ..Compose::default() };
    let made = Composed::of(&compose, &default_namespace().expect("a name"), Some(runtime)).expect("a Run");
    assert_eq!(made.submission.run.metadata.generate_name.as_deref(), Some("run-"));
    assert!(made.sourceless);
    let failure = composed(&compose).expect_err("no Runtime");
    assert_eq!(failure.exit(), 120);
    assert!(failure.lines()[1].1.contains("--runtime"), "{failure:?}");
}

#[test]
fn what_contradicts_or_breaks_a_rule_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, empty) = (dir.path().join("run.yaml"), dir.path().join("empty"));
    fs::write(&file, FILE.replace("{name: a}", "{name: a, namespace: team-a}")).expect("written");
    fs::write(&empty, "\n").expect("written");
    let runtime = Some("bash".parse().expect("a name"));
    let run = Compose { runtime, command: words("true"), ..Compose::default() };
    let llm: SecretName = "llm".parse().expect("a name");
    for (compose, exit, said) in [
        (Compose { file: Some(file), ..Compose::default() }, 120, "namespace team-a"),
        (Compose::default(), 120, "neither a file nor a command"),
        (Compose { secret: vec![(llm.clone(), empty)], ..run.clone() }, 120, "is empty"),
        (Compose { secret: vec![(llm, dir.path().join("none"))], ..run.clone() }, 120, "No such file"),
        (
            Compose { prior_patch: vec!["./no.patch".to_owned()], ..run.clone() },
            120,
            "neither a file nor the name",
        ),
        (Compose { command: vec!["a\0b".to_owned()], ..run }, 121, "spec.command"),
    ] {
        let failure = composed(&compose).expect_err(said);
        assert_eq!(failure.exit(), exit, "{said}");
        assert!(failure.lines()[0].1.contains(said), "{said}: {failure:?}");
    }
}
