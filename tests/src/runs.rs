//! Runs as tests write them.

use runtimed_api::parse;
use runtimed_api::run::Run;

/// A Run of this name that executes a shell line; `extra` is YAML of the spec.
///
/// # Panics
/// The YAML is no Run.
#[must_use]
pub fn shell(name: &str, line: &str, extra: &str) -> Run {
    let line = serde_json::to_string(line).expect("a string");
    let extra: String = extra.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "apiVersion: runtimed.dev/v1alpha1\nkind: Run\nmetadata: {{ name: {name} }}\nspec:\n  runtime: test\n  command: [sh, -c, {line}]\n{extra}"
    );
    read(&text)
}

/// A Run from its YAML.
///
/// # Panics
/// The YAML is no Run.
#[must_use]
pub fn read(text: &str) -> Run {
    parse::from(yaml_serde::Deserializer::from_str(text)).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}
