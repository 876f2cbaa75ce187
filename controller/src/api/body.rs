//! Reading bounded bodies.

use axum::body::{Body, to_bytes};
use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use serde::de::DeserializeOwned;

use super::answer::{Answer, Failure, invalid};

/// Reads a body of JSON of at most `most` bytes.
pub(super) async fn json<T: DeserializeOwned>(body: Body, most: usize) -> Answer<T> {
    let bytes = to_bytes(body, most).await.map_err(|error| {
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
    })?;
    parse::json(&bytes).map_err(|error| invalid(error.to_string()))
}
