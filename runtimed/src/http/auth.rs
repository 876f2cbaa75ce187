//! Who may read what.

use std::path::Path;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use runtimed_api::digest::Digest;
use runtimed_api::ids::{Namespace, RunName};
use runtimed_api::parse;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::tokens::Tokens;

use crate::daemon::Daemon;
use crate::live::Live;

/// The attempt of this Run, if the request may read it. Without a good token nobody learns whether there is one.
pub(super) fn attempt(
    daemon: &Daemon,
    headers: &HeaderMap,
    namespace: &str,
    name: &str,
) -> Result<Arc<Live>, Problem> {
    let token = bearer(headers)?;
    let parsed = namespace.parse::<Namespace>().ok().zip(name.parse::<RunName>().ok());
    let live = parsed.as_ref().and_then(|(namespace, name)| daemon.attempts.of_run(namespace, name));
    if let Some(live) = &live
        && live.read_token == Digest::of(token.as_bytes())
    {
        return Ok(Arc::clone(live));
    }
    let tokens = people(daemon)?;
    let person = tokens.person(token).ok_or_else(unknown)?;
    match (parsed, live) {
        (Some((namespace, _)), _) if !person.may_use(&namespace) => {
            Err(Problem::new(Code::Forbidden, format!("the token is not good for namespace {namespace}")))
        }
        (_, Some(live)) => Ok(live),
        (_, None) => Err(Problem::new(Code::NotFound, "no attempt at that Run is on this daemon")
            .hint("the controller keeps the results of Runs that are over")),
    }
}

/// Any person.
pub(super) fn person(daemon: &Daemon, headers: &HeaderMap) -> Result<(), Problem> {
    let token = bearer(headers)?;
    people(daemon)?.person(token).map(drop).ok_or_else(unknown)
}

/// The holder of the metrics token.
pub(super) fn metrics(daemon: &Daemon, headers: &HeaderMap) -> Result<(), Problem> {
    let token = bearer(headers)?;
    let Some(file) = &daemon.config.http.metrics_token_file else {
        return Err(Problem::new(Code::Forbidden, "no token for metrics is configured")
            .hint("the operator can set [http] metrics_token_file"));
    };
    let kept = read(file)?;
    // Hashes are compared, so that the time it takes tells nothing.
    let same = Digest::of(kept.trim().as_bytes()) == Digest::of(token.as_bytes());
    if same && !kept.trim().is_empty() { Ok(()) } else { Err(unknown()) }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    token.filter(|token| !token.is_empty()).ok_or_else(|| {
        Problem::new(Code::Unauthenticated, "a token is needed")
            .hint("send it as `Authorization: Bearer TOKEN`")
    })
}

/// The tokens as they are now: the file is small, and read anew so that a rotation needs no restart.
fn people(daemon: &Daemon) -> Result<Tokens, Problem> {
    let Some(file) = &daemon.config.http.tokens_file else { return Ok(Tokens::default()) };
    let text = read(file)?;
    toml::Deserializer::parse(&text)
        .map_err(|error| error.to_string())
        .and_then(|document| parse::from(document).map_err(|error| error.to_string()))
        .map_err(|error| {
            tracing::error!(file = %file.display(), error, "the tokens cannot be read");
            Problem::new(Code::Internal, "the daemon's tokens cannot be read")
        })
}

fn read(file: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(file).map_err(|error| {
        tracing::error!(file = %file.display(), %error, "a token file cannot be read");
        Problem::new(Code::Internal, "the daemon's tokens cannot be read")
    })
}

fn unknown() -> Problem {
    Problem::new(Code::Unauthenticated, "the token is not known here")
}
