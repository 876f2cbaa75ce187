//! What can go wrong with a request, as its caller must tell it apart.

use std::error::Error as _;
use std::time::Duration;

use runtimed_api::problem::{Code, Problem};

/// A request that did not get what it asked for. No variant holds a token.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server was not reached, or the connection broke: whether the request was carried out is unknown.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// The server and path, without a query.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// The server answered with a problem.
    #[error("{problem}")]
    Problem {
        /// The HTTP status it came with.
        status: u16,
        /// What the server said.
        problem: Box<Problem>,
        /// How long the server asks to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// The answer is none of the protocol's: another program listens there, or another version.
    #[error("{url} gave an answer that is not of this protocol: {why}")]
    Protocol {
        /// The server and path, without a query.
        url: String,
        /// What was wrong.
        why: String,
    },
    /// The answer is larger than whoever asked takes.
    #[error("{url} has more than {most} bytes")]
    TooLong {
        /// The server and path, without a query.
        url: String,
        /// Bytes that were allowed.
        most: u64,
    },
    /// The token cannot be sent.
    #[error("the token holds characters that no HTTP header can carry: give it as one line of visible ASCII")]
    Token,
}

impl ClientError {
    /// The problem's code, when the server answered with one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem { problem, .. } => Some(problem.code),
            Self::Unreachable { .. } | Self::Protocol { .. } | Self::TooLong { .. } | Self::Token => None,
        }
    }

    /// How long the server asks to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem { retry_after, .. } => *retry_after,
            Self::Unreachable { .. } | Self::Protocol { .. } | Self::TooLong { .. } | Self::Token => None,
        }
    }

    /// The same request may succeed later, unchanged.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem { problem, .. } => problem.retryable,
            Self::Protocol { .. } | Self::TooLong { .. } | Self::Token => false,
        }
    }

    pub(crate) fn unreachable(url: &reqwest::Url, error: &reqwest::Error) -> Self {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        // The outermost sentence repeats the URL; the innermost alone says why.
        let why = match error.source() {
            None if error.is_timeout() => "no answer in time".to_owned(),
            None => "the request could not be sent".to_owned(),
            Some(_) => cause.to_string(),
        };
        Self::Unreachable { url: shown(url), why }
    }

    pub(crate) fn late(url: &reqwest::Url, waited: Duration) -> Self {
        Self::Unreachable { url: shown(url), why: format!("no answer within {} s", waited.as_secs()) }
    }

    pub(crate) fn unavailable(url: &reqwest::Url, status: u16) -> Self {
        Self::Unreachable { url: shown(url), why: format!("HTTP {status} without a reason") }
    }

    pub(crate) fn too_long(url: &reqwest::Url, most: u64) -> Self {
        Self::TooLong { url: shown(url), most }
    }

    pub(crate) fn protocol(url: &reqwest::Url, why: impl Into<String>) -> Self {
        Self::Protocol { url: shown(url), why: why.into() }
    }
}

/// A URL as an error names it: a query may hold what people typed, and helps nobody.
fn shown(url: &reqwest::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}
