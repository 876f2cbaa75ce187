use std::fs;
use std::time::Duration;

use runtimed_tests::process::Server;
use rustix::process::Signal;

use crate::place::{Place, SECRET, ended};

#[test]
fn the_commands_exit_code_and_streams_are_the_jobs() {
    let place = Place::new();
    let script = "echo out; echo err >&2; cat \"$RUNTIMED_TRANSACTION_TOKEN_FILE\"; exit 7";
    let (code, out, err) = ended(place.job().args(["--secret", "transaction", "--", "sh", "-c", script]));
    assert_eq!((code, out.as_str()), (7, "out\n***transaction***"), "{err}");
    assert!(err.starts_with("err\n"), "{err}");
    let summary = place.summary();
    assert_eq!(summary["exitCode"], 7);
    assert_eq!(summary["outcome"]["verdict"]["code"], 7);
    assert_eq!(summary["scrub"], true);
    assert_eq!(place.left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_run_from_a_file_keeps_its_results() {
    let place = Place::new();
    let patch = "diff --git a/new.txt b/new.txt\nnew file mode 100644\n--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+patched\n";
    fs::write(place.path("one.patch"), patch).expect("written");
    let run = "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: { name: from-file }\nspec:\n  runtime: test\n  source: { inline: { files: [ { path: a.txt, content: \"inline\\n\" } ] } }\n  command: [sh, -c, 'cat a.txt new.txt; echo more >> a.txt; echo kept > $RUNTIMED_ARTIFACTS_DIR/x; echo n=1 > $RUNTIMED_OUTPUTS']\n";
    fs::write(place.path("run.yaml"), run).expect("written");
    let results = place.path("results");
    fs::create_dir(&results).expect("made");
    fs::set_permissions(&results, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    let mut job = place.job();
    job.args(["--set", "patches.require=Digest", "--file"]).arg(place.path("run.yaml"));
    job.arg("--patch").arg(place.path("one.patch")).arg("--results").arg(&results);
    let (code, out, err) = ended(&mut job);
    assert_eq!((code, out.as_str()), (0, "inline\npatched\n"), "{err}");
    let result: serde_json::Value =
        serde_json::from_slice(&fs::read(results.join("result.json")).expect("a result")).expect("JSON");
    assert_eq!(result["outputs"]["n"], "1");
    let hex = |digest: &serde_json::Value| {
        digest.as_str().expect("a digest").trim_start_matches("sha256:").to_owned()
    };
    let kept = fs::read_to_string(results.join(hex(&result["patch"]["digest"]))).expect("the patch");
    assert!(kept.contains("+more"), "{kept}");
    assert!(results.join(hex(&result["artifacts"]["manifest"])).is_file());
}

#[test]
fn a_jobs_trace_reaches_its_command() {
    let place = Place::new();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (given, shown) in [(parent, parent), ("not a trace", "")] {
        let mut job = place.job();
        job.env("TRACEPARENT", given).env("TRACESTATE", "congo=t61rcWkgMzE");
        let (code, out, err) = ended(job.args(["--", "sh", "-c", "echo $TRACEPARENT"]));
        assert_eq!((code, out.trim_end()), (0, shown), "{err}");
    }
}

#[test]
fn a_signal_ends_the_run_and_nothing_staged_is_left() {
    let place = Place::new();
    let mut job = place.job();
    job.args(["--set", "drain.grace=0s", "--secret", "transaction", "--", "sh", "-c"]);
    job.arg("trap '' TERM; echo up; sleep 60 & sleep 60; sleep 60");
    let mut server = Server::start("the job", &mut job);
    assert_eq!(server.first_line().as_deref(), Ok("up\n"));
    server.signal(Signal::TERM);
    let status = server.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(122), "{}", server.said());
    assert_eq!(place.summary()["end"], "Drained");
    assert_eq!(place.summary()["scrub"], true);
    assert_eq!(place.left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_cannot_be_done_has_a_code_of_ours_and_a_summary() {
    let place = Place::new();
    let cases: [(&[&str], i32, &str); 7] = [
        (&[], 120, "no Run is given"),
        (&["--lease", "--", "true"], 120, "more than one way"),
        (&["--lease"], 120, "no controller is configured"),
        (&["--file", "/nowhere"], 120, "cannot be read"),
        (&["--network", "Full", "--", "true"], 121, "network"),
        (&["--secret", "unknown", "--", "true"], 121, "no such secret"),
        (&["--", "no-such-program"], 125, "in no directory of PATH"),
    ];
    for (words, expected, why) in cases {
        let (code, _, err) = ended(place.job().args(words));
        let summary = place.summary();
        assert_eq!(code, expected, "{words:?}: {err}");
        assert_eq!(summary["exitCode"], expected, "{summary}");
        assert!(summary["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{summary}");
        assert!(err.contains(why), "a person who reads the log is told as well: {err}");
        assert!(!summary.to_string().contains(SECRET));
    }
    let (code, _, _) = ended(place.job().args(["--timeout", "200ms", "--", "sleep", "60"]));
    assert_eq!((code, place.summary()["end"].clone()), (124, "TimedOut".into()));
}
