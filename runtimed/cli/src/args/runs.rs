//! The words of commands about Runs.

use std::path::PathBuf;

use clap::Args as Flags;
use jiff::Timestamp;
use runtimed_api::duration::Span;
use runtimed_api::ids::{RunName, RuntimeName, SecretName};
use runtimed_api::log::Stream;
use runtimed_api::run::status::Phase;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;

/// What a Run is made of: a file, flags over it, and a command.
#[derive(Debug, Clone, Default, Flags)]
pub struct Compose {
    /// The Run, YAML or JSON; `-` is standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The Run's name, instead of a generated one
    #[arg(long)]
    pub name: Option<RunName>,
    /// The Runtime: the pool that runs it
    #[arg(long)]
    pub runtime: Option<RuntimeName>,
    /// The source: a git repository
    #[arg(long, value_name = "URL")]
    pub git: Option<String>,
    /// Its branch, tag or commit id
    #[arg(long = "ref", value_name = "REF", requires = "git")]
    pub reference: Option<String>,
    /// The source: the work tree of the repository you are in, committed or not, without what is ignored
    #[arg(long, conflicts_with = "git")]
    pub here: bool,
    /// The source: an archive of yours (tar, tar.gz, tar.zst or zip), which is uploaded
    #[arg(long, value_name = "FILE", conflicts_with_all = ["git", "here"])]
    pub archive: Option<PathBuf>,
    /// Let the command read this Run's artifacts, in $RUNTIMED_INPUTS_DIR/RUN; may be given again
    #[arg(long, value_name = "RUN")]
    pub input: Vec<RunName>,
    /// Apply this patch on the source first: a file, or the Run that captured it; may be given again, in order
    #[arg(long, value_name = "FILE|RUN")]
    pub prior_patch: Vec<String>,
    /// Bring a secret for this Run alone; may be given again
    #[arg(long, value_name = "NAME=FILE", value_parser = secret)]
    pub secret: Vec<(SecretName, PathBuf)>,
    /// The command and its arguments; no shell is put in between
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `runtimectl local`.
#[derive(Debug, Flags)]
pub struct Local {
    /// The Run.
    #[command(flatten)]
    pub compose: Compose,
    /// Keep the Run's patch and artifacts in this directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Show what controller and daemon say
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// Started as root: the uid under which everything runs
    #[arg(long, value_name = "UID", default_value_t = 65532, value_parser = clap::value_parser!(u32).range(1..))]
    pub user: u32,
}

/// `runtimectl run`.
#[derive(Debug, Flags)]
pub struct Run {
    /// The Run.
    #[command(flatten)]
    pub compose: Compose,
    /// Print the Run's name and leave
    #[arg(long, short = 'd')]
    pub detach: bool,
}

/// `runtimectl rerun`.
#[derive(Debug, Flags)]
pub struct Rerun {
    /// The Run
    pub run: RunName,
    /// Start from what it changed: from the same commit, with its patch as the last prior patch
    #[arg(long)]
    pub on_top: bool,
    /// The new Run's name, instead of a generated one
    #[arg(long)]
    pub name: Option<RunName>,
    /// Bring a secret again, for the new Run alone; may be given again
    #[arg(long, value_name = "NAME=FILE", value_parser = secret)]
    pub secret: Vec<(SecretName, PathBuf)>,
    /// Print the new Run's name and leave
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// Another command, and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// A command about one Run.
#[derive(Debug, Flags)]
pub struct Get {
    /// The Run
    pub run: RunName,
}

/// A command about several Runs.
#[derive(Debug, Flags)]
pub struct Names {
    /// The Runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<RunName>,
}

/// `runtimectl list`.
#[derive(Debug, Flags)]
#[command(
    after_help = "Examples:\n  runtimectl list --phase Running\n  runtimectl list -l team=docs --limit 20 -o json"
)]
pub struct List {
    /// Those with this label; may be given again
    #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Those in this phase, such as Running or Failed
    #[arg(long, value_parser = phase)]
    pub phase: Option<Phase>,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// `runtimectl wait`.
#[derive(Debug, Flags)]
pub struct Wait {
    /// The Run
    pub run: RunName,
    /// Give up after this long, such as 10m; the exit code is then 124
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
}

/// `runtimectl logs`.
#[derive(Debug, Flags)]
#[command(
    after_help = "Examples:\n  runtimectl logs -f fix-typo\n  runtimectl logs fix-typo --stream stderr --tail 50\n  runtimectl logs fix-typo --since 10m --timestamps"
)]
pub struct Logs {
    /// The Run
    pub run: RunName,
    /// Go on until the Run is over, over attempts and lost connections
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Of this attempt (default: the newest)
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// From this offset on
    #[arg(long, value_name = "BYTES")]
    pub offset: Option<u64>,
    /// One of the two streams
    #[arg(long, value_name = "stdout|stderr", value_parser = stream)]
    pub stream: Option<Stream>,
    /// The last so many lines
    #[arg(long, value_name = "N")]
    pub tail: Option<u64>,
    /// What was written since then: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Timestamp>,
    /// Begin each line with its time
    #[arg(long)]
    pub timestamps: bool,
}

pub(super) const LOCAL_EXAMPLES: &str = "\
Examples:
  runtimectl local -- sh -c 'echo hello; exit 7'
  runtimectl local --git . --prior-patch fix.patch -- make test
  runtimectl local -f run.yaml --secret transaction=token.txt";

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  runtimectl run --runtime bash --git https://git.example/project.git --ref main -- make test
  runtimectl run --runtime bash --here --name fix -- make fix && runtimectl patch apply fix
  runtimectl run --runtime bash --archive release.tar.gz -- ./configure
  runtimectl run --runtime bash --input build-7xk2 -- sh -c '$RUNTIMED_INPUTS_DIR/build-7xk2/program --version'
  runtimectl run -f run.yaml --prior-patch plan-7xk2
  runtimectl run -f run.yaml --detach";

pub(super) const RERUN_EXAMPLES: &str = "\
Examples:
  runtimectl rerun fix-typo
  runtimectl rerun fix-typo --on-top -- make test";

fn secret(text: &str) -> Result<(SecretName, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write NAME=FILE")?;
    // What follows is not repeated: a value put there by mistake would be shown.
    let name = name.parse().map_err(|error: runtimed_api::ids::InvalidId| error.rule.to_owned())?;
    if file.is_empty() { Err("write NAME=FILE".to_owned()) } else { Ok((name, PathBuf::from(file))) }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A phase, in any case.
fn phase(text: &str) -> Result<Phase, String> {
    const ALL: [Phase; 10] = [
        Phase::Pending,
        Phase::Running,
        Phase::Finishing,
        Phase::Succeeded,
        Phase::Failed,
        Phase::TimedOut,
        Phase::Cancelled,
        Phase::Refused,
        Phase::Lost,
        Phase::Fault,
    ];
    ALL.into_iter()
        .find(|phase| phase.to_string().eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("write one of {}", ALL.map(|phase| phase.to_string()).join(", ")))
}

/// A time, or how long ago it was.
fn since(text: &str) -> Result<Timestamp, String> {
    let words = "write a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m";
    match text.parse::<Span>() {
        Ok(ago) => Timestamp::now().checked_sub(ago.get()).map_err(|_| words.to_owned()),
        Err(_) => text.parse().map_err(|_| words.to_owned()),
    }
}

fn stream(text: &str) -> Result<Stream, serde::de::value::Error> {
    Stream::deserialize(text.into_deserializer())
}
