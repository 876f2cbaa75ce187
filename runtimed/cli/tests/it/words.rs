//! Words that need no server.

use std::fs;

use crate::process::run;

#[test]
fn exit_codes_of_bad_input() {
    for (arguments, code, said) in [
        (&["frobnicate"][..], 120, "unrecognized subcommand"),
        (&["get", "a"], 120, "no controller is named"),
        (&["--server", "http://h.example", "get", "a"], 120, "use https"),
        (&["--server", "h.example", "get", "a"], 120, "is not a server's address"),
        (&["--server", "http://127.0.0.1:1", "get", "a"], 125, "Connection refused"),
        (
            &["--server", "http://127.0.0.1:1", "--token-file", "/nowhere", "get", "a"],
            120,
            "/nowhere cannot be read",
        ),
        (
            &["--server", "http://127.0.0.1:1", "run", "--runtime", "bash"],
            120,
            "neither a file nor a command",
        ),
        (&["--server", "http://127.0.0.1:1", "local", "--", "true"], 120, "brings its own controller"),
        (&["validate", "-f", "/nowhere.yaml"], 120, "No such file or directory"),
        (&["--help"], 0, ""),
        (&["--version"], 0, ""),
    ] {
        let output = run(arguments);
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:?}");
        assert!(output.err.contains(said), "{arguments:?}: {output:?}");
        assert!(!output.err.contains("panicked"), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_file_is_judged_without_a_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("run.yaml");
    let good = "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {name: a}\nspec: {runtime: bash, command: [ls]}\n";
    let validate = |text: &str| {
        fs::write(&file, text).expect("written");
        run(&["validate", "-f", file.to_str().expect("UTF-8")])
    };
    assert_eq!(validate(good).code, Some(0));
    let said = validate(&good.replace("name: a", "nmae: a"));
    assert!(said.code == Some(120) && said.err.contains("did you mean `name`?"), "{said:?}");
    let said = validate(&good.replace("[ls]", "[ls], artifacts: {paths: [../x]}, env: {RUNTIMED_X: y}"));
    assert!(
        said.code == Some(121) && said.err.contains("spec.path") && said.err.contains("spec.env"),
        "{said:?}"
    );
}

#[test]
fn a_program_reads_the_version() {
    let said = run(&["version", "--json"]);
    let version: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(
        version["build"].as_str().is_some_and(|build| build.starts_with(env!("CARGO_PKG_VERSION"))),
        "{said:?}"
    );
}

#[test]
fn completions_are_for_the_shell_that_asks() {
    for shell in ["bash", "zsh", "fish"] {
        let said = run(&["completion", shell]);
        assert!(said.code == Some(0) && said.out.contains("prior-patch"), "{shell}: {said:?}");
    }
}
