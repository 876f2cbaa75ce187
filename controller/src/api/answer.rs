//! Every error is a [`Problem`] as JSON, with the status of its code.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use runtimed_api::ids::InvalidId;
use runtimed_api::problem::{Code, Problem};
use runtimed_store::BlobError;

use crate::arrivals::ArrivalError;
use crate::engine::Denied;
use crate::store::StoreError;

/// A problem as an answer.
#[derive(Debug)]
pub(super) struct Failure(pub(super) Problem);

pub(super) type Answer<T> = Result<T, Failure>;

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let status = StatusCode::from_u16(code.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        // For the audit.
        response.extensions_mut().insert(code);
        if code == Code::Unauthenticated {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(code, Code::RateLimited | Code::Unavailable | Code::StorageFull) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

/// A failure as the whole answer, for a handler whose other answers are of several kinds.
impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        failure.into_response()
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let mut response = Failure(self.problem).into_response();
        // Whole seconds alone may be written, and one that comes too early is denied again.
        if let Some(after) = self.after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<InvalidId> for Failure {
    fn from(error: InvalidId) -> Self {
        Self(Problem::new(Code::InvalidRequest, error.to_string()))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(crate::engine::store_failed(&error))
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        let message = error.to_string();
        Self(match error {
            BlobError::Missing => Problem::new(Code::NotFound, message),
            BlobError::TooLarge(_) => Problem::new(Code::TooLarge, message),
            BlobError::Digest(_) => Problem::new(Code::InvalidRequest, message),
            // Whoever still hears this was only slow.
            BlobError::Broken(_) => {
                Problem { retryable: true, ..Problem::new(Code::InvalidRequest, message) }
            }
            BlobError::Full => nearly_full(),
            BlobError::Store(ref cause) if is_full(cause) => nearly_full(),
            BlobError::File(ref cause) if is_full(cause) => nearly_full(),
            error @ (BlobError::Store(_) | BlobError::File(_) | BlobError::Altered(_)) => {
                tracing::error!(%error, "the store of results failed");
                Problem::new(Code::StorageFailed, "the controller's store of results failed")
            }
        })
    }
}

impl From<ArrivalError> for Failure {
    fn from(error: ArrivalError) -> Self {
        match error {
            ArrivalError::Blob(error) => error.into(),
            ArrivalError::Elsewhere(_) => {
                Self(Problem { retryable: true, ..Problem::new(Code::Conflict, error.to_string()) })
            }
        }
    }
}

fn nearly_full() -> Problem {
    Problem::new(Code::StorageFull, "the controller's store of results is full")
        .hint("try again when its operator has made room")
}

/// Whether somewhere below is a file system without room.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let full = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded];
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| full.contains(&io.kind())) {
            return true;
        }
        cause = error.source();
    }
    false
}

pub(super) fn not_found(what: impl Into<String>) -> Failure {
    Failure(Problem::new(Code::NotFound, what))
}

pub(super) fn invalid(what: impl Into<String>) -> Failure {
    Failure(Problem::new(Code::InvalidRequest, what))
}

pub(super) async fn no_such_route(method: Method, uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    not_found(format!("there is no {method} {path}"))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let problem = Problem::new(Code::InvalidRequest, format!("{path} does not take {method}"));
    (StatusCode::METHOD_NOT_ALLOWED, Json(problem)).into_response()
}
