//! What was seen, as tables.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use runtimed_tests::binaries;

use crate::judge::{OPEN, Seen};
use crate::known;
use crate::program::{Kind, Probe};

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
        Some(why) if outside != OPEN => format!("{outside}: {why}"),
        _ => outside,
    }
}

/// Without the reason, which depends on the machine.
fn short(result: &str) -> String {
    short_of(result).to_owned()
}

fn short_of(result: &str) -> &str {
    result.split(':').next().unwrap_or_default()
}

/// What a result is for a reader who compares tiers.
fn class(result: &str) -> &str {
    match short_of(result) {
        OPEN => OPEN,
        "cannot" => "cannot",
        _ => "refused",
    }
}

/// Only attacks that one tier refuses and another does not, or that base leaves open; with why.
fn differences(seen: &Seen, probes: &[Probe]) -> String {
    let tiers: Vec<&str> = seen.tiers.iter().map(|(tier, _)| *tier).collect();
    let mut text = format!("| probe | {} | why |\n|---|", tiers.join(" | "));
    text.push_str(&"---|".repeat(tiers.len() + 1));
    text.push('\n');
    for probe in probes.iter().filter(|probe| probe.kind == Kind::Attack) {
        let inside: Vec<String> = seen.tiers.iter().map(|(_, round)| Seen::of(round, probe)).collect();
        let classes: Vec<&str> = inside.iter().map(|result| class(result)).collect();
        if classes.iter().all(|class| *class != OPEN) {
            continue;
        }
        let own = tiers.iter().zip(&classes).filter(|(_, class)| **class == OPEN);
        let own = own.filter_map(|(tier, _)| known::its_own(tier, &probe.name)).next();
        let why = own
            .map(str::to_owned)
            .or_else(|| known::open(&probe.name).map(|protection| format!("`{protection}` is not active")));
        writeln!(text, "| `{}` | {} | {} |", probe.name, classes.join(" | "), why.unwrap_or_default())
            .expect("text");
    }
    text
}

const BEGIN: &str = "<!-- seen: begin -->\n";
const END: &str = "<!-- seen: end -->";

/// Holds the documents to what was seen, or with `UPDATE_PROBES=1` writes it there.
pub(crate) fn documented(seen: &Seen, probes: &[Probe]) -> Vec<String> {
    let update = std::env::var_os("UPDATE_PROBES").is_some();
    let mut wrong = Vec::new();
    for (name, table) in [("PROBES.md", whole(seen, probes)), ("SECURITY.md", differences(seen, probes))] {
        let path = docs().join(name);
        let text = fs::read_to_string(&path).expect("the document");
        let (before, rest) = text.split_once(BEGIN).expect("the place of the table");
        let (there, after) = rest.split_once(END).expect("its end");
        if update {
            fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
        } else if comparable(there) != comparable(&table) {
            wrong.push(format!(
                "docs/{name} differs from what was seen; look why, then run this with UPDATE_PROBES=1"
            ));
        }
    }
    wrong
}

/// The cells that the sandbox decides: what an attempt comes to outside depends on the machine.
fn comparable(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut rows: Vec<Vec<String>> = table.lines().map(cells).collect();
    let outside = rows.first().and_then(|head| head.iter().position(|cell| cell == "unconfined"));
    for row in &mut rows {
        if let Some(outside) = outside.filter(|column| *column < row.len()) {
            row.remove(outside);
        }
        for cell in row.iter_mut().skip(2) {
            // Which errno says no may depend on who asks; that it is no does not.
            if cell.starts_with(char::is_uppercase) && cell.chars().all(|c| c.is_ascii_uppercase()) {
                *cell = "refused".to_owned();
            }
        }
    }
    rows
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}
