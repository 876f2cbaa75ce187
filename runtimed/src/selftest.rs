//! `runtimed selftest`: tries the forbidden things as a Run would, and says what held.
//!
//! One program makes every attempt twice: first as a child without a sandbox, which shows that the attempt is one; then as
//! the command of a Run of its own, through the same steps as any other Run. What was refused the second time held.

mod attempts;
mod report;
mod scene;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use clap::Args;
use runtimed_api::ids::BuildId;
use runtimed_api::log::Body;
use runtimed_api::run::status::AttemptResult;
use runtimed_sandbox::spawn::{Executable, Spawn};
use runtimed_sandbox::tree::Root;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Failure;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::isolation::Isolation;
use crate::upstream::Upstream;
use crate::{job, serve, session, slot, workers};
use scene::{Scene, Words};

pub use report::Report;

/// How it is shown.
#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// As one JSON object.
    #[arg(long)]
    json: bool,
    /// Started as root: drop to this uid first.
    #[arg(long, default_value_t = crate::args::UNPRIVILEGED)]
    user: u32,
    /// Make the attempts themselves, with these words.
    #[arg(long, hide = true)]
    probe: Option<String>,
}

/// Tests, prints, and returns the exit code: 0, or 1 if something did not hold.
///
/// # Errors
/// The test could not be made.
pub fn run(
    config: impl FnOnce() -> Result<Config, Failure>,
    build: BuildId,
    args: &SelftestArgs,
) -> Result<u8, Failure> {
    if let Some(words) = &args.probe {
        let words: Words = serde_json::from_str(words).map_err(Failure::usage)?;
        return print(&attempts::lines(&words)).map(|()| 0).map_err(Failure::fault);
    }
    let config = config()?;
    serve::start_log("error");
    let (runtime, isolation) = serve::become_daemon(args.user, &config)?;
    let report = runtime.block_on(test(&config, build, isolation.beside())).map_err(Failure::fault)?;
    let text = if args.json {
        serde_json::to_string(&report).map_err(Failure::fault)? + "\n"
    } else {
        report.table()
    };
    print(&text).map_err(Failure::fault)?;
    Ok(u8::from(!report.held))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("the report cannot be printed")
}

/// Makes every attempt twice, for a process that has given root up. Nothing is left behind.
///
/// # Errors
/// A Run cannot be made here at all.
pub async fn test(config: &Config, build: BuildId, isolation: Isolation) -> anyhow::Result<Report> {
    let workspace = Root::open(&config.roots.workspace)?;
    // A state of its own: the daemon's may be in use.
    let state = workspace.create()?;
    let scene = Scene::set(config, &workspace, state.path())?;
    let own = std::env::current_exe().context("the path of this program is not known")?;
    let words = serde_json::to_string(scene.words())?;
    let outside = outside(&own, &words)?;
    let config = of_the_test(config, &own, state.path())?;
    let command = [own.to_string_lossy().as_ref(), "selftest", "--probe", &words].map(str::to_owned);
    let given = job::given_command(&config, "selftest", command.into())?;
    let worker = workers::find(config.worker.path.as_deref())?;
    let upstream = Upstream::Given(Box::new(given));
    let (daemon, _none) = serve::daemon(config, build, (worker, isolation), upstream, scene.words().port)
        .await
        .map_err(|f| f.error)?;
    let (inside, result) = Box::pin(inside(daemon)).await?;
    scene.strike()?;
    state.remove()?;
    report::judge(&attempts::parse(&outside)?, &inside, &result)
}

/// The pod's configuration as far as it confines, and nothing of what it gives.
fn of_the_test(config: &Config, own: &std::path::Path, state: PathBuf) -> anyhow::Result<Config> {
    let mut config = config.clone();
    config.state.dir = Some(state);
    config.secrets.clear();
    config.defaults = runtimed_api::runtime::Defaults::default();
    let own = own.to_str().context("the path of this program is not text")?.to_owned();
    let mut read = config.run.read.take().unwrap_or_else(crate::attempt::image_directories);
    if !read.iter().any(|granted| std::path::Path::new(&own).starts_with(granted)) {
        read.push(own);
    }
    config.run.read = Some(read);
    Ok(config)
}

/// What the attempts come to without a sandbox.
fn outside(own: &std::path::Path, words: &str) -> anyhow::Result<String> {
    let program = Executable::open(own).context("this program cannot be opened")?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut child = Spawn::new(&program, ["runtimed", "selftest", "--probe", words]).fd(1, &write).spawn()?;
    drop(write);
    let mut said = String::new();
    std::fs::File::from(read).take(1 << 20).read_to_string(&mut said)?;
    child.wait()?;
    Ok(said)
}

/// What they come to in a Run, and how that ended.
async fn inside(daemon: Arc<Daemon>) -> anyhow::Result<(Vec<attempts::Line>, Arc<AttemptResult>)> {
    let (current, sessions) = watch::channel(None);
    let tails = TaskTracker::new();
    let mut essential = tokio::task::JoinSet::new();
    let kept = Arc::clone(&daemon);
    essential.spawn(async move { session::keep(&kept, String::new(), &current).await });
    let (sent, outbox) = (Arc::clone(&daemon), sessions.clone());
    essential.spawn(async move { sent.outbox.run(&sent, outbox).await });
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&said);
    let hear = move |body: Body<'_>| {
        if let Body::Text(_, text) = body {
            heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text);
        }
        Ok(())
    };
    let log = async { job::follow(daemon.attempts.first().await, hear).await };
    let slot = slot::run(Arc::clone(&daemon), sessions, CancellationToken::new(), tails.clone(), true);
    let (log, ()) = tokio::join!(log, slot);
    log.context("the log of the test cannot be read")?;
    tails.close();
    tails.wait().await;
    let result = daemon.ended.borrow().clone().ok_or_else(|| anyhow!("the test's Run left no result"))?;
    let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let said = String::from_utf8_lossy(&said).into_owned();
    if result.outcome.as_ref().is_none_or(|outcome| !outcome.verdict.is_success()) {
        let why = result.reason.clone().unwrap_or_else(|| said.lines().last().unwrap_or_default().to_owned());
        return Err(anyhow!("the test's Run ended as {:?}: {why}", result.end));
    }
    Ok((attempts::parse(&said)?, result))
}
