//! Many at once.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use runtimed_api::exit;
use runtimed_tests::cluster::{Cluster, Options, phase};
use runtimed_tests::runs::shell;

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_run_two_hundred_at_once_and_nothing_is_left() {
    let cluster = Arc::new(Cluster::start(Options { daemons: 2, slots: 8, ..Options::default() }).await);
    let runs = stream::iter(0..200_u32).map(|index| {
        let cluster = Arc::clone(&cluster);
        async move {
            let code = index % 5;
            let line = format!(
                "echo {index} > $HOME/x; cat $HOME/x; echo n={index} >> $RUNTIMED_OUTPUTS; exit {code}"
            );
            let run = cluster.run(shell(&format!("many-{index}"), &line, "")).await;
            let status = run.status.as_ref().expect("a status");
            assert_eq!(exit::of(status).map(u32::from), Some(code), "{status:?}");
            let log = cluster.log(&format!("many-{index}").parse().expect("a name")).await;
            assert_eq!(log, format!("{index}\n"));
            let daemon = status.attempts[0].daemon.clone();
            (phase(&run), daemon)
        }
    });
    let ends: Vec<_> = runs.buffer_unordered(200).collect().await;
    assert_eq!(ends.len(), 200);
    let daemons: std::collections::BTreeSet<_> = ends.iter().map(|(_, daemon)| daemon.as_str()).collect();
    assert_eq!(daemons.len(), 2, "both daemons had work");
    let mut cluster = Arc::into_inner(cluster).expect("the last one");
    assert!(cluster.drain().is_empty());
}
