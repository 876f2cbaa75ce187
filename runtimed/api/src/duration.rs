//! Durations as a person writes them: `^\d+(ms|s|m|h)$`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration of whole milliseconds, written with one unit: `250ms`, `30s`, `5m`, `1h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^\d+(ms|s|m|h)$"))]
pub struct Span(Duration);

/// A duration that is not of the form `<number><ms|s|m|h>`, or is longer than ten years.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a whole number and one of ms, s, m, h, such as 90s")]
pub struct InvalidSpan(String);

/// Longer than anything sensible, and far from overflowing a clock.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl Span {
    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The span as a [`Duration`].
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            0 => f.write_str("0s"),
            _ if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ if millis.is_multiple_of(1000) => write!(f, "{}s", millis / 1000),
            _ => write!(f, "{millis}ms"),
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(given: &str) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan(given.chars().take(40).collect());
        let unit_at = given.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, unit) = given.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(invalid()),
        };
        let span = Duration::from_millis(number.checked_mul(factor).ok_or_else(invalid)?);
        if span > LONGEST { Err(invalid()) } else { Ok(Self(span)) }
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(given: String) -> Result<Self, InvalidSpan> {
        given.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_documented_form_is_read() {
        assert_eq!("90s".parse(), Ok(Span::from_secs(90)));
        for bad in ["", "1", "s", "1d", "1.5s", "-1s", "1 s", "1sm", "99999999999999999999s", "1000000h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(millis in 0_u64..1_000_000_000) {
            let span = Span::from_millis(millis);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
