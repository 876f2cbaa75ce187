//! Time spent in each step, as bars.

use runtimed_api::run::step::StepTime;

use crate::style::{Ink, Style};
use crate::table::time;

/// The longest bar, in columns.
const LONGEST: u64 = 40;
/// An eighth of a column each.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// A line a step: its name, its time, and a bar. `waited` is the time in the queue, in microseconds.
pub(super) fn lines(waited: Option<u64>, steps: &[StepTime], style: Style) -> Vec<String> {
    let queue = waited.filter(|_| !steps.is_empty()).map(|micros| ("queue", micros));
    let all: Vec<_> =
        queue.into_iter().chain(steps.iter().map(|step| (step.step.as_str(), step.micros))).collect();
    let longest = all.iter().map(|(_, micros)| *micros).max().unwrap_or_default().max(1);
    let line = |&(name, micros): &(&str, u64)| {
        let took = time(micros);
        let bar = style.ink(Ink::Good, bar(micros, longest));
        format!("{name:<8} {took:>9}  {bar}")
    };
    all.iter().map(line).collect()
}

/// A bar of `micros` where `longest` has [`LONGEST`] columns.
fn bar(micros: u64, longest: u64) -> String {
    let eighths = u128::from(micros) * u128::from(LONGEST) * 8 / u128::from(longest);
    // Any time at all shows.
    let eighths = usize::try_from(eighths).unwrap_or_default().max(usize::from(micros > 0));
    let mut bar = "█".repeat(eighths / 8);
    if eighths % 8 > 0 {
        bar.push(EIGHTHS[eighths % 8]);
    }
    bar
}
