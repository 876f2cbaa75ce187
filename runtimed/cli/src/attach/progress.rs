//! What a Run is at, on a terminal, while it has nothing to say itself.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtimed_api::run::Run;
use runtimed_api::run::status::Phase;

use crate::output::Output;
use crate::table::one_line;

/// A line that turns, on a terminal alone. It is hidden while the log is shown, which is progress enough.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(output: &Output) -> Self {
        if !output.live {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar }
    }

    /// The Run as it is now.
    pub(super) fn show(&self, run: &Run) {
        let Some(status) = &run.status else { return };
        let what = match (status.phase, &status.reason, status.step) {
            (Phase::Pending, Some(reason), _) => format!("Pending: {}", one_line(reason)),
            (phase, _, Some(step)) => format!("{phase}: {step}"),
            (phase, _, None) => phase.to_string(),
        };
        self.bar.set_message(what);
    }

    /// The log has something to say.
    pub(super) fn hide(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
