//! What a controller tells as it happens: a Run's changes, and its log.

use std::collections::VecDeque;

use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use reqwest::header::ACCEPT;
use reqwest::{Method, Url};
use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::log::LogEvent;
use runtimed_api::parse;
use runtimed_api::problem::Problem;
use runtimed_api::run::Run;
use serde::de::DeserializeOwned;

use super::Controller;
use crate::download::Download;
use crate::error::ClientError;
use crate::logs::LogQuery;
use crate::sse::{Event, Parser};

/// A Run, each time it changed, beginning with how it is now. It ends when the server has no more to tell.
pub type RunStream = BoxStream<'static, Result<Run, ClientError>>;
/// The events of a log. It ends when the log does; an error before that means that it went on, and
/// [`LogEvent::next`] of the last event is where to resume.
pub type LogStream = BoxStream<'static, Result<LogEvent, ClientError>>;

impl Controller {
    /// `GET …/runs/{name}/events`.
    ///
    /// # Errors
    /// See [`ClientError`]; the stream's own errors end it.
    pub async fn events(&self, namespace: &Namespace, name: &RunName) -> Result<RunStream, ClientError> {
        let url = self.exchange.run(namespace, name, ["events"]);
        Ok(follow(self.event_stream(&url).await?, url, End::Either))
    }

    /// `GET …/runs/{name}/logs`, as events.
    ///
    /// # Errors
    /// See [`ClientError`]; the stream's own errors end it.
    pub async fn logs(
        &self,
        namespace: &Namespace,
        name: &RunName,
        query: &LogQuery,
    ) -> Result<LogStream, ClientError> {
        let mut url = self.exchange.run(namespace, name, ["logs"]);
        query.write(&mut url);
        Ok(follow(self.event_stream(&url).await?, url, End::Named))
    }

    async fn event_stream(&self, url: &Url) -> Result<Download, ClientError> {
        let request = self.exchange.request(Method::GET, url.clone(), None)?;
        let request = request.header(ACCEPT, "text/event-stream");
        let download = self.exchange.download(request, u64::MAX, None).await?;
        match download.content_type() {
            Some(kind) if kind.starts_with("text/event-stream") => Ok(download),
            _ => Err(ClientError::protocol(url, "not an event stream")),
        }
    }
}

/// How a stream ends well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With an event named `end`; a body that merely ends was cut off.
    Named,
    /// With that, or with the body.
    Either,
}

struct Following {
    download: Download,
    parser: Parser,
    events: VecDeque<Event>,
    url: Url,
    end: End,
}

/// The data of each event, as a `T`.
fn follow<T: DeserializeOwned + Send + 'static>(
    download: Download,
    url: Url,
    end: End,
) -> BoxStream<'static, Result<T, ClientError>> {
    let following = Following { download, parser: Parser::default(), events: VecDeque::new(), url, end };
    stream::try_unfold(following, async move |mut following: Following| {
        let Some(event) = following.next().await? else { return Ok(None) };
        let value = parse::json(event.data.as_bytes())
            .map_err(|error| ClientError::protocol(&following.url, error.to_string()))?;
        Ok(Some((value, following)))
    })
    .boxed()
}

impl Following {
    /// The next event that has something to say; `None` at a good end.
    async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return match event.name.as_str() {
                    "end" => Ok(None),
                    "problem" => Err(self.problem(&event)),
                    _ => Ok(Some(event)),
                };
            }
            match self.download.try_next().await? {
                Some(piece) => self
                    .parser
                    .push(&piece, &mut self.events)
                    .map_err(|error| ClientError::protocol(&self.url, error.to_string()))?,
                None if self.end == End::Either => return Ok(None),
                None => {
                    let url = self.url.as_str().split('?').next().unwrap_or_default().to_owned();
                    return Err(ClientError::Unreachable { url, why: "the stream was cut off".to_owned() });
                }
            }
        }
    }

    /// A server that fails after the stream's head can say so in the stream alone.
    fn problem(&self, event: &Event) -> ClientError {
        match serde_json::from_str::<Problem>(&event.data) {
            Ok(problem) => ClientError::Problem {
                status: problem.code.row().status,
                problem: Box::new(problem),
                retry_after: None,
            },
            Err(error) => ClientError::protocol(&self.url, error.to_string()),
        }
    }
}
