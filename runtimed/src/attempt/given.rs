//! What the command is given to read beside its workspace: earlier Runs' artifacts, and the certificate authorities that
//! the daemon trusts; and the variables that lead there, and out through the proxy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use runtimed_api::environment::{INPUTS_DIR, TRACEPARENT, TRACESTATE};
use runtimed_api::link::{Input, layout};
use runtimed_api::policy::Granted;
use runtimed_api::problem::{Code, Problem};
use runtimed_api::run::network::NetworkMode;

use super::source::inputs;
use super::workspace::{Workspace, blocking};
use super::{Attempt, Ended, storage};
use crate::environ::Places;
use crate::proxy;

/// What the worker is told of it.
#[derive(Debug)]
pub(super) struct Given {
    /// There is something.
    pub(super) any: bool,
    pub(super) inputs: Vec<Input>,
}

/// The names under which programs look for a bundle of authorities: OpenSSL, curl, Python's requests and pip, git, cargo,
/// Node (which adds them to its own), and the AWS tools.
const BUNDLE_NAMES: [&str; 8] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
];
/// Bytes of a bundle.
const MAX_BUNDLE: u64 = 16 << 20;

/// Brings the inputs, and copies the authorities: where they are mounted no command can read.
pub(super) async fn give(
    attempt: &Attempt,
    granted: &Granted,
    workspace: &Workspace,
) -> Result<Given, Ended> {
    let bundle = authorities(attempt, granted).map(Path::to_owned);
    let any = bundle.is_some() || !attempt.lease.run.spec.inputs.is_empty();
    if !any {
        return Ok(Given { any, inputs: Vec::new() });
    }
    let place = workspace.give()?;
    if let Some(from) = bundle {
        blocking(move || copy(&from, &place)).await??;
    }
    Ok(Given { any, inputs: inputs(attempt, workspace).await? })
}

/// The variables that lead to it, and out, and that name the submitter's trace.
pub(super) fn variables(attempt: &Attempt, granted: &Granted, places: &Places) -> BTreeMap<String, String> {
    let daemon = &attempt.daemon;
    let mut variables = proxy::variables(&daemon.config.proxy, &daemon.environment, &granted.network);
    let within = |name: &str| places.given.join(name).to_string_lossy().into_owned();
    if authorities(attempt, granted).is_some() {
        let bundle = within(layout::AUTHORITIES);
        variables.extend(BUNDLE_NAMES.map(|name| (name.to_owned(), bundle.clone())));
    }
    if !attempt.lease.run.spec.inputs.is_empty() {
        variables.insert(INPUTS_DIR.to_owned(), within(layout::INPUTS));
    }
    if let Some(trace) = &attempt.lease.trace {
        variables.insert(TRACEPARENT.to_owned(), trace.parent().to_owned());
        variables.extend(trace.state().map(|state| (TRACESTATE.to_owned(), state.to_owned())));
    }
    variables
}

/// The configured bundle, for a command that has a network to use it in.
fn authorities<'a>(attempt: &'a Attempt, granted: &Granted) -> Option<&'a Path> {
    let configured = attempt.daemon.config.tls.ca_file.as_deref();
    configured.filter(|_| granted.network.mode != NetworkMode::None)
}

fn copy(from: &Path, place: &Path) -> Result<(), Problem> {
    let mut bytes = Vec::new();
    let read = File::open(from).and_then(|file| file.take(MAX_BUNDLE + 1).read_to_end(&mut bytes));
    let read = read.and_then(|count| match u64::try_from(count) {
        Ok(count) if count <= MAX_BUNDLE => Ok(()),
        _ => Err(io::Error::other("it has more than 16 MiB")),
    });
    read.map_err(|error| {
        let message = format!("the certificate authorities in {} cannot be read: {error}", from.display());
        Problem::new(Code::StorageFailed, message).hint("correct [tls] ca_file")
    })?;
    let to = place.join(layout::AUTHORITIES);
    std::fs::write(to, bytes).map_err(|error| storage("the certificate authorities cannot be copied", &error))
}
