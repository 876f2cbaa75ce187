//! Where words go: results to standard output, everything else to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;
use crate::style::{Ink, Style};

/// The form of a result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One object, for programs.
    Json,
    /// The same in YAML.
    Yaml,
}

/// Where words go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// The form of a result.
    pub format: Format,
    /// How standard output is coloured.
    pub out: Style,
    /// How standard error is coloured.
    pub err: Style,
    /// Standard error is a terminal, so that progress can be shown.
    pub live: bool,
}

impl Output {
    /// For this process.
    #[must_use]
    pub fn of_process(format: Format) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        Self { format, out: Style::of(&out), err: Style::of(&err), live: err.is_terminal() }
    }

    /// Writes text to standard output.
    ///
    /// # Errors
    /// Nobody reads it, or it cannot be written.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes to standard output.
    ///
    /// # Errors
    /// As for [`Self::text`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Writes `object` in the form that was asked for; `table` makes the one for people.
    ///
    /// # Errors
    /// As for [`Self::text`].
    pub fn result<T: Serialize>(
        &self,
        object: &T,
        table: impl FnOnce(Style) -> String,
    ) -> Result<(), Failure> {
        let unwritable = |error: String| Failure::fault(format!("the result cannot be written: {error}"));
        let text = match self.format {
            Format::Table => table(self.out),
            Format::Json => {
                serde_json::to_string_pretty(object).map_err(|error| unwritable(error.to_string()))? + "\n"
            }
            Format::Yaml => yaml_serde::to_string(object).map_err(|error| unwritable(error.to_string()))?,
        };
        self.text(&text)
    }

    /// Tells a person something that is not the result.
    pub fn note(&self, word: &str, text: &str) {
        self.say(&format!("{} {text}\n", self.err.ink(Ink::Dim, format_args!("{word}:"))));
    }

    /// Tells what went wrong.
    pub fn failure(&self, failure: &Failure) {
        for (word, text) in failure.lines() {
            let ink = if word == "error" { Ink::Bad } else { Ink::Bold };
            self.say(&format!("{} {text}\n", self.err.ink(ink, format_args!("{word}:"))));
        }
    }

    /// Writes to standard error as it is.
    pub fn say(&self, text: &str) {
        say(text);
    }
}

/// Shows a line of a server's diagnostics.
pub fn diagnose(server: &str, line: &str) {
    say(&format!("{server}: {line}\n"));
}

fn say(text: &str) {
    // There is no third place to complain at.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
