//! The command line, and the exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use runtimed_api::duration::Span;
use runtimed_api::exit::Exit;
use runtimed_api::quantity::Bytes;
use tracing_subscriber::EnvFilter;

use crate::backup;
use crate::serve::{self, ServeError};
use crate::user::{self, User};

/// The runtimed controller: takes Runs, gives them to daemons, keeps what became of them.
#[derive(Debug, Parser)]
#[command(name = "runtimed-controller", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve people and daemons until a signal. The first drains for at most 10 s, the second aborts.
    Serve(Box<ServeArgs>),
    /// Copy the data directory to a new one, while a controller works on it or while none does. To restore, start a
    /// controller with the copy as its --data.
    #[command(
        after_help = "Example:\n  runtimed-controller backup --data /var/lib/runtimed --to /backup/2026-01-31"
    )]
    Backup {
        /// The data directory.
        #[arg(long, env = "RUNTIMED_CONTROLLER_DATA", value_name = "DIR")]
        data: PathBuf,
        /// Where the copy goes; made by this command.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Print the version and the build.
    Version {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Exit codes: 0 after a drain, 120 for a wrong command line or file, 122 after a second signal, 125 for anything else.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The address to listen on; port 0 takes a free one. Plain HTTP is for loopback alone.
    #[arg(long, env = "RUNTIMED_CONTROLLER_LISTEN", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// The certificate chain, in PEM; read again when it changes.
    #[arg(long, env = "RUNTIMED_CONTROLLER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, env = "RUNTIMED_CONTROLLER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The authorities of daemons' certificates, in PEM (default: the system's).
    #[arg(long, env = "RUNTIMED_CONTROLLER_DAEMON_CA", value_name = "FILE")]
    pub(crate) daemon_ca: Option<PathBuf>,
    /// The database, the key and the results are kept here; made when it is not there.
    #[arg(long, env = "RUNTIMED_CONTROLLER_DATA", value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The key that submitted secrets are sealed under, 32 bytes; made when it is not there (default: in the data
    /// directory, where a backup of that holds both).
    #[arg(long, env = "RUNTIMED_CONTROLLER_SECRETS_KEY", value_name = "FILE")]
    pub(crate) secrets_key: Option<PathBuf>,
    /// Where results are kept, in TOML: kind = "directory", "s3", "gcs" or "azure". (default: a directory of --data)
    #[arg(long, env = "RUNTIMED_CONTROLLER_STORE", value_name = "FILE")]
    pub(crate) store: Option<PathBuf>,
    /// The hashes of people's and daemons' tokens, in TOML; read again when it changes.
    #[arg(long, env = "RUNTIMED_CONTROLLER_TOKENS", value_name = "FILE")]
    pub(crate) tokens: PathBuf,
    /// The Runtimes, a YAML file each.
    #[arg(long, env = "RUNTIMED_CONTROLLER_RUNTIMES", value_name = "DIR")]
    pub(crate) runtimes: PathBuf,
    /// The key that statements about patches are signed with: 32 bytes, made when it is not there (default: `signing.key`
    /// in the data directory). To rotate: put other bytes in its place, and restart.
    #[arg(long, env = "RUNTIMED_CONTROLLER_SIGNING_KEY", value_name = "FILE")]
    pub(crate) signing_key: Option<PathBuf>,
    /// How long what a replaced key has signed stays good.
    #[arg(long, env = "RUNTIMED_CONTROLLER_SIGNING_OVERLAP", value_name = "SPAN", default_value = "720h")]
    pub(crate) signing_overlap: Span,
    /// Runs of one namespace that are not over, at most.
    #[arg(long, env = "RUNTIMED_CONTROLLER_MAX_ACTIVE", value_name = "COUNT", default_value_t = 10_000)]
    pub(crate) max_active: usize,
    /// Submissions of one namespace in a minute, at most (default: any number).
    #[arg(long, env = "RUNTIMED_CONTROLLER_MAX_SUBMISSIONS", value_name = "COUNT")]
    pub(crate) max_submissions: Option<NonZeroU32>,
    /// Finished Runs of one namespace that are kept, the newest, however long they ask for (default: all of them).
    #[arg(long, env = "RUNTIMED_CONTROLLER_KEEP_RUNS", value_name = "COUNT")]
    pub(crate) keep_runs: Option<usize>,
    /// How long an uploaded patch or work tree is kept after it was last uploaded.
    #[arg(long, env = "RUNTIMED_CONTROLLER_KEEP_UPLOADS", value_name = "SPAN", default_value = "720h")]
    pub(crate) keep_uploads: Span,
    /// What the uploaded patches, work trees and archives of one namespace may take together.
    #[arg(long, env = "RUNTIMED_CONTROLLER_MAX_UPLOADS", value_name = "SIZE", default_value = "16Gi")]
    pub(crate) max_uploads: Bytes,
    /// How long a lease holds without a renewal; 100ms to 10m.
    #[arg(long, env = "RUNTIMED_CONTROLLER_LEASE", value_name = "SPAN", default_value = "15s")]
    pub(crate) lease: Span,
    /// Whom to become when started as root: UID or UID:GID; 0 to stay root (default: 65532).
    #[arg(long, env = "RUNTIMED_CONTROLLER_USER", value_name = "UID[:GID]")]
    pub(crate) user: Option<User>,
    /// End when standard input closes, as it does when whoever started the controller dies.
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

/// Runs the program with these arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            // A closed terminal takes neither the help nor a complaint about it.
            drop(error.print());
            return if usage { code(Exit::Usage) } else { code(Exit::Ok) };
        }
    };
    let filter = EnvFilter::try_from_env("RUNTIMED_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A stderr that nobody reads, or that is full, must not end the controller: what cannot be written is lost.
        .log_internal_errors(false);
    // For a person as text, for a log stack as JSON lines.
    let started = if io::stderr().is_terminal() {
        log.with_ansi(std::env::var_os("NO_COLOR").is_none()).try_init()
    } else {
        log.json().flatten_event(true).with_span_list(false).try_init()
    };
    // Tests that drive this function share one process, where the first has set it.
    drop(started);
    let args = match cli.command {
        Command::Serve(args) => args,
        Command::Backup { data, to } => {
            return end(backup::backup(&data, &to));
        }
        Command::Version { json } => return version(json),
    };
    let settled = user::settle(args.user, &args.data, &arguments).map_err(ServeError::Usage);
    end(settled.and_then(|()| serve::serve(&args)))
}

fn end(outcome: Result<(), ServeError>) -> ExitCode {
    match outcome {
        Ok(()) => code(Exit::Ok),
        Err(error) => {
            // Nobody to tell is no reason to fail otherwise.
            drop(writeln!(io::stderr(), "runtimed-controller: {error}"));
            match error {
                ServeError::Usage(_) => code(Exit::Usage),
                ServeError::Aborted => code(Exit::Cancelled),
                ServeError::Failed(_) => code(Exit::Fault),
            }
        }
    }
}

fn version(json: bool) -> ExitCode {
    let (version, build) = (env!("CARGO_PKG_VERSION"), env!("RUNTIMED_BUILD_ID"));
    let mut out = io::stdout().lock();
    let written = if json {
        writeln!(out, "{}", serde_json::json!({ "version": version, "build": build }))
    } else {
        writeln!(out, "runtimed-controller {version} ({build})")
    };
    code(if written.is_ok() { Exit::Ok } else { Exit::Fault })
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit.code())
}
