//! A file system that fails: the calls of one thread that promise something to the disk are answered with EIO.
//!
//! The kernel's answer is changed by strace (its `inject`), so that what runs is the real server on a real file. Only
//! root may do that to a server, which is not dumpable.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::process::{Server, command};

/// The thread that owns a daemon's journal.
pub const JOURNAL: &str = "journal";
/// The thread that owns the connection which writes the controller's database.
pub const DATABASE: &str = "store-write";

/// How long strace may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// What fails, for as long as this lives.
#[derive(Debug)]
pub struct Failing {
    strace: Server,
}

impl Failing {
    /// From now on these calls of the thread of this name fail; all that matter if none is named.
    ///
    /// # Errors
    /// The process has no such thread, or ends meanwhile, or cannot be traced.
    pub fn of(process: Pid, thread: &str, calls: Option<&str>) -> Result<Self, String> {
        let thread = thread_of(process, thread).ok_or_else(|| format!("there is no thread {thread}"))?;
        let calls = calls.unwrap_or("fsync,fdatasync,pwrite64,ftruncate");
        let mut strace = command("strace");
        strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:error=EIO"), "-p", &thread]);
        let mut failing = Self { strace: Server::start("strace", &mut strace) };
        let deadline = Instant::now() + PATIENCE;
        while !is_traced(process, &thread) {
            if failing.strace.ended().is_some() || Instant::now() > deadline {
                return Err(format!("it cannot be traced: {}", failing.strace.said()));
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(failing)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // Asked to end it lets go of the thread first.
        self.strace.signal(Signal::INT);
        let deadline = Instant::now() + PATIENCE;
        while self.strace.ended().is_none() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Whether this process may have another's calls fail.
#[must_use]
pub fn may_fail() -> bool {
    rustix::process::geteuid().is_root()
}

fn thread_of(process: Pid, name: &str) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).ok()?;
    let of_name = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    tasks.flatten().find(of_name)?.file_name().into_string().ok()
}

fn is_traced(process: Pid, thread: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/task/{thread}/status", process.as_raw_nonzero()));
    status.unwrap_or_default().lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
}
