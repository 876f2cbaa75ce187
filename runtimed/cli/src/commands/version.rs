//! `runtimectl version`.

use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Format, Output};

#[derive(Debug, Serialize)]
struct Version<'a> {
    version: &'static str,
    build: &'a str,
}

pub(super) fn version(build: &str, json: bool, output: &Output) -> Result<(), Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), build };
    let format = if json { Format::Json } else { output.format };
    Output { format, ..*output }.result(&version, |_| format!("runtimectl {} ({build})\n", version.version))
}
