//! The daemon's side of the link, as a test drives it: the real binary over a real socketpair, with real trees.

use std::collections::BTreeMap;
use std::io::{PipeReader, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtimed_api::enforcement::Profile;
use runtimed_api::link::frame::{decode, encode};
use runtimed_api::link::{
    Assign, Baseline, Capture, Captured, Confinement, Down, Exited, Fault, Hello, PriorPatch, Source, Start,
    Stop, Trees, Up, layout,
};
use runtimed_api::run::network::Network;
use runtimed_api::runtime::PatchPolicy;
use runtimed_sandbox::passing;
use runtimed_sandbox::spawn::{Child, Executable, Spawn, Status};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use tempfile::TempDir;

/// Longer than anything here takes, so that a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// One worker, and the attempt's trees.
pub(crate) struct Daemon {
    pub(crate) worker: Child,
    pub(crate) link: Option<UnixStream>,
    buffer: Vec<u8>,
    stdout: PipeReader,
    stderr: PipeReader,
    diagnostics: PipeReader,
    /// The timer that expires when the lease does; never, if no test sets it.
    pub(crate) hold: OwnedFd,
    pub(crate) trees: Attempt,
}

/// The three trees of an attempt, each in a root of its own.
pub(crate) struct Attempt {
    _roots: TempDir,
    pub(crate) wire: Trees,
}

impl Attempt {
    pub(crate) fn new() -> Self {
        let roots = TempDir::new().unwrap();
        let tree = |root: &str| {
            let path = roots.path().join(root).join("0123456789abcdef");
            std::fs::create_dir_all(&path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let wire = Trees { tmp: tree("tmp"), home: tree("home"), workspace: tree("workspace"), whole: None };
        let made = [
            (&wire.tmp, layout::TMP),
            (&wire.tmp, layout::STAGED),
            (&wire.home, layout::HOME),
            (&wire.home, layout::OUTPUTS_DIR),
            (&wire.workspace, layout::WORKSPACE),
            (&wire.workspace, layout::ARTIFACTS),
            (&wire.workspace, layout::PRIVATE),
        ];
        for (tree, name) in made {
            std::fs::DirBuilder::new().mode(0o700).create(Path::new(tree).join(name)).unwrap();
        }
        Self { _roots: roots, wire }
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        Path::new(&self.wire.workspace).join(layout::WORKSPACE)
    }

    /// The names in the workspace, sorted, `.git` left out.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.workspace()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".git")
            .collect();
        names.sort();
        names
    }
}

/// Where the image's programs and libraries are.
pub(crate) fn image() -> Vec<String> {
    let places = ["/bin", "/sbin", "/usr", "/lib", "/lib64", "/etc"];
    places.iter().filter(|place| Path::new(place).is_dir()).map(|place| (*place).to_owned()).collect()
}

impl Daemon {
    /// Starts a worker, and greets it.
    pub(crate) fn new() -> Self {
        let mut daemon = Self::silent();
        daemon.greet();
        daemon
    }

    /// Greets the worker, and is greeted.
    pub(crate) fn greet(&mut self) {
        self.send(&Down::Hello(Hello { build: runtimed_worker::BUILD_ID.parse().unwrap() }));
        let Up::Hello(hello) = self.receive() else { panic!("instead of a Hello, something else") };
        assert_eq!(hello.build.as_str(), runtimed_worker::BUILD_ID);
    }

    /// Starts a worker.
    pub(crate) fn silent() -> Self {
        Self::with(Attempt::new())
    }

    /// Starts a worker for these trees.
    pub(crate) fn with(trees: Attempt) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stdout, stdout_end) = std::io::pipe().unwrap();
        let (stderr, stderr_end) = std::io::pipe().unwrap();
        let (diagnostics, diagnostics_end) = std::io::pipe().unwrap();
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let hold = timerfd_create(TimerfdClockId::Boottime, flags).unwrap();
        let executable = Executable::open(Path::new(env!("CARGO_BIN_EXE_runtimed-worker"))).unwrap();
        let worker = Spawn::new(&executable, ["runtimed-worker"])
            .fd(2, diagnostics_end)
            .fd(3, OwnedFd::from(theirs))
            .fd(4, stdout_end)
            .fd(5, stderr_end)
            .fd(6, &hold)
            .new_session(true)
            .spawn()
            .unwrap();
        Self { worker, link: Some(ours), buffer: Vec::new(), stdout, stderr, diagnostics, hold, trees }
    }

    pub(crate) fn send(&mut self, down: &Down) {
        self.send_with(down, &[]);
    }

    pub(crate) fn send_with(&mut self, down: &Down, descriptors: &[BorrowedFd<'_>]) {
        let bytes = encode(down).unwrap();
        let link = self.link.as_ref().unwrap();
        let sent = passing::send(link.as_fd(), &bytes, descriptors).unwrap();
        let mut rest = link;
        rest.write_all(&bytes[sent..]).unwrap();
    }

    /// The next frame; the test fails if the worker closes the link.
    pub(crate) fn receive(&mut self) -> Up {
        self.try_receive()
            .unwrap_or_else(|| panic!("the worker closed the link; it says: {}", self.diagnostics()))
    }

    /// The next frame, or `None` at the end of the link.
    pub(crate) fn try_receive(&mut self) -> Option<Up> {
        loop {
            if let Some(up) = decode(&mut self.buffer).unwrap() {
                return Some(up);
            }
            let mut chunk = [0; 65536];
            let count = self.link.as_ref().unwrap().read(&mut chunk).expect("the worker answers in time");
            if count == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    pub(crate) fn assignment(&self, source: Source) -> Assign {
        Assign {
            attempt: serde_json::from_value(serde_json::json!({
                "namespace": "default", "name": "test", "uid": "0-0", "attempt": 1, "fence": 1
            }))
            .unwrap(),
            trees: self.trees.wire.clone(),
            guard_pid: std::process::id(),
            source,
            patches: Vec::new(),
            patch_policy: PatchPolicy::default(),
            inputs: Vec::new(),
            confinement: Confinement {
                tier: runtimed_api::enforcement::Tier::Base,
                own_proc: false,
                given: false,
                protected: Vec::new(),
                profile: Profile::Strict,
                network: Network::default(),
                watch: false,
                read: image(),
                proc_files: Vec::new(),
                cpu_seconds: None,
                open_files: Some(1024),
                file_size: None,
            },
            ca_file: None,
            proxy: None,
            mirror: None,
            memory: Some(256 << 20),
        }
    }

    pub(crate) fn assign(&mut self, source: Source) {
        let assign = self.assignment(source);
        self.send(&Down::Assign(Box::new(assign)));
    }

    pub(crate) fn assign_patched(&mut self, source: Source, patches: Vec<PriorPatch>) {
        let assign = Assign { patches, ..self.assignment(source) };
        self.send(&Down::Assign(Box::new(assign)));
    }

    pub(crate) fn baseline(&mut self) -> Baseline {
        match self.receive() {
            Up::Baseline(baseline) => baseline,
            other => panic!("instead of a Baseline: {other:?}"),
        }
    }

    pub(crate) fn start_frame(command: &[&str]) -> Start {
        let env = BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]);
        Start {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            directory: String::new(),
            env,
            secret_env: false,
            staged: false,
        }
    }

    /// Starts a command, and gives its pid.
    pub(crate) fn start(&mut self, command: &[&str]) -> u32 {
        self.send(&Down::Start(Self::start_frame(command)));
        self.started()
    }

    pub(crate) fn started(&mut self) -> u32 {
        match self.receive() {
            Up::Enforced(enforced) => assert!(!enforced.enforcement.protections.is_empty()),
            other => panic!("instead of Enforced: {other:?}"),
        }
        match self.receive() {
            Up::Started(started) => started.pid,
            other => panic!("instead of Started: {other:?}"),
        }
    }

    pub(crate) fn exited(&mut self) -> Exited {
        match self.receive() {
            Up::Exited(exited) => exited,
            other => panic!("instead of Exited: {other:?}"),
        }
    }

    pub(crate) fn fault(&mut self) -> Fault {
        match self.receive() {
            Up::Fault(fault) => fault,
            other => panic!("instead of a Fault: {other:?}"),
        }
    }

    /// The ids of the rules of a refusal.
    pub(crate) fn refused(&mut self) -> Vec<String> {
        match self.receive() {
            Up::Refused(refused) => refused.refusals.iter().map(|refusal| refusal.rule.to_string()).collect(),
            other => panic!("instead of Refused: {other:?}"),
        }
    }

    pub(crate) fn stop(&mut self, grace_millis: u64) {
        self.send(&Down::Stop(Stop { grace_millis, limit: None }));
    }

    /// Asks for the Patch, and gives what is said of it and its bytes.
    pub(crate) fn capture(&mut self) -> (Captured, Vec<u8>) {
        self.capture_with(false)
    }

    /// The same, with or without what the Baseline ignores.
    pub(crate) fn capture_with(&mut self, include_ignored: bool) -> (Captured, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        let asked = Capture {
            max_bytes: 1 << 20,
            max_files: 1000,
            max_changed_bytes: 1 << 20,
            include_ignored,
            memory: Some(256 << 20),
            reveal: false,
        };
        self.send_with(&Down::Capture(asked), &[file.as_fd()]);
        let captured = match self.receive() {
            Up::Captured(captured) => captured,
            other => panic!("instead of Captured: {other:?}"),
        };
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        (captured, bytes)
    }

    /// Waits until the worker has closed the link and ended, and gives its exit code.
    pub(crate) fn exit_code(&mut self) -> i32 {
        if self.link.is_some() {
            assert!(self.try_receive().is_none(), "the worker says more than was expected");
        }
        match self.worker.wait().unwrap().status {
            Status::Exited(code) => code,
            Status::Signalled(signal) => panic!("signal {signal} ended the worker"),
        }
    }

    /// What the command wrote, once everything that could write is dead.
    pub(crate) fn stdout(&mut self) -> String {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        text
    }

    /// One line of what the command writes, while it runs.
    pub(crate) fn stdout_line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            self.stdout.read_exact(&mut byte).unwrap();
            if byte == *b"\n" {
                return String::from_utf8(line).unwrap();
            }
            line.push(byte[0]);
        }
    }

    pub(crate) fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn diagnostics(&mut self) -> String {
        let mut text = String::new();
        self.diagnostics.read_to_string(&mut text).unwrap();
        text
    }

    /// A whole Run of `command`: its end, its stdout, and what became of the workspace.
    pub(crate) fn complete(mut self, command: &[&str]) -> (Exited, String, Captured, Vec<u8>) {
        self.start(command);
        let exited = self.exited();
        let (captured, patch) = self.capture();
        assert_eq!(self.exit_code(), 0, "{}", self.diagnostics());
        (exited, self.stdout(), captured, patch)
    }
}

/// A sealed memory file with these bytes.
pub(crate) fn sealed(bytes: &[u8]) -> OwnedFd {
    passing::Sealed::new(bytes).unwrap()
}

/// The files beneath a directory that hold these bytes.
pub(crate) fn files_with(directory: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut pending = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if std::fs::read(&path).is_ok_and(|text| text.windows(bytes.len()).any(|it| it == bytes)) {
            found.push(path);
        }
    }
    found
}
