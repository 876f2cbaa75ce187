//! Both ends of our HTTP: the typed clients of the two servers, and the listener that both servers share.
//!
//! One connection policy holds for all of it: HTTP/1, rustls with ring, plain HTTP on loopback alone, no redirects, every
//! body bounded. A client never retries: whoever calls knows whether the same request may be sent twice.
#![forbid(unsafe_code)]

pub mod content;
pub mod controller;
pub mod daemon;
pub mod download;
pub mod endpoint;
mod error;
mod exchange;
pub mod listen;
pub mod logs;
pub mod sse;

pub use endpoint::{Endpoint, EndpointError};
pub use error::ClientError;
