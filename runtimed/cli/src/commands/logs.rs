//! `runtimectl logs`.

use runtimed_client::controller::LogQuery;
use tokio::sync::watch;

use super::Session;
use crate::args;
use crate::attach::{Attached, Sink, follow_log};
use crate::failure::Failure;

pub(super) async fn logs(session: &Session, words: args::Logs) -> Result<(), Failure> {
    let Session { controller, namespace } = session;
    let run = controller.get(namespace, &words.run).await?;
    let attached = Attached::to(controller, namespace, &run)?;
    let args::Logs { follow, attempt, offset, stream, tail, since, timestamps, .. } = words;
    let newest =
        run.status.as_ref().and_then(|status| status.attempts.last()).map(|attempt| attempt.number.0);
    let query = LogQuery { follow, attempt: attempt.or(newest), offset, stream, tail, since, timestamps };
    if !follow {
        // Before the first attempt there is no log, and that is no failure.
        if query.attempt.is_none() {
            return Ok(());
        }
        return attached.show(&query, Sink::Both, || (), || true).await;
    }
    let (told, runs) = watch::channel(run);
    follow_log(&attached, &told, runs, query).await
}
