//! What docs/SECURITY.md says is enforced, and what is not: each line has its probes, and each attack its line.

use std::fs;
use std::path::Path;

use crate::program::{Kind, Probe, Programs};

#[test]
fn each_line_has_its_probes_and_each_attack_its_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SECURITY.md");
    let text = fs::read_to_string(path).expect("the document");
    let probes = Programs::compile().probes();
    assert!(probes.iter().filter(|probe| probe.kind == Kind::Attack).count() >= 150);
    assert_eq!(wrong(&text, &probes), Vec::<String>::new());
    // A line without a probe, a probe that is not there, and an attack without a line are found.
    for (from, to, found) in [
        ("`process-exists` |", "|", 2),
        ("`process-exists` |", "`process-exist` |", 2),
        ("`process-exists` |", "`process-*` |", 0),
        ("`ptrace-*`, ", "", 3),
    ] {
        assert!(text.contains(from), "{from}");
        assert_eq!(wrong(&text.replace(from, to), &probes).len(), found, "{to} in the place of {from}");
    }
}

/// Each sentence about these tables that is not true.
fn wrong(text: &str, probes: &[Probe]) -> Vec<String> {
    let lines: Vec<(&str, Vec<&str>)> =
        ["## What is enforced\n", "## What is not\n"].iter().flat_map(|title| lines(text, title)).collect();
    let silent = lines.iter().filter(|(line, names)| names.is_empty() && !line.contains("no probe: "));
    let mut wrong: Vec<String> = silent.map(|(line, _)| format!("nothing shows: {line}")).collect();
    let names: Vec<&str> = lines.iter().flat_map(|(_, names)| names).copied().collect();
    let unknown = names.iter().filter(|name| !probes.iter().any(|probe| is(name, probe)));
    wrong.extend(unknown.map(|name| format!("there is no probe {name}")));
    let attacks = probes.iter().filter(|probe| probe.kind == Kind::Attack);
    let unsaid = attacks.filter(|probe| !names.iter().any(|name| is(name, probe)));
    wrong.extend(unsaid.map(|probe| format!("no line names {}", probe.name)));
    wrong
}

/// The lines of the table under a title, each with the names in its last cell.
fn lines<'a>(text: &'a str, title: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let (_, section) = text.split_once(title).expect("the title");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|'));
    // Without the head and the rule below it.
    rows.skip(2)
        .map(|line| {
            let cell = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            (line, cell.split('`').skip(1).step_by(2).collect())
        })
        .collect()
}

/// Whether a name of the document is this probe's, or the beginning of it before an asterisk.
fn is(name: &str, probe: &Probe) -> bool {
    match name.strip_suffix('*') {
        Some(start) => probe.name.starts_with(start),
        None => probe.name == name,
    }
}
