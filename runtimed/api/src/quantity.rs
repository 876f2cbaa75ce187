//! Sizes as a person writes them: `512`, `64Ki`, `2Gi`, `10M`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes, written as a whole number with an optional suffix of Kubernetes' quantities
/// (`Ki Mi Gi Ti`, powers of 1024; `k M G T`, powers of 1000).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^\d+(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
pub struct Bytes(pub u64);

/// A size that is not of the documented form, or does not fit 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size: write a whole number of bytes, with Ki, Mi, Gi or Ti if you like, such as 512Mi"
)]
pub struct InvalidBytes(String);

const SUFFIXES: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1000),
];

impl Bytes {
    /// So many times 1024² bytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, factor) in &SUFFIXES[..4] {
            if self.0 > 0 && self.0.is_multiple_of(*factor) {
                return write!(f, "{}{suffix}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Bytes {
    type Err = InvalidBytes;

    fn from_str(given: &str) -> Result<Self, InvalidBytes> {
        let invalid = || InvalidBytes(given.chars().take(40).collect());
        let (number, factor) = SUFFIXES
            .iter()
            .find_map(|(suffix, factor)| given.strip_suffix(suffix).map(|number| (number, *factor)))
            .unwrap_or((given, 1));
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(factor).map(Self).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Bytes {
    type Error = InvalidBytes;

    fn try_from(given: String) -> Result<Self, InvalidBytes> {
        given.parse()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_documented_form_is_read() {
        assert_eq!("2Gi".parse(), Ok(Bytes(2 << 30)));
        assert_eq!("10M".parse(), Ok(Bytes(10_000_000)));
        for bad in ["", "Gi", "1.5Gi", "+1", "-1", "1 Gi", "1GiB", "99999999999Ti"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(n: u64) {
            prop_assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
        }
    }
}
