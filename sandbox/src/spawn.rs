//! Starting processes: nothing but async-signal-safe work in the child, and every failure has a stage and an errno.
//!
//! A [`Spawn`] executes a program. [`fork_phase`] runs a function of this program in a child of its own, for a process
//! of one thread. Either can be confined first, and no step that fails ever leads to the program or the function.

mod child;
mod executable;
mod phase;
mod registry;
mod stage;

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

pub use self::child::{Child, Exited, Rusage, Status};
pub use self::executable::Executable;
pub use self::phase::fork_phase;
pub(crate) use self::registry::strays_of;
pub use self::stage::{SpawnError, Stage};
use crate::prepare::Prepared;
use crate::sys;

/// A program about to be started. The environment is empty and no descriptor is passed on unless it is given here.
#[derive(Debug)]
pub struct Spawn<'a> {
    executable: &'a Executable,
    argv: Vec<CString>,
    envp: Vec<CString>,
    directory: Option<CString>,
    descriptors: Vec<(RawFd, OwnedFd)>,
    confinement: Option<Prepared>,
    own_processes: bool,
    new_session: bool,
    death_signal: Option<Signal>,
    /// The first argument that could not be taken, told when the program is started.
    refused: Option<Errno>,
}

impl<'a> Spawn<'a> {
    /// Prepares `executable` with its arguments, `argv[0]` included.
    #[must_use]
    pub fn new<S: AsRef<OsStr>>(executable: &'a Executable, argv: impl IntoIterator<Item = S>) -> Self {
        let mut spawn = Self {
            executable,
            argv: Vec::new(),
            envp: Vec::new(),
            directory: None,
            descriptors: Vec::new(),
            confinement: None,
            own_processes: false,
            new_session: false,
            death_signal: None,
            refused: None,
        };
        spawn.argv = argv.into_iter().map(|argument| spawn.string(argument.as_ref())).collect();
        spawn
    }

    /// Adds one variable to the environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            self.refused = Some(Errno::INVAL);
        }
        let mut variable = name.to_owned();
        variable.push("=");
        variable.push(value);
        let variable = self.string(&variable);
        self.envp.push(variable);
        self
    }

    /// Adds variables to the environment.
    #[must_use]
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(self, variables: impl IntoIterator<Item = (N, V)>) -> Self {
        variables.into_iter().fold(self, |spawn, (name, value)| spawn.env(name, value))
    }

    /// Starts the program in this directory, which the child enters before it is confined.
    #[must_use]
    pub fn cwd(mut self, directory: &Path) -> Self {
        self.directory = Some(self.string(directory.as_os_str()));
        self
    }

    /// Gives the program `source` as descriptor `target`. Of 0, 1 and 2 those that are not given are `/dev/null`; all
    /// others are closed.
    #[must_use]
    pub fn fd(mut self, target: RawFd, source: impl AsFd) -> Self {
        // Duplicated now, so that the caller may close its own, and high enough that no target replaces a source.
        match rustix::io::fcntl_dupfd_cloexec(source, FIRST_SOURCE) {
            Ok(source) if (0..FIRST_SOURCE).contains(&target) => self.descriptors.push((target, source)),
            Ok(_) => self.refused = Some(Errno::BADF),
            Err(errno) => self.refused = Some(errno),
        }
        self
    }

    /// Confines the program.
    #[must_use]
    pub fn confine(mut self, prepared: Prepared) -> Self {
        self.confinement = Some(prepared);
        self
    }

    /// Makes the program the leader of a new session without a terminal; a wholly confined one always is.
    #[must_use]
    pub fn new_session(mut self, yes: bool) -> Self {
        self.new_session = yes;
        self
    }

    /// Makes the program the first process of a process namespace, in a user namespace of its own where it may make views
    /// for its children: see [`crate::process::settle`]. When it ends, the kernel ends everything below it.
    #[must_use]
    pub fn own_processes(mut self, yes: bool) -> Self {
        self.own_processes = yes;
        self
    }

    /// Sends the program this signal when the *thread* that starts it ends: for a process of one thread, or a thread
    /// that lives as long. The program's own children do not inherit it.
    #[must_use]
    pub fn death_signal(mut self, signal: Signal) -> Self {
        self.death_signal = Some(signal);
        self
    }

    /// Starts the program and returns once the kernel has begun to execute it.
    ///
    /// # Errors
    /// [`SpawnError`] with the stage that failed and its errno; the program has not run then.
    pub fn spawn(mut self) -> Result<Child, SpawnError> {
        if let Some(errno) = self.refused {
            return Err(SpawnError::new(Stage::Arguments, errno));
        }
        self.fill_standard_descriptors()?;
        self.descriptors.sort_by_key(|(target, _)| *target);
        let descriptors: Vec<_> =
            self.descriptors.iter().map(|(target, fd)| (*target, fd.as_raw_fd())).collect();
        if descriptors.windows(2).any(|pair| matches!(pair, [(one, _), (two, _)] if one == two)) {
            return Err(SpawnError::new(Stage::Arguments, Errno::EXIST));
        }
        let launch = sys::Launch {
            program: self.executable.program(),
            argv: &self.argv,
            envp: &self.envp,
            directory: self.directory.as_deref(),
            descriptors: &descriptors,
            own_processes: self.own_processes,
            // A confined program has one anyway, and a second `setsid` would fail.
            new_session: self.new_session
                && !self.confinement.as_ref().is_some_and(|own| own.steps().new_session),
            death_signal: self.death_signal,
            parent: rustix::process::getpid(),
            steps: self.confinement.as_ref().map(Prepared::steps),
        };
        registry::start(|| sys::launch(&launch)).map_err(|(stage, errno)| SpawnError { stage, errno })
    }

    fn fill_standard_descriptors(&mut self) -> Result<(), SpawnError> {
        for target in 0..=2 {
            if self.descriptors.iter().any(|(given, _)| *given == target) {
                continue;
            }
            let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            let high = null.and_then(|null| rustix::io::fcntl_dupfd_cloexec(null, FIRST_SOURCE));
            self.descriptors
                .push((target, high.map_err(|errno| SpawnError::new(Stage::Descriptors, errno))?));
        }
        Ok(())
    }

    fn string(&mut self, text: &OsStr) -> CString {
        CString::new(text.as_bytes()).unwrap_or_else(|_| {
            self.refused = Some(Errno::INVAL);
            CString::default()
        })
    }
}

/// Targets are below this number, sources at or above it.
pub(crate) const FIRST_SOURCE: RawFd = 64;
