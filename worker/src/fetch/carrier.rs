//! What carries git's protocol to a server and back.

use std::io::{self, Read};

use super::http::Http;
use super::protocol::unusable;
use super::ssh::Ssh;
use crate::failure::Failure;

/// What carries git's protocol.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A request and an answer for each command.
    Https(Http),
    /// One stream in each direction.
    Ssh(Ssh),
}

impl Carrier {
    /// The server's greeting.
    pub(super) fn advertisement(&mut self) -> Result<Box<dyn Read + '_>, Failure> {
        Ok(match self {
            Self::Https(http) => Box::new(http.advertisement()?),
            Self::Ssh(ssh) => Box::new(ssh.answer()),
        })
    }

    /// Sends a command; its answer.
    pub(super) fn command(&mut self, request: &[u8]) -> Result<Box<dyn Read + '_>, Failure> {
        Ok(match self {
            Self::Https(http) => Box::new(http.command(request)?),
            Self::Ssh(ssh) => Box::new(ssh.command(request)?),
        })
    }

    /// The server has let us in: what was needed for that is not needed any more.
    pub(super) fn greeted(&mut self) -> Result<(), Failure> {
        match self {
            Self::Https(_) => Ok(()),
            Self::Ssh(ssh) => ssh.forget_keys(),
        }
    }

    /// Why an answer broke off.
    pub(super) fn explain(&mut self, error: &io::Error) -> Failure {
        match self {
            Self::Https(_) => unusable(error),
            Self::Ssh(ssh) => ssh.explain(error),
        }
    }
}
