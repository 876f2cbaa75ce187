//! Starting and ending the processes of a test. Every one is ended by its own handle.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How much of what a server said is shown, in bytes.
const LAST: usize = 6000;

/// A command with nothing of this process's environment but what programs need to be found and to speak plainly.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "tests start the programs under test")]
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("LC_ALL", "C.UTF-8").env("NO_COLOR", "1");
    command
}

/// A server under test: killed when dropped, and what it said is kept for a failing test's message.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server whose standard input stays open for as long as this does.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("stderr is piped");
        let kept = Arc::clone(&said);
        thread::spawn(move || keep(stderr, &kept));
        Self { name: name.to_owned(), child, said }
    }

    /// The first line of its standard output.
    ///
    /// # Errors
    /// It ended without one; what it said instead.
    ///
    /// # Panics
    /// The line was taken before.
    pub fn first_line(&mut self) -> Result<String, String> {
        let mut stdout = BufReader::new(self.child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("stdout is read");
        // What else it prints must not fill the pipe.
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        if line.is_empty() {
            return Err(format!("{} ended before it was ready: {}", self.name, self.said()));
        }
        Ok(line)
    }

    /// What it has written to its standard output, once it has ended: at most what a pipe holds.
    ///
    /// # Panics
    /// It was taken before.
    pub fn printed(&mut self) -> String {
        let mut stdout = self.child.stdout.take().expect("stdout is piped");
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).expect("stdout is read");
        String::from_utf8(bytes).expect("it is UTF-8")
    }

    /// What it wrote to its standard error.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last of what it wrote there.
    #[must_use]
    pub fn said_last(&self) -> String {
        let said = self.said();
        let from = said.len().saturating_sub(LAST);
        said.get(from..).unwrap_or(&said).to_owned()
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap_or_default();
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// Never: it is a child of this process.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end: {}", self.name, self.said());
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if thread::panicking() {
            let tail = self.said_last();
            let name = &self.name;
            #[expect(clippy::print_stderr, reason = "a failing test shows what its servers said")]
            {
                eprintln!("--- {name} said:\n{tail}");
            }
        }
    }
}

fn keep(stderr: ChildStderr, said: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&line);
        said.push('\n');
    }
}
