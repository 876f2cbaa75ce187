//! The command line.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use runtimed_api::exit::Exit;
use runtimed_api::ids::BuildId;

use crate::check::{self, CheckArgs};
use crate::config::Config;
use crate::config::layers::Overlay;
use crate::job::{self, JobArgs};
use crate::selftest::{self, SelftestArgs};
use crate::serve::{self, Work};

/// The uid that a daemon started as root lives under; `nonroot` of the distroless images.
pub const UNPRIVILEGED: u32 = 65532;

fn job_help() -> String {
    format!(
        "Exit codes:\n{}\n  122 also when a signal to this program ended the Run. Where the command's own code collides\n  \
         with ours, the summary settles which it was.\n\n\
         Examples:\n  \
         runtimed job --file /etc/job/run.yaml\n  \
         runtimed job --git-url https://git.example/team/app.git --git-ref main -- make test\n  \
         runtimed job --lease",
        Exit::table()
    )
}

const CHECK: &str = "\
Examples:
  kubectl exec POD -- runtimed check
  RUN [\"runtimed\", \"check\", \"--image\", \"--strict\"]      (the last step of a Containerfile)";

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
    /// signal aborts. Exit code: 0 drained, 120 bad configuration, 122 aborted by the second signal, 124
    /// the time to drain ran out and the journal has the rest, 125 a failure.
    Serve {
        #[command(flatten)]
        configuration: Configuration,
        #[command(flatten)]
        life: Life,
    },
    /// Run one Run and end: the entrypoint of a worker Job.
    ///
    /// The Run comes from a file, from a variable, from parts, or is leased from the controller. Its log goes to stdout
    /// and stderr, a summary to /dev/termination-log. SIGTERM lets it go on for the drain's grace and ends it then; what
    /// was staged is removed in every case. A second signal aborts.
    #[command(after_long_help = job_help())]
    Job {
        #[command(flatten)]
        configuration: Configuration,
        #[command(flatten)]
        life: Life,
        #[command(flatten)]
        job: Box<JobArgs>,
    },
    /// Check the configuration and what this pod can enforce.
    ///
    /// Each value is shown with its origin; secrets are never shown. Exit code: 0, 1 for errors, 2 for warnings with
    /// --strict, 120 for a wrong command line.
    #[command(after_long_help = CHECK)]
    Check {
        #[command(flatten)]
        configuration: Configuration,
        #[command(flatten)]
        check: CheckArgs,
    },
    /// Try the forbidden things as a Run would, and say what held.
    ///
    /// Each is tried without the sandbox and inside a Run of its own. Safe beside a daemon that serves. Exit code: 0 all that
    /// is claimed held, 1 something did not, 120 bad configuration, 125 the test could not be made.
    Selftest {
        #[command(flatten)]
        configuration: Configuration,
        #[command(flatten)]
        selftest: SelftestArgs,
    },
    /// Print the version and the build.
    Version {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Which configuration holds.
#[derive(Debug, clap::Args)]
pub struct Configuration {
    /// The configuration.
    #[arg(long, env = "RUNTIMED_CONFIG", default_value = "/etc/runtimed/runtime.toml")]
    config: PathBuf,
    /// A value over file and environment, such as `slots=4` or `ceiling.network=None`; may be given again.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Configuration {
    fn read(self) -> Result<Config, Failure> {
        Config::read(&self.config, &Overlay::of_process(self.set)).map_err(Failure::usage)
    }
}

/// How the process lives.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Life {
    /// Drain when standard input closes, as it does when whoever started the daemon dies.
    #[arg(long)]
    until_stdin_closes: bool,
    /// Started as root: drop to this uid (and the gid of the same number) before anything else.
    #[arg(long, default_value_t = UNPRIVILEGED)]
    user: u32,
}

impl From<Life> for serve::Options {
    fn from(life: Life) -> Self {
        Self { until_stdin_closes: life.until_stdin_closes, user: life.user }
    }
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

/// Does what the command line asks, and returns the exit code.
///
/// # Errors
/// See [`Failure`].
pub fn run(args: Args, build: &'static str) -> Result<u8, Failure> {
    let id: BuildId = build.parse().map_err(Failure::fault)?;
    match args.command {
        Command::Version { json } => version(build, json).map(|()| 0).map_err(Failure::fault),
        Command::Serve { configuration, life } => {
            serve::serve(configuration.read()?, id, life.into(), Work::Pool).map(|_| 0)
        }
        Command::Check { configuration, check } => {
            let over = Overlay::of_process(configuration.set);
            check::run(&configuration.config, &over, build, &check)
        }
        Command::Selftest { configuration, selftest } => {
            selftest::run(|| configuration.read(), id, &selftest)
        }
        Command::Job { configuration, life, job } => job::run(configuration.read(), id, life.into(), *job),
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
