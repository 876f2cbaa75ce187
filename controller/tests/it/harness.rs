//! One controller on a directory of its own, and those who speak to it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use runtimed_api::digest::Digest;
use runtimed_api::ids::{AttemptKey, Namespace, SessionId};
use runtimed_api::run::Run;
use runtimed_api::run::outcome::{Outcome, Verdict};
use runtimed_api::run::status::{AttemptEnd, AttemptResult, Phase, RunStatus};
use runtimed_api::session::{
    Held, Lease, OpenSession, Renew, Renewed, Report, ReportAnswer, ReportEvent, Reports, SecretText,
    Session, Submission,
};
use runtimed_client::controller::Controller;
use runtimed_client::{ClientError, Endpoint};
use tempfile::TempDir;

pub(crate) const ADMIN: &str = "admin-token";
pub(crate) const ALICE: &str = "alice-token";
pub(crate) const OBSERVER: &str = "observer-token";
pub(crate) const DAEMON: &str = "daemon-token";
pub(crate) const OTHER_DAEMON: &str = "other-daemon-token";

/// A controller's process and its directory.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
    pub(crate) url: String,
    child: Child,
    _stdout: BufReader<ChildStdout>,
    lease: &'static str,
    flags: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }
}

/// Two Runtimes, and tokens of four kinds.
pub(crate) fn prepare(dir: &Path) {
    let runtimes = dir.join("runtimes");
    std::fs::create_dir(&runtimes).expect("made");
    for name in ["bash", "other"] {
        let text = format!(
            "apiVersion: runtimed.dev/v1alpha1\nkind: Runtime\nmetadata: {{ name: {name} }}\n\
             spec: {{ namespaces: ['*'], ceiling: {{ limits: {{ timeout: 2h }} }} }}\n"
        );
        std::fs::write(runtimes.join(format!("{name}.yaml")), text).expect("written");
    }
    let person = |token: &str, subject: &str, namespaces: &str, role: &str| {
        let hash = Digest::of(token.as_bytes());
        format!(
            "[[people]]\nhash = \"{hash}\"\nsubject = \"{subject}\"\nnamespaces = [\"{namespaces}\"]\nrole = \"{role}\"\n"
        )
    };
    let daemon = |token: &str, runtime: &str| {
        format!("[[daemons]]\nhash = \"{}\"\nruntime = \"{runtime}\"\n", Digest::of(token.as_bytes()))
    };
    let tokens = [
        person(ADMIN, "admin", "*", "admin"),
        person(ALICE, "alice", "default", "submitter"),
        person(OBSERVER, "watcher", "default", "observer"),
        daemon(DAEMON, "bash"),
        daemon(OTHER_DAEMON, "other"),
    ];
    std::fs::write(dir.join("tokens.toml"), tokens.concat()).expect("written");
}

/// The controller's program, with its standard arguments.
#[expect(clippy::disallowed_methods, reason = "the test drives the real program")]
pub(crate) fn program(dir: &Path, lease: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runtimed-controller"));
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    // By the environment, so that a test's flags go over it.
    command
        .env_clear()
        .env("RUNTIMED_LOG", "warn")
        .env("RUNTIMED_CONTROLLER_LISTEN", "127.0.0.1:0")
        .env("RUNTIMED_CONTROLLER_LEASE", lease)
        .env("RUNTIMED_CONTROLLER_DATA", dir.join("data"))
        .env("RUNTIMED_CONTROLLER_TOKENS", dir.join("tokens.toml"))
        .env("RUNTIMED_CONTROLLER_RUNTIMES", dir.join("runtimes"))
        // Whoever runs the tests owns the directory: root stays root here.
        .env("RUNTIMED_CONTROLLER_USER", format!("{user}:{group}"))
        .arg("serve");
    command
}

