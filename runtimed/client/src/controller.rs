//! The controller, as people and daemons speak to it.

mod daemons;
mod people;
mod streams;

use runtimed_api::session::SecretText;
use runtimed_api::trace::TraceContext;

pub use crate::logs::LogQuery;
pub use daemons::{Blob, LogOf};
pub use people::ListQuery;
pub use streams::{LogStream, RunStream};

use crate::endpoint::{Endpoint, EndpointError};
use crate::exchange::Exchange;

/// A controller and the connections to it. A clone shares them.
#[derive(Debug, Clone)]
pub struct Controller {
    exchange: Exchange,
}

impl Controller {
    /// A controller that is spoken to without a token.
    ///
    /// # Errors
    /// The endpoint's URL or certificate authorities cannot be used.
    pub fn new(endpoint: &Endpoint) -> Result<Self, EndpointError> {
        Ok(Self { exchange: Exchange::new(endpoint)? })
    }

    /// The same controller over the same connections, spoken to with this token.
    #[must_use]
    pub fn with_token(&self, token: SecretText) -> Self {
        Self { exchange: self.exchange.clone().with_token(token) }
    }

    /// The same controller over the same connections, told of this trace with every request.
    #[must_use]
    pub fn with_trace(&self, trace: TraceContext) -> Self {
        Self { exchange: self.exchange.clone().with_trace(trace) }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.exchange.base().as_str()
    }
}
