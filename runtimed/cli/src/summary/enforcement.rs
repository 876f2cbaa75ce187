//! Each protection, its state and its mechanism, in few lines.

use runtimed_api::enforcement::{Enforcement, Protection, State};

use super::{INDENT, WIDTH, mark};
use crate::style::{Ink, Style};
use crate::table::one_line;

/// Protections that hold are listed together by mechanism; each other one has a line of its own, with the reason.
pub(super) fn lines(enforcement: &Enforcement, style: Style) -> Vec<String> {
    let holds = |protection: &&Protection| protection.state == State::Active;
    let active = enforcement.protections.iter().filter(holds).count();
    let all = enforcement.protections.len();
    let words = format!("{:?} profile, {:?} tier", enforcement.profile, enforcement.tier).to_lowercase();
    let mut lines = vec![format!("{words}: {active} of {all} protections active")];

    let mut mechanisms: Vec<&str> = Vec::new();
    for protection in enforcement.protections.iter().filter(holds) {
        if !mechanisms.contains(&protection.mechanism.as_str()) {
            mechanisms.push(&protection.mechanism);
        }
    }
    for mechanism in mechanisms {
        let names = enforcement.protections.iter().filter(holds).filter(|p| p.mechanism == mechanism);
        let names: Vec<_> = names.map(|protection| one_line(&protection.name)).collect();
        let by = format!("({})", one_line(mechanism));
        for (index, line) in wrap(&names, &by).into_iter().enumerate() {
            let mark = if index == 0 { mark(State::Active, style) } else { " ".to_owned() };
            let line = line.replace(&by, &style.ink(Ink::Dim, &by));
            lines.push(format!("{mark} {line}"));
        }
    }
    for protection in enforcement.protections.iter().filter(|protection| !holds(protection)) {
        let state = serde_json::to_value(protection.state).ok();
        let state = state.as_ref().and_then(|state| state.as_str()).unwrap_or_default();
        let why = protection.why.as_ref().map(|why| format!(": {}", one_line(why))).unwrap_or_default();
        let by = style.ink(Ink::Dim, format_args!("({})", one_line(&protection.mechanism)));
        lines.push(format!(
            "{} {} {state} {by}{why}",
            mark(protection.state, style),
            one_line(&protection.name)
        ));
    }
    lines
}

/// `a, b, c (by)` in lines that fit.
fn wrap(names: &[String], by: &str) -> Vec<String> {
    let room = WIDTH - INDENT - 2;
    let mut lines = vec![String::new()];
    let last = names.len().saturating_sub(1);
    let words = names
        .iter()
        .enumerate()
        .map(|(index, name)| if index == last { name.clone() } else { format!("{name},") });
    for word in words.chain([by.to_owned()]) {
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + 1 + word.chars().count() > room {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
    }
    lines
}
