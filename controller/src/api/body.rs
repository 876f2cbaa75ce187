//! Reading bounded bodies.

use std::time::Duration;

use axum::body::{Body, HttpBody as _, to_bytes};
use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt as _, unfold};
use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use serde::de::DeserializeOwned;
use tracing::Instrument as _;

use super::answer::{Answer, Failure, invalid};

/// How long a body that is read whole may take, and the longest silence within one that is passed on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a body of JSON of at most `most` bytes.
pub(super) async fn json<T: DeserializeOwned>(body: Body, most: usize) -> Answer<T> {
    parse::json(&bytes(body, most).await?).map_err(|error| invalid(error.to_string()))
}

/// The pieces of a body, whose sender is not waited for without end.
pub(super) fn pieces(body: Body) -> impl Stream<Item = Result<Bytes, String>> + Send {
    unfold(Some(body.into_data_stream()), |body| async move {
        let mut body = body?;
        match tokio::time::timeout(PATIENCE, body.next()).await {
            Ok(piece) => Some((piece?.map_err(|error| error.to_string()), Some(body))),
            Err(_elapsed) => Some((Err("nothing came for 30 s".to_owned()), None)),
        }
    })
    .fuse()
}

/// How much of a body there will be, as its sender says: `most` where it does not say.
pub(super) fn announced(body: &Body, most: u64) -> Answer<u64> {
    match body.size_hint().exact() {
        Some(size) if size > most => {
            Err(Failure(Problem::new(Code::TooLarge, format!("the body is larger than {most} bytes"))))
        }
        Some(size) => Ok(size),
        None => Ok(most),
    }
}

/// Brings to its end what has begun, whoever waits for it: a handler whose peer goes away is dropped where it stands, and would
/// leave the beginning of an upload in the store.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Answer<T>> + Send + 'static,
) -> Answer<T> {
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request was given up");
        Err(Failure(Problem::new(Code::Unavailable, "the controller is stopping")))
    })
}

/// Reads a body of at most `most` bytes.
pub(super) async fn bytes(body: Body, most: usize) -> Answer<Bytes> {
    let read = tokio::time::timeout(PATIENCE, to_bytes(body, most)).await;
    let read = read.map_err(|_elapsed| invalid("the body did not come whole within 30 s"))?;
    read.map_err(|error| {
        // axum tells the two apart only by the cause.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if cause.to_string().contains("length limit") {
            Failure(Problem::new(Code::TooLarge, format!("the body is larger than {most} bytes")))
        } else {
            invalid(format!("the body did not come whole: {cause}"))
        }
    })
}
