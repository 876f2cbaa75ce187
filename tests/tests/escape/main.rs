//! The escape suite: what a hostile Run would try, outside of the sandbox and inside it, in each tier, on this machine and
//! in hardened pods.
//!
//! The attempts are small C functions in `tests/probes`, in one program. It is started three times over the same scene:
//! unconfined, by an unprivileged uid, where an attack has to succeed or it proves nothing; and as the command of Runs
//! through the real daemon, where it has to be refused.

mod attempts;
mod described;
mod jobs;
mod judge;
mod known;
mod place;
mod pods;
mod program;
mod scene;
mod table;
mod works;
