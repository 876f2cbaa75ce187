//! The name of a tree in its root, which nobody can guess.

use std::ffi::{CStr, CString};
use std::fmt;
use std::str::FromStr;

/// A tree's name in its root: 128 random bits as 32 lowercase hexadecimal digits.
///
/// It is unguessable, which is what keeps neighbours of the same uid from touching a tree by path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeName {
    name: CString,
}

/// The text is not 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tree's name is 32 lowercase hexadecimal digits")]
pub struct BadTreeName;

impl TreeName {
    /// A name that nobody can guess, from the kernel's random source.
    #[must_use]
    pub fn random() -> Self {
        let mut bits = [0_u8; 16];
        let mut filled = 0;
        while let Some(rest) = bits.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            // It blocks only before the machine has any entropy and can then be interrupted; so short counts are retried.
            filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
        }
        let hex: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { name: CString::new(hex).unwrap_or_default() }
    }

    /// The 32 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.name.to_str().unwrap_or_default()
    }

    /// A number that belongs to this name and does not give it away: what is started for the tree can bear it where others
    /// may read it ([`Rlimits::mark`](crate::policy::Rlimits::mark)).
    #[must_use]
    pub fn mark(&self) -> u64 {
        let half = |range| self.as_str().get(range).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let mixed = half(0..16).unwrap_or(0) ^ half(16..32).unwrap_or(0);
        // Below what means no limit, and beyond what anybody sets.
        (mixed >> 2) | 1 << 62
    }

    pub(crate) fn c_name(&self) -> &CStr {
        &self.name
    }
}

impl FromStr for TreeName {
    type Err = BadTreeName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(digit) {
            return Err(BadTreeName);
        }
        Ok(Self { name: CString::new(text).map_err(|_| BadTreeName)? })
    }
}

impl fmt::Display for TreeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TreeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::TreeName;

    #[test]
    fn random_names_differ_and_parse() {
        let (one, two) = (TreeName::random(), TreeName::random());
        assert_ne!(one, two);
        assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "..",
            "0123",
            &"g".repeat(32),
            &"A".repeat(32),
            &"0".repeat(33),
            "0123456789abcdef/123456789abcdef",
        ] {
            assert!(text.parse::<TreeName>().is_err(), "{text:?}");
        }
    }
}