/// The program, to copy a data directory.
#[expect(clippy::disallowed_methods, reason = "the test drives the real program")]
pub(crate) fn backup(data: &Path, to: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runtimed-controller"));
    command.env_clear().arg("backup").arg("--data").arg(data).arg("--to").arg(to);
    command
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with("15s")
    }

    pub(crate) fn start_with(lease: &'static str) -> Self {
        Self::start_fresh(lease, &[])
    }

    /// One with these flags more.
    pub(crate) fn start_flags(flags: &[&str]) -> Self {
        Self::start_fresh("15s", flags)
    }

    fn start_fresh(lease: &'static str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        prepare(dir.path());
        Self::start_in(dir, lease, flags)
    }

    /// One on a directory that was prepared.
    pub(crate) fn start_in(dir: TempDir, lease: &'static str, flags: &[&str]) -> Self {
        let mut command = program(dir.path(), lease);
        command.args(flags);
        let (child, stdout, url) = launch(command);
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self { dir, url, child, _stdout: stdout, lease, flags }
    }

    /// What a `GET` is answered: the status and the body.
    pub(crate) fn get(&self, path: &str, token: &str) -> (u16, String) {
        let address = self.url.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address).expect("connects");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("sent");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("answered");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        (status, body.to_owned())
    }

    /// One that speaks TLS, and the file of its certificate's authority.
    pub(crate) fn start_with_tls() -> (Self, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        prepare(dir.path());
        let [cert, key] = ["tls.crt", "tls.key"].map(|name| dir.path().join(name));
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        std::fs::write(&cert, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let mut command = program(dir.path(), "15s");
        command.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(&key);
        let (child, stdout, url) = launch(command);
        (Self { dir, url, child, _stdout: stdout, lease: "15s", flags: Vec::new() }, cert)
    }

    /// Kills it without a word, and starts another on the same directory.
    pub(crate) fn restart(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
        let mut command = program(self.dir.path(), self.lease);
        command.args(&self.flags);
        let (child, stdout, url) = launch(command);
        (self.child, self._stdout, self.url) = (child, stdout, url);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("reaped").code()
    }

    pub(crate) fn client(&self, token: &str) -> Controller {
        let client = Controller::new(&Endpoint::new(&self.url)).expect("a client");
        client.with_token(SecretText::new(token.to_owned()))
    }

    pub(crate) async fn daemon(&self, name: &str, slots: u32) -> Daemon {
        Daemon::connect(self.client(DAEMON), name, slots, None).await
    }

    /// A daemon of this name with another secret: a claim that everybody with the Runtime's token can make.
    pub(crate) async fn pretender(&self, name: &str) -> Daemon {
        let secret = Some(secret("another daemon"));
        Daemon::open(self.client(DAEMON), name, 1, None, secret).await
    }
}

fn launch(mut command: Command) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    let ready: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let url = ready["listening"].as_str().expect("a URL").to_owned();
    (child, stdout, url)
}

/// The daemon's side of the protocol.
pub(crate) struct Daemon {
    pub(crate) client: Controller,
    pub(crate) session: SessionId,
    pub(crate) opened: Session,
}

impl Daemon {
    /// The daemon of this name, which has the same secret in each of its lives.
    pub(crate) async fn connect(client: Controller, name: &str, slots: u32, address: Option<String>) -> Self {
        Self::open(client, name, slots, address, Some(secret(name))).await
    }

    async fn open(
        client: Controller,
        name: &str,
        slots: u32,
        address: Option<String>,
        instance: Option<SecretText>,
    ) -> Self {
        let daemon = name.parse().expect("a name");
        let open = OpenSession { daemon, slots, address, ..opening(instance) };
        let opened = client.open_session(&open).await.expect("a Session");
        Self { client, session: opened.id.clone(), opened }
    }

    /// Waits for a Run.
    pub(crate) async fn lease(&self) -> Lease {
        self.lease_within(Duration::from_secs(20)).await.expect("a lease")
    }

    /// Waits for a Run as a daemon does that is alive: it renews meanwhile.
    pub(crate) async fn lease_alive(&self) -> Lease {
        let alive = async {
            loop {
                self.renew(&[]).await;
            }
        };
        tokio::select! {
            lease = self.lease() => lease,
            () = alive => unreachable!("it renews for ever"),
        }
    }

    pub(crate) async fn lease_within(&self, wait: Duration) -> Option<Lease> {
        self.client.lease(&self.session, wait).await.expect("an answer")
    }

    pub(crate) async fn renew(&self, attempts: &[AttemptKey]) -> Renewed {
        self.renew_as_of(attempts, None, false).await
    }

