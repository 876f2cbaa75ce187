//! What a person does with a cluster: submits Runs, and waits for what becomes of them.

use std::fs;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use runtimed_api::ids::RunName;
use runtimed_api::run::Run;
use runtimed_api::session::{SecretValue, Submission};
use runtimed_client::controller::LogQuery;

use super::{Cluster, namespace, phase};

impl Cluster {
    /// The person's token, which also opens the metrics.
    ///
    /// # Panics
    /// Its file is gone.
    #[must_use]
    pub fn token(&self) -> String {
        fs::read_to_string(&self.token_file).expect("a token")
    }

    /// Submits a Run with secrets.
    ///
    /// # Panics
    /// It is not taken.
    pub async fn submit(&self, run: Run, secrets: &[(&str, &str)]) -> RunName {
        let value = |text: &str| SecretValue::new(text.as_bytes().to_vec());
        let secrets =
            secrets.iter().map(|(name, text)| (name.parse().expect("a name"), value(text))).collect();
        let submission = Submission { run, secrets };
        let taken = self.client.submit(&namespace(), &submission).await.expect("the Run is taken");
        taken.metadata.name.expect("a stored Run has a name")
    }

    /// Waits for the end of a Run.
    ///
    /// # Panics
    /// It does not come within a minute.
    pub async fn end(&self, name: &RunName) -> Run {
        self.until(name, |run| phase(run).is_terminal()).await
    }

    /// Waits until a Run is as wanted.
    ///
    /// # Panics
    /// It does not come to that within a minute.
    pub async fn until(&self, name: &RunName, wanted: impl Fn(&Run) -> bool) -> Run {
        let watch = async {
            let mut events = self.client.events(&namespace(), name).await.expect("events");
            let mut last = None;
            while let Some(run) = events.next().await {
                let run = run.expect("an event");
                if wanted(&run) {
                    return run;
                }
                last = Some(run);
            }
            panic!("the events of {name} ended at {last:?}");
        };
        match tokio::time::timeout(Duration::from_secs(60), watch).await {
            Ok(run) => run,
            Err(_) => panic!("{name} waits too long: {:?}", self.client.get(&namespace(), name).await),
        }
    }

    /// Waits until the command of a Run has printed something.
    ///
    /// # Panics
    /// It prints nothing.
    pub async fn until_printed(&self, name: &RunName) {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut events = self.client.logs(&namespace(), name, &query).await.expect("a log");
        let first = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        first.expect("in time").expect("before its end").expect("an event");
    }

    /// Submits a Run and waits for its end.
    pub async fn run(&self, run: Run) -> Run {
        let name = self.submit(run, &[]).await;
        self.end(&name).await
    }

    /// The log of a Run that is over, both streams as they came.
    ///
    /// # Panics
    /// It cannot be read.
    pub async fn log(&self, name: &RunName) -> String {
        let events = self.client.logs(&namespace(), name, &LogQuery::default()).await.expect("a log");
        let events: Vec<_> = events.try_collect().await.expect("events");
        let bytes: Vec<u8> = events.iter().flat_map(runtimed_api::log::LogEvent::bytes).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
