//! Controller and daemon as children: started, watched, stopped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtimed_client::Endpoint;
use runtimed_client::controller::Controller;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::files::Files;
use super::home::Home;
use super::siblings::Siblings;
use crate::context::Environment;
use crate::failure::Failure;
use crate::spawn::start;
use crate::table::one_line;

/// How long the controller may take until it listens.
const START: Duration = Duration::from_secs(20);
/// How long a server may take for its end, before it is killed.
const STOP: Duration = Duration::from_secs(20);
/// Lines of a server's diagnostics that are kept for when it fails.
const KEPT: usize = 20;
/// The longest line that is looked at, in bytes.
const LINE: u64 = 16 * 1024;

/// Controller and daemon. Dropped, both are killed.
#[derive(Debug)]
pub(super) struct Servers {
    controller: Server,
    daemon: Server,
    url: String,
}

#[derive(Debug)]
struct Server {
    name: &'static str,
    child: Child,
    /// Held apart: a wait for the child would close it, and thereby end the child.
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<VecDeque<String>>>,
    listening: JoinHandle<()>,
}

/// The controller's one line.
#[derive(Debug, Deserialize)]
struct Listening {
    listening: String,
}

impl Servers {
    /// Starts the controller, and when it listens the daemon.
    pub(super) async fn start(
        siblings: &Siblings,
        home: &Home,
        files: &mut Files,
        verbose: bool,
    ) -> Result<Self, Failure> {
        let text = |path: &std::path::Path| path.display().to_string();
        let (data, tokens, runtimes) = (text(&files.data), text(&files.tokens), text(&files.runtimes));
        // Each gives up root itself, the daemon after it has opened its worker.
        let uid = home.owner().user().map(|user| user.to_string());
        let user: Vec<_> = uid.iter().flat_map(|uid| ["--user", uid]).collect();
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--data", &data, "--tokens", &tokens];
        arguments.extend(["--runtimes", &runtimes, "--until-stdin-closes"].iter().chain(&user));
        let mut controller = Server::of("controller", start(&siblings.controller, &arguments), verbose)?;
        let url = controller.url().await?;

        let config = text(&files.write_daemon(home, &url)?);
        let mut arguments = vec!["serve", "--config", &config, "--until-stdin-closes"];
        arguments.extend(&user);
        let daemon = Server::of("daemon", start(&siblings.daemon, &arguments), verbose)?;
        Ok(Self { controller, daemon, url })
    }

    /// The controller, spoken to with the person's token.
    pub(super) fn controller(&self, files: &Files) -> Result<Controller, Failure> {
        let controller = Controller::new(&Endpoint::new(&self.url))?.with_token(files.person.clone());
        Ok(match Environment::of_process().trace() {
            Some(trace) => controller.with_trace(trace),
            None => controller,
        })
    }

    /// Waits until one of them ends, which none should.
    pub(super) async fn one_ends(&mut self) -> Failure {
        tokio::select! {
            failure = self.controller.ends() => failure,
            failure = self.daemon.ends() => failure,
        }
    }

    /// Ends both, the daemon first: it may still have something to report.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        let daemon = self.daemon.stop().await;
        self.controller.stop().await.and(daemon)
    }
}

impl Server {
    fn of(name: &'static str, child: std::io::Result<Child>, verbose: bool) -> Result<Self, Failure> {
        let mut child =
            child.map_err(|error| Failure::fault(format!("the {name} cannot be started: {error}")))?;
        let said = Arc::default();
        let listening = tokio::spawn(listen(name, child.stderr.take(), Arc::clone(&said), verbose));
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, said, listening })
    }

    /// The address that the controller says.
    async fn url(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        if let Some(stdout) = self.child.stdout.take() {
            let mut stdout = BufReader::new(stdout.take(LINE));
            let read = timeout(START, stdout.read_until(b'\n', &mut line)).await;
            if read.is_err() {
                return Err(Failure::fault(format!(
                    "the {} does not listen within {} s",
                    self.name,
                    START.as_secs()
                )));
            }
        }
        if let Ok(said) = serde_json::from_slice::<Listening>(&line) {
            return Ok(said.listening);
        }
        // Most likely it has ended already; if it said something else and goes on, it is another program.
        drop(self.stdin.take());
        match timeout(STOP, self.ends()).await {
            Ok(failure) => Err(failure),
            Err(_) => Err(Failure::fault(format!("the {} does not say where it listens", self.name))),
        }
    }

    /// Waits for its end and tells why, as far as it said so.
    async fn ends(&mut self) -> Failure {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        self.heard().await;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // Its last word says why, unless it is advice that follows an error.
        let last = said.iter().rfind(|line| line.starts_with("error:")).or(said.back());
        Failure::fault(format!(
            "the {} ended ({how}): {}",
            self.name,
            last.map_or("without a word", |line| line)
        ))
        .hint("--verbose shows all that it said")
    }

    /// Waits for what it said last, which may still be on its way.
    async fn heard(&mut self) {
        if !self.listening.is_finished() {
            drop(timeout(Duration::from_secs(1), &mut self.listening).await);
        }
    }

    async fn stop(mut self) -> Result<(), Failure> {
        drop(self.stdin.take());
        let Ok(_ended) = timeout(STOP, self.child.wait()).await else {
            drop(self.child.kill().await);
            return Err(Failure::fault(format!(
                "the {} did not end within {} s and was killed",
                self.name,
                STOP.as_secs()
            )));
        };
        self.heard().await;
        Ok(())
    }
}

/// Keeps the last lines of a server's diagnostics, and shows them if asked.
async fn listen(
    name: &'static str,
    stderr: Option<impl AsyncRead + Unpin>,
    said: Arc<Mutex<VecDeque<String>>>,
    verbose: bool,
) {
    let Some(stderr) = stderr else { return };
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut stderr).take(LINE).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let line = one_line(String::from_utf8_lossy(&line).trim_end());
        if verbose {
            crate::output::diagnose(name, &line);
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_back(line);
        if said.len() > KEPT {
            said.pop_front();
        }
    }
}