    /// Renews with a list that is whole as of this time of the controller's clock.
    pub(crate) async fn renew_as_of(
        &self,
        attempts: &[AttemptKey],
        as_of_millis: Option<u64>,
        prompt: bool,
    ) -> Renewed {
        let held = |attempt: &AttemptKey| Held {
            attempt: attempt.clone(),
            stopping: false,
            step: None,
            last_output: None,
        };
        let attempts = attempts.iter().map(held).collect();
        let renew = Renew { attempts, unready: None, prompt, as_of_millis };
        self.client.renew(&self.session, &renew, Duration::from_secs(30)).await.expect("an answer")
    }

    pub(crate) async fn report(&self, reports: Vec<Report>) -> Vec<ReportAnswer> {
        self.try_report(reports).await.expect("an answer")
    }

    pub(crate) async fn try_report(&self, reports: Vec<Report>) -> Result<Vec<ReportAnswer>, ClientError> {
        self.client.report(&self.session, &Reports { reports }).await.map(|reported| reported.answers)
    }

    /// Reports that the command exited, and then that all is done.
    pub(crate) async fn complete(&self, lease: &Lease, code: u8) {
        let answers = self.report(vec![exited(lease, 1, code), finished(lease, 2, completed(code))]).await;
        assert!(answers.iter().all(|answer| matches!(answer, ReportAnswer::Applied)), "{answers:?}");
    }
}

/// What the daemon `d1` opens its Session with.
pub(crate) fn opening(instance: Option<SecretText>) -> OpenSession {
    OpenSession {
        daemon: "d1".parse().expect("a name"),
        instance,
        runtime: "bash".parse().expect("a name"),
        slots: 1,
        address: None,
        build: "test".parse().expect("a build"),
        capacity: runtimed_api::capacity::Capacity::default(),
    }
}

/// The secret of a daemon.
pub(crate) fn secret(name: &str) -> SecretText {
    SecretText::new(Digest::of(name.as_bytes()).hex())
}

pub(crate) fn exited(lease: &Lease, sequence: u64, code: u8) -> Report {
    report(lease, sequence, ReportEvent::Exited(outcome(code)))
}

pub(crate) fn finished(lease: &Lease, sequence: u64, result: AttemptResult) -> Report {
    report(lease, sequence, ReportEvent::Finished(Box::new(result)))
}

pub(crate) fn completed(code: u8) -> AttemptResult {
    AttemptResult { outcome: Some(outcome(code)), ..AttemptResult::bare(AttemptEnd::Completed) }
}

fn report(lease: &Lease, sequence: u64, event: ReportEvent) -> Report {
    Report { attempt: lease.attempt.clone(), sequence, at: Timestamp::now(), event }
}

fn outcome(code: u8) -> Outcome {
    Outcome { verdict: Verdict::Exited(code), leaked: 0, cpu_micros: 900, max_rss: 1 << 20 }
}

/// A Run of `true` with this name, and more of its spec.
pub(crate) fn run(name: &str, more: &str) -> Submission {
    let text = format!(
        r#"{{"apiVersion":"runtimed.dev/v1alpha1","kind":"Run","metadata":{{"name":"{name}"}},
            "spec":{{"runtime":"bash","command":["true"]{more}}}}}"#
    );
    let run: Run = serde_json::from_str(&text).expect("a Run");
    Submission { run, secrets: std::collections::BTreeMap::new() }
}

pub(crate) fn default() -> Namespace {
    "default".parse().expect("a namespace")
}

pub(crate) fn status(run: &Run) -> &RunStatus {
    run.status.as_ref().expect("a status")
}

pub(crate) fn phase(run: &Run) -> Phase {
    status(run).phase
}

/// Waits until the Run is in a terminal phase.
pub(crate) async fn until_over(client: &Controller, name: &str) -> Run {
    until(client, name, |run| phase(run).is_terminal()).await
}

/// Waits until `holds` of the Run.
pub(crate) async fn until(client: &Controller, name: &str, holds: impl Fn(&Run) -> bool) -> Run {
    use futures_util::StreamExt as _;
    let name = name.parse().expect("a name");
    let mut events = client.events(&default(), &name).await.expect("events");
    loop {
        let run = events.next().await.expect("it comes").expect("a Run");
        if holds(&run) {
            return run;
        }
    }
}
