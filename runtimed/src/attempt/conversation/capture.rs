//! The patch of step 11.

use std::os::fd::AsFd as _;
use std::time::Duration;

use runtimed_api::link::{Capture, Down, Up};
use runtimed_api::policy::Granted;
use runtimed_api::problem::{Code, Problem};

use super::Conversation;
use super::memory::{max_changed_bytes, phase_memory};
use crate::attempt::workspace::Workspace;
use crate::attempt::{Attempt, collect};

/// How long the capture may take.
const CAPTURE: Duration = Duration::from_secs(600);

impl Conversation {
    /// Has the worker write the patch into the spool.
    pub(super) async fn capture(
        &mut self,
        attempt: &mut Attempt,
        granted: &Granted,
        workspace: &Workspace,
    ) -> Result<(), Problem> {
        let file = collect::patch_file(attempt, workspace)?;
        let patches = &attempt.daemon.config.patches;
        let capture = Capture {
            max_bytes: patches.max_bytes.0,
            max_files: patches.max_files,
            max_changed_bytes: max_changed_bytes(granted.limits.memory),
            include_ignored: patches.include_ignored,
            memory: phase_memory(granted.limits.memory),
            reveal: attempt.redactor.needles().is_some(),
        };
        let failed = |why: String| Problem::new(Code::CaptureFailed, why);
        let frame = Down::Capture(capture);
        self.worker.link.send(&frame, Some(file.as_fd())).await.map_err(|error| failed(error.to_string()))?;
        let up = tokio::select! {
            up = tokio::time::timeout(CAPTURE, self.worker.link.receive()) => up,
            () = attempt.live.hurried() => return Err(failed("the daemon was shut down".to_owned())),
        };
        let up = up.map_err(|_| failed(format!("it took longer than {} s", CAPTURE.as_secs())))?;
        match up.map_err(|error| failed(error.to_string()))? {
            Some(Up::Captured(captured)) => {
                attempt.result.warnings.extend(captured.notes.into_iter().take(100));
                tokio::task::block_in_place(|| collect::patch(attempt, file, captured.patch))
            }
            Some(Up::Refused(refused)) => {
                let first = refused.refusals.first().map(ToString::to_string);
                Err(failed(first.unwrap_or_else(|| "it was refused".to_owned())))
            }
            Some(Up::Fault(fault)) => Err(fault.problem),
            Some(_) => Err(failed("the worker spoke out of turn".to_owned())),
            None => Err(failed("the worker ended".to_owned())),
        }
    }
}
