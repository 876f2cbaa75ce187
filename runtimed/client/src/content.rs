//! Bytes that never change, as both servers answer with them: a digest as ETag, ranges, conditions (RFC 9110).

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use runtimed_api::digest::Digest;

use crate::logs::range::{self, Wanted};

/// What a request wants of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// All of them.
    Whole,
    /// These.
    Part(Range<u64>),
    /// None: whoever asks has them.
    Unchanged,
    /// Some that are not there.
    Beyond,
}

/// What the headers of a request say about the `size` bytes of this digest.
#[must_use]
pub fn plan(headers: &HeaderMap, digest: &Digest, size: u64) -> Plan {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = etag(digest);
    let names = |list: &str| {
        list.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
    };
    if text(header::IF_NONE_MATCH).is_some_and(names) {
        return Plan::Unchanged;
    }
    // A range of other bytes than those that the reader has the beginning of would be worth nothing.
    let same = text(header::IF_RANGE).is_none_or(|known| known.trim() == tag);
    match text(header::RANGE).filter(|_| same).map(|range| range::parse(range, size)) {
        Some(Wanted::Part(part)) => Plan::Part(part),
        Some(Wanted::Beyond) => Plan::Beyond,
        Some(Wanted::Whole) | None => Plan::Whole,
    }
}

/// The answer by a plan. `body` holds the bytes that the plan names. A browser must neither guess the type nor show it as
/// a page of ours.
#[must_use]
pub fn answer(plan: &Plan, digest: &Digest, size: u64, content_type: &str, body: Body) -> Response {
    let (status, length, body) = match plan {
        Plan::Whole => (StatusCode::OK, Some(size), body),
        Plan::Part(part) => (StatusCode::PARTIAL_CONTENT, Some(part.end - part.start), body),
        Plan::Unchanged => (StatusCode::NOT_MODIFIED, None, Body::empty()),
        Plan::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, Some(0), Body::empty()),
    };
    let mut response = (status, body).into_response();
    let range = match plan {
        Plan::Part(part) => Some(format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1))),
        Plan::Beyond => Some(format!("bytes */{size}")),
        Plan::Whole | Plan::Unchanged => None,
    };
    let headers = [
        (header::ETAG, Some(etag(digest))),
        (header::CONTENT_TYPE, Some(content_type.to_owned())),
        (header::CONTENT_LENGTH, length.map(|length| length.to_string())),
        (header::CONTENT_RANGE, range),
        (header::ACCEPT_RANGES, Some("bytes".to_owned())),
        (header::CACHE_CONTROL, Some("private".to_owned())),
        (header::X_CONTENT_TYPE_OPTIONS, Some("nosniff".to_owned())),
        (header::CONTENT_DISPOSITION, Some("attachment".to_owned())),
    ];
    for (name, value) in headers {
        // A type that a header cannot hold was made by a Run; then the answer goes without it.
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_ranges_are_read() {
        let digest = Digest::of(b"hello");
        let tag = etag(&digest);
        let plan = |pairs: &[(HeaderName, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value")));
            plan(&pairs.collect(), &digest, 5)
        };
        assert_eq!(plan(&[]), Plan::Whole);
        assert_eq!(plan(&[(header::RANGE, "bytes=1-2")]), Plan::Part(1..3));
        assert_eq!(plan(&[(header::RANGE, "bytes=5-")]), Plan::Beyond);
        assert_eq!(plan(&[(header::IF_NONE_MATCH, &format!("\"x\", W/{tag}"))]), Plan::Unchanged);
        assert_eq!(plan(&[(header::IF_NONE_MATCH, "\"x\"")]), Plan::Whole);
        assert_eq!(plan(&[(header::RANGE, "bytes=1-2"), (header::IF_RANGE, &tag)]), Plan::Part(1..3));
        assert_eq!(plan(&[(header::RANGE, "bytes=1-2"), (header::IF_RANGE, "\"x\"")]), Plan::Whole);
    }
}
