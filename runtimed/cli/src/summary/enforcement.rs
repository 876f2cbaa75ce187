//! Each protection, its state and its mechanism, in few lines.

use runtimed_api::enforcement::{Enforcement, Protection, State};

use super::{INDENT, WIDTH, mark};
use crate::style::{Ink, Style};
use crate::table::{one_line, wrap};

/// Protections that hold are one paragraph, by mechanism; each other one has a line of its own, with the reason.
pub(super) fn lines(enforcement: &Enforcement, style: Style) -> Vec<String> {
    let (active, other): (Vec<_>, Vec<_>) =
        enforcement.protections.iter().partition(|protection| protection.state == State::Active);
    let words = format!("{:?} profile, {:?} tier", enforcement.profile, enforcement.tier).to_lowercase();
    let all = enforcement.protections.len();
    let mut lines = vec![format!("{words}: {} of {all} protections active", active.len())];
    lines.extend(marked(State::Active, &by_mechanism(&active), style));
    for protection in other {
        let state = serde_json::to_value(protection.state).ok();
        let state = state.as_ref().and_then(|state| state.as_str()).unwrap_or_default();
        let mechanism = match protection.mechanism.as_str() {
            "" | "none" => String::new(),
            mechanism => format!(" ({})", one_line(mechanism)),
        };
        let why = protection.why.as_ref().map(|why| format!(": {}", one_line(why))).unwrap_or_default();
        let text = format!("{} {state}{mechanism}{why}", one_line(&protection.name));
        lines.extend(marked(protection.state, &text, style));
    }
    lines
}

/// `a, b (x); c (y)`, mechanisms in the order of their first protection.
fn by_mechanism(protections: &[&Protection]) -> String {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for protection in protections {
        let name = one_line(&protection.name);
        match groups.iter_mut().find(|(mechanism, _)| *mechanism == protection.mechanism) {
            Some((_, names)) => names.push(name),
            None => groups.push((&protection.mechanism, vec![name])),
        }
    }
    let group =
        |(mechanism, names): &(&str, Vec<String>)| format!("{} ({})", names.join(", "), one_line(mechanism));
    groups.iter().map(group).collect::<Vec<_>>().join("; ")
}

/// Lines that fit, the first with the mark of the state.
fn marked(state: State, text: &str, style: Style) -> Vec<String> {
    let ink = if state == State::Active { Ink::Plain } else { Ink::Dim };
    let lines = wrap(text, WIDTH - INDENT - 2);
    let marks = std::iter::once(mark(state, style)).chain(std::iter::repeat(" ".to_owned()));
    lines.iter().zip(marks).map(|(line, mark)| format!("{mark} {}", style.ink(ink, line))).collect()
}
