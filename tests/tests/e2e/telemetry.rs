//! What an operator sees of a Run in the servers' own logs, and a submitter in a trace.

use std::collections::BTreeSet;

use runtimed_api::session::Submission;
use runtimed_api::trace::TraceContext;
use runtimed_tests::cluster::{Cluster, Options, namespace};
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
