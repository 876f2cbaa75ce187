//! The command line.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use runtimed_api::exit::Exit;
use runtimed_api::ids::BuildId;

use crate::config::Config;
use crate::serve;

/// The uid that a daemon started as root lives under; `nonroot` of the distroless images.
pub const UNPRIVILEGED: u32 = 65532;

/// Runs untrusted work in hardened Kubernetes pods.
#[derive(Debug, Parser)]
#[command(name = "runtimed", version, about, disable_version_flag = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lease Runs from the controller and run them until told to stop.
    ///
    /// SIGTERM or SIGINT drains: no new Run is leased, running ones finish or are ended at the drain's grace. A second
    /// signal aborts. Exit code: 0 drained, 120 bad configuration, 125 a failure.
    Serve {
        /// The configuration.
        #[arg(long, env = "RUNTIMED_CONFIG", default_value = "/etc/runtimed/runtime.toml")]
        config: PathBuf,
        /// Drain when standard input closes, as it does when whoever started the daemon dies.
        #[arg(long)]
        until_stdin_closes: bool,
        /// Started as root: drop to this uid (and the gid of the same number) before anything else.
        #[arg(long, default_value_t = UNPRIVILEGED)]
        user: u32,
    },
    /// Print the version and the build.
    Version {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Why the daemon did not run to its end, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// The whole chain.
    pub error: anyhow::Error,
    /// The code.
    pub exit: Exit,
}

impl Failure {
    /// The configuration or the command line is wrong.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), exit: Exit::Usage }
    }

    /// Something failed that was asked for rightly.
    pub fn fault(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), exit: Exit::Fault }
    }
}

/// Does what the command line asks.
///
/// # Errors
/// See [`Failure`].
pub fn run(args: Args, build: &'static str) -> Result<(), Failure> {
    match args.command {
        Command::Version { json } => version(build, json).map_err(Failure::fault),
        Command::Serve { config, until_stdin_closes, user } => {
            let config = Config::read(&config).map_err(Failure::usage)?;
            let build: BuildId = build.parse().map_err(Failure::fault)?;
            serve::serve(config, build, serve::Options { until_stdin_closes, user })
        }
    }
}

fn version(build: &str, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let version = env!("CARGO_PKG_VERSION");
    if json {
        writeln!(out, "{}", serde_json::json!({ "version": version, "build": build }))
    } else {
        writeln!(out, "runtimed {version} ({build})")
    }
    .context("cannot write to standard output")
}
