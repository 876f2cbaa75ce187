//! Colour, where a terminal shows it and nobody asked for none.

use std::fmt;
use std::io::IsTerminal;

/// Whether to colour, and how each word is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

/// What a text is, as a person should see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// As it is.
    Plain,
    /// A heading.
    Bold,
    /// Beside the point.
    Dim,
    /// As it should be.
    Good,
    /// To be looked at.
    Warn,
    /// Wrong.
    Bad,
}

impl Style {
    /// No colour.
    pub const PLAIN: Self = Self { colour: false };

    /// For a stream of the process: coloured when it is a terminal that can, and neither `NO_COLOR` (<https://no-color.org>)
    /// nor `TERM=dumb` says otherwise.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: stream.is_terminal() && !refused }
    }

    /// `text` in that ink.
    pub fn ink<T: fmt::Display>(self, ink: Ink, text: T) -> String {
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Good => "32",
            Ink::Warn => "33",
            Ink::Bad => "31",
            Ink::Plain => return text.to_string(),
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
