//! The name of a staged file, which no path can hide in.

use std::fmt;
use std::str::FromStr;

/// The file name of a staged secret: 1 to 128 of `A-Z a-z 0-9 . _ -`, neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StagedName(String);

/// The text cannot be a staged secret's file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a staged file's name is 1 to 128 letters, digits, dots, dashes or underscores, and not . or ..")]
pub struct BadStagedName;

impl StagedName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StagedName {
    type Err = BadStagedName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let reserved = matches!(text, "." | "..") || text.starts_with(super::INCOMING);
        if text.is_empty() || text.len() > 128 || reserved || !text.bytes().all(plain) {
            return Err(BadStagedName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StagedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::StagedName;

    #[test]
    fn only_plain_components_are_names() {
        for good in ["token", ".npmrc", "a-b_c.d", &"x".repeat(128)] {
            assert!(good.parse::<StagedName>().is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "/a", "a b", "a\0", ".incoming-x", "\u{e4}", &"x".repeat(129)] {
            assert!(bad.parse::<StagedName>().is_err(), "{bad:?}");
        }
    }
}
