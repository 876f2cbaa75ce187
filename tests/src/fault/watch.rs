//! A person who watches a Run from its submission to its end, however often the connection breaks.

use std::time::Duration;

use futures_util::StreamExt as _;
use runtimed_api::ids::RunName;
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;
use runtimed_api::session::{SecretValue, Submission};
use runtimed_client::controller::Controller;

use super::plan::PlannedRun;
use crate::cluster::namespace;
use crate::runs::shell;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(15);

/// What a person saw of a Run.
#[derive(Debug)]
pub struct Watched {
    /// How it was when it was taken.
    pub taken: Run,
    /// How it was when it was first seen to be over.
    pub over: Run,
    /// A cancel was answered while it was not over.
    pub cancelled: bool,
}

/// Submits a Run, cancels it if that is planned, and watches it to its end. Whatever is not answered is asked again.
pub async fn live(client: Controller, run: PlannedRun, script: String) -> Result<Watched, String> {
    let secrets = run.secret.then(|| {
        let value = SecretValue::new(run.secret_value().into_bytes());
        ("llm".parse().expect("a name"), value)
    });
    let submission =
        Submission { run: shell(&run.name, &script, &run.spec()), secrets: secrets.into_iter().collect() };
    let taken = loop {
        match client.submit(&namespace(), &submission).await {
            Ok(taken) => break taken,
            Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(format!("{} was not taken: {error}", run.name)),
        }
    };
    let name: RunName = run.name.parse().expect("a name");
    let cancel = async {
        match run.cancel {
            Some(after) => {
                tokio::time::sleep(after).await;
                cancel(&client, &name).await
            }
            None => Ok(false),
        }
    };
    let (cancelled, over) = tokio::join!(cancel, end(&client, &name));
    Ok(Watched { taken, over: over?, cancelled: cancelled? })
}

/// Cancels a Run. Whether it may have been what ended it.
async fn cancel(client: &Controller, name: &RunName) -> Result<bool, String> {
    loop {
        match client.cancel(&namespace(), name).await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(format!("{name} was not cancelled: {error}")),
        }
    }
}

/// The first terminal state that is shown.
async fn end(client: &Controller, name: &RunName) -> Result<Run, String> {
    let mut last = Phase::Pending;
    loop {
        match client.events(&namespace(), name).await {
            Ok(mut events) => {
                while let Some(Ok(run)) = events.next().await {
                    let phase = run.status.as_ref().ok_or("a Run without a status")?.phase;
                    if phase.is_terminal() {
                        return Ok(run);
                    }
                    last = phase;
                }
            }
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(format!("{name} was {last} and cannot be watched: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
