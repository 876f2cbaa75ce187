//! The outputs file: `KEY=VALUE` lines, and `KEY<<WORD` … `WORD` for values of several lines.

use std::collections::BTreeMap;

/// Keys in all.
const MAX_KEYS: usize = 64;
/// Bytes of a key.
const MAX_KEY: usize = 128;
/// Bytes of a value.
const MAX_VALUE: usize = 8 * 1024;
/// Bytes of the file, and so of all of them.
pub const MAX_BYTES: u64 = 64 * 1024;

/// The file as a whole is refused: half of a command's results could be taken for all of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputsError {
    /// Not text.
    #[error("outputs were refused: the file is not UTF-8")]
    NotText,
    /// A line without `=` and `<<`.
    #[error("outputs were refused: line {0} is neither KEY=VALUE nor KEY<<WORD")]
    Line(usize),
    /// A key's form.
    #[error("outputs were refused: the key of line {0} is not 1 to 128 letters, digits, '_', '-' and '.'")]
    Key(usize),
    /// A value's length.
    #[error("outputs were refused: the value of line {0} is longer than 8 KiB")]
    Value(usize),
    /// Too many.
    #[error("outputs were refused: more than 64 keys")]
    TooMany,
    /// A `<<` without its end.
    #[error("outputs were refused: the value that begins at line {0} has no end")]
    Unended(usize),
    /// Too large.
    #[error("outputs were refused: the file is larger than 64 KiB")]
    TooLarge,
}

/// Reads the outputs file. The last of several values of a key wins.
///
/// # Errors
/// See [`OutputsError`].
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, String>, OutputsError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(OutputsError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| OutputsError::NotText)?;
    let mut outputs = BTreeMap::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let (key, value) = match (line.find('='), line.find("<<")) {
            (equals, Some(here)) if equals.is_none_or(|equals| here < equals) => {
                let word = &line[here + 2..];
                let mut value: Vec<&str> = Vec::new();
                loop {
                    let (next, _) = lines.next().ok_or(OutputsError::Unended(number))?;
                    if next == word {
                        break;
                    }
                    value.push(next);
                }
                (&line[..here], value.join("\n"))
            }
            (Some(equals), _) => (&line[..equals], line[equals + 1..].to_owned()),
            (None, _) => return Err(OutputsError::Line(number)),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(plain) {
            return Err(OutputsError::Key(number));
        }
        if value.len() > MAX_VALUE {
            return Err(OutputsError::Value(number));
        }
        outputs.insert(key.to_owned(), value);
        if outputs.len() > MAX_KEYS {
            return Err(OutputsError::TooMany);
        }
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_the_last_wins() {
        let outputs = parse(b"a=1\n\nb<<EOF\nx=y\n z\nEOF\na=2=3\nc=\n").expect("reads");
        let expected = [("a", "2=3"), ("b", "x=y\n z"), ("c", "")];
        assert_eq!(outputs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn what_is_over_a_bound_is_refused_with_the_reason() {
        let many: String = (0..65).map(|i| format!("k{i}=v\n")).collect();
        for (text, expected) in [
            (many, OutputsError::TooMany),
            (format!("{}=v", "k".repeat(129)), OutputsError::Key(1)),
            (format!("a=1\nk={}", "v".repeat(8193)), OutputsError::Value(2)),
            ("x".repeat(65 * 1024), OutputsError::TooLarge),
            ("novalue".to_owned(), OutputsError::Line(1)),
            ("a<<EOF\nx\n".to_owned(), OutputsError::Unended(1)),
            ("a b=c".to_owned(), OutputsError::Key(1)),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(expected));
        }
        assert_eq!(parse(b"a=\xff"), Err(OutputsError::NotText));
    }
}
