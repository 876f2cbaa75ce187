//! `GET …/events`: the Run each time it changes, the first time as it is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use runtimed_api::run::Run;
use runtimed_api::tokens::Role;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::answer::Answer;

/// Between two signs of life on a stream that has nothing to tell.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Events = Sse<axum::response::sse::KeepAliveStream<BoxStream<'static, Result<Event, Infallible>>>>;

pub(super) async fn events(
    State(app): Shared,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Events> {
    let asked = app.asked(&headers, path, Role::Observer)?;
    let events = match app.engine.watch(asked.key.clone()).await? {
        Some(states) => follow(states, app.stopping.clone()),
        // Over, and so nothing will change any more.
        None => {
            let run = app.run(&asked.key).await?;
            stream::iter([event(&run), end()]).boxed()
        }
    };
    Ok(Sse::new(events.map(Ok).boxed()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Every state that is seen; of several that follow each other closely, the last.
fn follow(states: watch::Receiver<Arc<Run>>, stopping: CancellationToken) -> BoxStream<'static, Event> {
    enum At {
        First,
        Later,
        Last,
        Over,
    }
    stream::unfold((states, stopping, At::First), |(mut states, stopping, at)| async move {
        match at {
            At::First => {}
            At::Later => tokio::select! {
                changed = states.changed() => changed.ok()?,
                // Without an `end`: whoever follows asks the next controller.
                () = stopping.cancelled() => return None,
            },
            At::Last => return Some((end(), (states, stopping, At::Over))),
            At::Over => return None,
        }
        let run = Arc::clone(&states.borrow_and_update());
        let over = run.status.as_ref().is_some_and(|status| status.phase.is_terminal());
        let next = if over { At::Last } else { At::Later };
        Some((event(&run), (states, stopping, next)))
    })
    .fuse()
    .boxed()
}

fn event(run: &Run) -> Event {
    // A Run is always JSON; were it not, an empty object would be refused by the reader.
    Event::default().event("run").data(serde_json::to_string(run).unwrap_or_else(|_| "{}".to_owned()))
}

fn end() -> Event {
    Event::default().event("end").data("{}")
}
