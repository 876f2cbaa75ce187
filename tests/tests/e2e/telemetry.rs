//! What an operator sees: metrics, the servers' own logs, traces, and the cluster's log stack.

use std::collections::BTreeSet;

use runtimed_api::run::status::Phase;
use runtimed_api::session::Submission;
use runtimed_api::trace::TraceContext;
use runtimed_tests::cluster::{Cluster, Options, namespace, phase};
use runtimed_tests::process::command;
use runtimed_tests::runs::shell;
use serde_json::Value;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Lines of JSON, each of which is one.
fn lines(text: &str) -> Vec<Value> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(read).collect()
}

/// From the submitter's request through the controller and the lease to the command's environment, and in what both servers
/// write down on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_submitter_to_the_command() {
    let mut cluster = Cluster::start(Options::default()).await;
    let trace = TraceContext::read(PARENT, Some("congo=t61rcWkgMzE")).expect("a context");
    let submission = Submission {
        run: shell("traced", "echo $TRACEPARENT $TRACESTATE", ""),
        secrets: std::collections::BTreeMap::new(),
    };
    let client = cluster.client.with_trace(trace.clone());
    client.submit(&namespace(), &submission).await.expect("taken");
    let name = "traced".parse().expect("a name");
    let run = cluster.end(&name).await;
    assert_eq!(run.status.as_ref().and_then(|status| status.trace.as_ref()), Some(&trace));
    assert_eq!(cluster.log(&name).await, format!("{PARENT} congo=t61rcWkgMzE\n"));

    // `runtimectl` sends its own environment's, and a Run's own variable goes before it.
    for (name, own, shown) in [("by-ctl", "", PARENT), ("its-own", "env: { TRACEPARENT: mine }", "mine")] {
        let file = cluster.controller_dir().with_file_name(format!("{name}.json"));
        let run = shell(name, "echo $TRACEPARENT", own);
        std::fs::write(&file, serde_json::to_vec(&run).expect("JSON")).expect("written");
        let mut ctl = command(runtimed_tests::binaries::path("runtimectl"));
        ctl.args(["--server", &cluster.url, "--token-file"]).arg(&cluster.token_file);
        ctl.args(["run", "-f"]).arg(&file).env("TRACEPARENT", PARENT);
        let output = tokio::task::spawn_blocking(move || ctl.output()).await.expect("waits").expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{shown}\n"), "{said}");
    }
    let untraced = cluster.run(shell("untraced", "echo -$TRACEPARENT-", "")).await;
    assert_eq!(untraced.status.as_ref().and_then(|status| status.trace.clone()), None);
    assert_eq!(cluster.log(&"untraced".parse().expect("a name")).await, "--\n");

    assert!(cluster.drain().is_empty());
    let said = lines(&cluster.daemon(0).said());
    let of_runs: Vec<&Value> =
        said.iter().map(|line| &line["span"]).filter(|span| span["name"] == "attempt").collect();
    let named: BTreeSet<_> = of_runs.iter().filter_map(|span| span["run"].as_str()).collect();
    assert_eq!(named, ["by-ctl", "its-own", "traced", "untraced"].into());
    for span in of_runs {
        assert_eq!((&span["namespace"], &span["attempt"]), (&"default".into(), &1.into()), "{span}");
        let traced = span["run"] != "untraced";
        assert_eq!(span["trace"].as_str(), traced.then_some(TRACE), "{span}");
    }
    lines(&cluster.controller().expect("it runs").said());
}

/// Each line of every log once more on the daemon's standard output, masked, and whole Runs' numbers at `/metrics`.
#[tokio::test(flavor = "multi_thread")]
async fn logs_on_standard_output_and_numbers_of_a_whole_run() {
    let toml = "[logs]\nstdout = \"json\"".to_owned();
    let mut cluster = Cluster::start(Options { slots: 1, runtime_toml: toml, ..Options::default() }).await;
    let line = "echo one; echo two >&2; cat $RUNTIMED_SECRET_LLM_FILE; echo; printf 'no\\377end'; echo a > $RUNTIMED_ARTIFACTS_DIR/a";
    let run = shell("told", line, "secrets: [{ name: llm }]");
    let name = cluster.submit(run, &[("llm", "hunter22hunter22\n")]).await;
    assert_eq!(phase(&cluster.end(&name).await), Phase::Succeeded);
    let waits = cluster.submit(shell("busy", "echo up; sleep 60", ""), &[]).await;
    cluster.until_printed(&waits).await;
    cluster.submit(shell("waits", "true", ""), &[]).await;

    let token = cluster.token();
    let daemon = cluster.get(0, "/metrics", &token);
    let steps = "accept allocate launch stage run capture scrub upload report release";
    for step in steps.split(' ') {
        let count = format!("runtimed_step_seconds_count{{step=\"{step}\"}} 1");
        assert!(daemon.contains(&count), "{count} in {daemon}");
    }
    for shown in [
        "runtimed_attempts_total{end=\"Completed\"} 1",
        "runtimed_ready 1",
        "runtimed_slots 1",
        "runtimed_free_slots 0",
        "runtimed_redactions_total 1",
        "runtimed_scrubs_total{medium=\"",
        "runtimed_leases_total 2",
    ] {
        assert!(daemon.contains(shown), "{shown} in {daemon}");
    }
    let controller = cluster.ask_controller("/metrics");
    for shown in [
        "runtimed_controller_runs{runtime=\"test\",phase=\"Pending\"} 1",
        "runtimed_controller_runs{runtime=\"test\",phase=\"Running\"} 1",
        "runtimed_controller_oldest_pending_seconds{runtime=\"test\"} ",
        "runtimed_controller_daemons{runtime=\"test\"} 1",
        "runtimed_controller_slots{runtime=\"test\"} 1",
        "runtimed_controller_free_slots{runtime=\"test\"} 0",
        "runtimed_controller_runs_finished_total{phase=\"Succeeded\"} 1",
        "runtimed_controller_attempts_total{end=\"Completed\"} 1",
        "runtimed_controller_queue_seconds_count 2",
        "runtimed_controller_submit_seconds_count 3",
    ] {
        assert!(controller.contains(shown), "{shown} in {controller}");
    }
    for name in ["waits", "busy"] {
        let name = name.parse().expect("a name");
        cluster.client.cancel(&namespace(), &name).await.expect("cancelled");
        cluster.end(&name).await;
    }
    assert!(cluster.drain().is_empty());
    let told: Vec<_> = lines(&cluster.daemon(0).printed());
    let of_run: Vec<_> = told.iter().filter(|line| line["run"] == "told").collect();
    let of = |stream: &str| -> Vec<_> {
        let of_stream = of_run.iter().filter(|line| line["stream"] == stream);
        of_stream.map(|line| line["message"].as_str().expect("text")).collect()
    };
    assert_eq!(of("stdout"), ["one", "***llm***", "no\u{fffd}end"]);
    assert_eq!(of("stderr"), ["two"]);
    // What the controller says within a request is said of the Run that it is about.
    let said = lines(&cluster.controller().expect("it runs").said());
    for run in ["waits", "busy"] {
        let cancelled = said.iter().find(|line| line["message"] == "cancel" && line["span"]["run"] == run);
        let span = &cancelled.unwrap_or_else(|| panic!("{run} in {said:?}"))["span"];
        assert_eq!((&span["namespace"], &span["method"]), (&"default".into(), &"POST".into()), "{span}");
    }
    for line in of_run {
        assert_eq!((&line["namespace"], &line["attempt"]), (&"default".into(), &1.into()), "{line}");
        assert!(line["time"].as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()), "{line}");
    }
}
