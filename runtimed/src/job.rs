//! `runtimed job`: one Run, and then the end. The entrypoint of a worker Job's container.
//!
//! It is the daemon with one slot: the same wiring, the same steps, the same journal. Only where the Run comes from may
//! differ ([`crate::upstream`]), the log goes to the container's own streams, and the command's exit code is the job's.

mod input;
mod mirror;
mod summary;

use std::path::PathBuf;

use clap::Args;
use runtimed_api::exit::{self, Exit};
use runtimed_api::ids::BuildId;
use runtimed_api::run::status::AttemptEnd;

use crate::args::Failure;
use crate::config::Config;
use crate::serve::{self, Options, Work};
use crate::upstream::Given;

pub(crate) use input::given_command;
pub(crate) use mirror::{follow, mirror};

/// What the Run is, and where its results go.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The Run, as YAML or JSON: an object of kind `Run`, the same that `runtimectl run -f` takes.
    #[arg(long, env = "RUNTIMED_JOB_FILE", value_name = "FILE", hide_env_values = true)]
    file: Option<PathBuf>,
    /// The Run itself, as YAML or JSON.
    #[arg(long, env = "RUNTIMED_JOB_RUN", value_name = "YAML", hide_env_values = true)]
    run: Option<String>,
    /// Lease one Run from the controller instead, as a daemon of one slot.
    #[arg(long, env = "RUNTIMED_JOB_LEASE", value_parser = clap::builder::FalseyValueParser::new())]
    lease: bool,
    #[command(flatten)]
    parts: input::Parts,
    /// Prior patches, applied in the order given; several are separated by commas.
    #[arg(
        long,
        env = "RUNTIMED_JOB_PATCHES",
        value_name = "FILE",
        value_delimiter = ',',
        hide_env_values = true
    )]
    patch: Vec<PathBuf>,
    /// Keep log, Patch and artifacts here, each under its digest, with `result.json` that names them. Without it they end
    /// with the job. It must lie outside the three directories that the Run may write.
    #[arg(long, env = "RUNTIMED_JOB_RESULTS", value_name = "DIR", hide_env_values = true)]
    results: Option<PathBuf>,
    /// Where the summary goes: one JSON object of at most 4096 bytes. Nothing is written where no such file is.
    #[arg(
        long,
        env = "RUNTIMED_JOB_TERMINATION_LOG",
        value_name = "FILE",
        default_value = "/dev/termination-log",
        hide_env_values = true
    )]
    termination_log: PathBuf,
}

/// Runs the job, and returns its exit code.
///
/// # Errors
/// The configuration or the Run cannot be used, or an essential part failed. The summary says so as well.
pub fn run(
    config: Result<Config, Failure>,
    build: BuildId,
    options: Options,
    args: JobArgs,
) -> Result<u8, Failure> {
    // Opened before root is given up.
    let mut summary = summary::open(&args.termination_log);
    let ended = attempt(config, build, options, args);
    let text = match &ended {
        Ok(Ended { run, code, result }) => summary::of(run.as_deref(), *code, result.as_deref()),
        Err(failure) => summary::of_failure(failure),
    };
    summary.write(&text);
    ended.map(|ended| ended.code)
}

/// What became of it.
struct Ended {
    run: Option<String>,
    code: u8,
    result: Option<std::sync::Arc<runtimed_api::run::status::AttemptResult>>,
}

fn attempt(
    config: Result<Config, Failure>,
    build: BuildId,
    options: Options,
    args: JobArgs,
) -> Result<Ended, Failure> {
    let mut config = config?;
    config.slots = 1;
    let results = args.results.clone();
    let given = input::given(&config, args)?;
    let was_given = given.is_some();
    let run = given.as_ref().and_then(Given::label);
    let result = serve::serve(config, build, options, Work::One(given.map(Box::new)))?;
    if let (Some(dir), Some(result)) = (results, &result) {
        summary::keep(&dir, result).map_err(Failure::fault)?;
    }
    if let Some(result) = result.as_ref().filter(|result| result.end != AttemptEnd::Completed) {
        tracing::error!(end = ?result.end, reason = result.reason, "the Run did not complete");
    }
    let code = match &result {
        Some(result) => exit::of_result(result),
        // It was told to end before there was a Run.
        None if was_given => Exit::Fault.code(),
        None => Exit::Ok.code(),
    };
    Ok(Ended { run, code, result })
}
