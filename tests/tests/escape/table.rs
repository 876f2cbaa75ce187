//! What was seen, as tables.

use std::fmt::Write as _;
use std::fs;

use runtimed_tests::binaries;

use crate::judge::Seen;
use crate::known;
use crate::program::Probe;

/// Writes the table of a place beside the binaries, and prints it for who asked to see output.
#[expect(clippy::print_stdout, reason = "the table is what the suite is for")]
pub(crate) fn show(seen: &Seen, probes: &[Probe]) {
    let text = whole(seen, probes);
    let dir = binaries::dir().join("escape");
    fs::create_dir_all(&dir).expect("made");
    fs::write(dir.join(format!("{}.md", seen.place)), &text).expect("written");
    println!("{text}");
}

/// Every probe, in every round.
pub(crate) fn whole(seen: &Seen, probes: &[Probe]) -> String {
    let tiers: Vec<&str> = seen.tiers.iter().map(|(tier, _)| *tier).collect();
    let mut text = format!("| probe | unconfined | {} | what is tried |\n|---|---|", tiers.join(" | "));
    text.push_str(&"---|".repeat(tiers.len() + 1));
    text.push('\n');
    let mut subject = "";
    for probe in probes {
        if probe.subject != subject {
            subject = &probe.subject;
            writeln!(text, "| **{subject}** | | {} |", "| ".repeat(tiers.len())).expect("text");
        }
        let outside = outside(seen, probe);
        let inside: Vec<String> =
            seen.tiers.iter().map(|(_, round)| short(&Seen::of(round, probe))).collect();
        writeln!(text, "| `{}` | {outside} | {} | {} |", probe.name, inside.join(" | "), probe.does)
            .expect("text");
    }
    text
}

fn outside(seen: &Seen, probe: &Probe) -> String {
    let outside = short(&Seen::of(&seen.unconfined, probe));
    match known::refused_to_everybody(&probe.name) {
        Some(why) if outside != crate::judge::OPEN => format!("{outside}: {why}"),
        _ => outside,
    }
}

/// Without the reason, which depends on the machine.
fn short(result: &str) -> String {
    result.split(':').next().unwrap_or_default().to_owned()
}
