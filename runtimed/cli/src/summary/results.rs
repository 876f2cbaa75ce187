//! What a Run leaves: its patch, its artifacts, its outputs, its log.

use std::collections::BTreeMap;

use runtimed_api::ids::RunName;
use runtimed_api::manifest::Manifest;
use runtimed_api::run::status::{ArtifactSummary, LogSummary, Patch};

use crate::style::{Ink, Style};
use crate::table::{count, one_line, size};

/// Artifacts, outputs and skips that are listed one by one.
const LISTED: usize = 12;

pub(super) fn patch(patch: &Patch, name: Option<&RunName>, style: Style) -> Vec<String> {
    let mut lines = vec![format!(
        "{}, {} {}, {}",
        count(patch.files, "file"),
        style.ink(Ink::Good, format_args!("+{}", patch.insertions)),
        style.ink(Ink::Bad, format_args!("−{}", patch.deletions)),
        size(patch.size),
    )];
    match (&patch.withheld, &patch.digest) {
        (Some(refusal), _) => {
            lines.push(style.ink(Ink::Bad, format_args!("✗ withheld: {}", one_line(&refusal.to_string()))));
        }
        (None, Some(digest)) => {
            lines.push(style.ink(Ink::Dim, digest));
            lines.extend(name.map(|name| style.ink(Ink::Dim, format_args!("runtimectl patch get {name}"))));
        }
        (None, None) => {}
    }
    lines
}

pub(super) fn artifacts(summary: &ArtifactSummary, manifest: Option<&Manifest>, style: Style) -> Vec<String> {
    let skipped = if summary.skipped > 0 { format!(", {} skipped", summary.skipped) } else { String::new() };
    let mut lines = vec![format!("{}, {}{skipped}", count(summary.count, "file"), size(summary.bytes))];
    let Some(manifest) = manifest else { return lines };
    let shown = &manifest.files[..manifest.files.len().min(LISTED)];
    let width =
        shown.iter().map(|file| one_line(&file.path).chars().count()).max().unwrap_or_default().min(40);
    for file in shown {
        let masked = if file.redacted { style.ink(Ink::Warn, "  masked") } else { String::new() };
        let digest = style.ink(Ink::Dim, format_args!("sha256:{}…", &file.digest.hex()[..16]));
        lines.push(format!("{:<width$}  {:>9}  {digest}{masked}", one_line(&file.path), size(file.size)));
    }
    lines.extend(more(manifest.files.len(), style));
    for skipped in manifest.skipped.iter().take(LISTED) {
        let text = format!("▲ {} skipped: {}", one_line(&skipped.path), one_line(&skipped.reason));
        lines.push(style.ink(Ink::Warn, text));
    }
    lines.extend(more(manifest.skipped.len(), style));
    lines
}

pub(super) fn outputs(outputs: &BTreeMap<String, String>, style: Style) -> Vec<String> {
    let clip = |value: &str| {
        let line = one_line(value);
        if line.chars().count() > 60 { line.chars().take(59).chain(['…']).collect() } else { line }
    };
    let shown = outputs.iter().take(LISTED).map(|(key, value)| format!("{key}={}", clip(value)));
    shown.chain(more(outputs.len(), style)).collect()
}

pub(super) fn log(log: &LogSummary, style: Style) -> Vec<String> {
    if log.dropped == 0 {
        return Vec::new();
    }
    let text = format!("▲ {} of the log were dropped at its limit", size(log.dropped));
    vec![format!("{} kept", size(log.bytes)), style.ink(Ink::Warn, text)]
}

fn more(all: usize, style: Style) -> Option<String> {
    let rest = all.checked_sub(LISTED).filter(|rest| *rest > 0)?;
    Some(style.ink(Ink::Dim, format_args!("… and {rest} more")))
}
