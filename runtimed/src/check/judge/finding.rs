//! What there is to know or to do.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::check) enum Level {
    /// Good to know.
    Note,
    /// It works, and is weaker or other than was meant.
    Warning,
    /// The daemon would not start, every Run would be refused, or something is open that must not be.
    Error,
}

/// One thing to know or to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub(in crate::check) level: Level,
    /// Stable.
    pub(in crate::check) id: &'static str,
    pub(in crate::check) message: String,
    /// What to do.
    pub(in crate::check) hint: String,
}

impl Finding {
    pub(in crate::check) fn error(
        id: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { level: Level::Error, id, message: message.into(), hint: hint.into() }
    }

    pub(in crate::check) fn warning(
        id: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, id, message: message.into(), hint: hint.into() }
    }

    pub(in crate::check) fn note(
        id: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { level: Level::Note, id, message: message.into(), hint: hint.into() }
    }
}
