//! The trace that a Run is a part of: W3C Trace Context, from the submitter's request to the command's environment.
//!
//! <https://www.w3.org/TR/trace-context/>: `traceparent` is `00-TRACE-PARENT-FLAGS` in lower-case hex. It is handed on as it came,
//! for nothing here makes spans of its own that a tracing system would know: the command is the submitter's child.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The header of a submission.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what tracing systems add.
pub const TRACESTATE: &str = "tracestate";
/// The longest `tracestate` that has to be handed on, in bytes; a longer one is left out.
const MAX_STATE: usize = 512;

/// Where in which trace the submitter was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceContext {
    /// `traceparent`.
    #[schemars(length(max = 55))]
    parent: String,
    /// `tracestate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    state: Option<String>,
}

impl TraceContext {
    /// The context of these two values. One that is not well formed is none: a trace that is broken fails nothing.
    #[must_use]
    pub fn read(parent: &str, state: Option<&str>) -> Option<Self> {
        let parent = parent.trim();
        let fields: Vec<&str> = parent.split('-').collect();
        let [version, trace, span, flags] = fields.as_slice() else { return None };
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let set = |text: &str| text.bytes().any(|byte| byte != b'0');
        let is_good =
            *version == "00" && hex(trace, 32) && set(trace) && hex(span, 16) && set(span) && hex(flags, 2);
        let printable = |text: &&str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let state = state.map(str::trim).filter(|text| !text.is_empty() && text.len() <= MAX_STATE);
        is_good.then(|| Self { parent: parent.to_owned(), state: state.filter(printable).map(str::to_owned) })
    }

    /// `traceparent`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// `tracestate`.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The trace's id: 32 digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.parent.split('-').nth(1).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_well_formed_is_handed_on() {
        let context = TraceContext::read(&format!(" {GOOD} "), Some("congo=t61rcWkgMzE")).expect("a context");
        assert_eq!((context.parent(), context.state()), (GOOD, Some("congo=t61rcWkgMzE")));
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        for state in ["", "a=\nb", &"a".repeat(513)] {
            assert_eq!(TraceContext::read(GOOD, Some(state)).expect("a context").state(), None, "{state:?}");
        }
    }

    #[test]
    fn what_is_not_is_none() {
        for bad in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0$",
        ] {
            assert_eq!(TraceContext::read(bad, None), None, "{bad:?}");
        }
    }
}
