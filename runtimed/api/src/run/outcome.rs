//! The command's verdict.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::LimitName;

/// The command's verdict, with side facts. It is fixed when the command has exited; what fails after that is a
/// fact beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// Processes that it left running, and that were killed.
    #[serde(default)]
    pub leaked: u32,
    /// CPU time of the whole tree that was reaped, in microseconds.
    #[serde(default)]
    pub cpu_micros: u64,
    /// The largest resident set of one of its processes, in bytes.
    #[serde(default)]
    pub max_rss: u64,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(into = "VerdictWire", try_from = "VerdictWire")]
#[schemars(with = "VerdictWire")]
pub enum Verdict {
    /// It exited with this code.
    Exited(u8),
    /// This signal ended it.
    Signalled(u8),
    /// It was ended for a limit, or could not begin within it.
    LimitExceeded(LimitName),
}

impl Verdict {
    /// It exited with 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }
}

/// How a verdict is written: one object whose fields are all plain.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Verdict")]
struct VerdictWire {
    /// Which of the three.
    kind: VerdictKind,
    /// With `Exited`: 0 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    /// With `Signalled`: 1 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    /// With `LimitExceeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<LimitName>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
enum VerdictKind {
    Exited,
    Signalled,
    LimitExceeded,
}

impl From<Verdict> for VerdictWire {
    fn from(verdict: Verdict) -> Self {
        let blank = |kind| Self { kind, code: None, signal: None, limit: None };
        match verdict {
            Verdict::Exited(code) => Self { code: Some(code), ..blank(VerdictKind::Exited) },
            Verdict::Signalled(signal) => Self { signal: Some(signal), ..blank(VerdictKind::Signalled) },
            Verdict::LimitExceeded(limit) => Self { limit: Some(limit), ..blank(VerdictKind::LimitExceeded) },
        }
    }
}

impl TryFrom<VerdictWire> for Verdict {
    type Error = &'static str;

    fn try_from(wire: VerdictWire) -> Result<Self, Self::Error> {
        match wire {
            VerdictWire { kind: VerdictKind::Exited, code: Some(code), signal: None, limit: None } => {
                Ok(Self::Exited(code))
            }
            VerdictWire { kind: VerdictKind::Signalled, code: None, signal: Some(signal), limit: None } => {
                Ok(Self::Signalled(signal))
            }
            VerdictWire {
                kind: VerdictKind::LimitExceeded,
                code: None,
                signal: None,
                limit: Some(limit),
            } => Ok(Self::LimitExceeded(limit)),
            _ => Err("a verdict has exactly the field of its kind: code, signal or limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_has_the_field_of_its_kind_alone() {
        let text = serde_json::to_string(&Verdict::Exited(7)).expect("serialises");
        assert_eq!(text, r#"{"kind":"Exited","code":7}"#);
        assert_eq!(serde_json::from_str::<Verdict>(&text).expect("reads"), Verdict::Exited(7));
        for bad in [r#"{"kind":"Exited"}"#, r#"{"kind":"Exited","code":7,"signal":9}"#, r#"{"kind":"X"}"#] {
            assert!(serde_json::from_str::<Verdict>(bad).is_err(), "{bad}");
        }
    }
}
