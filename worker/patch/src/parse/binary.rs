//! `GIT binary patch`: compressed data in git's base 85.

use super::lines::Lines;
use crate::rule::Refusal;

/// A binary change, forwards, and the way back if it is there.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    pub(crate) forward: BinarySide,
    pub(crate) backward: Option<BinarySide>,
}

/// One direction of a binary change.
#[derive(Debug, Clone)]
pub(crate) struct BinarySide {
    pub(crate) data: BinaryData,
    /// Bytes after decompression.
    pub(crate) size: u64,
    /// zlib data, not yet decompressed.
    pub(crate) deflated: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryData {
    /// The new content.
    Literal,
    /// Instructions that make the new content from the old.
    Delta,
}

pub(super) fn read_binary(lines: &mut Lines<'_>) -> Result<Binary, Refusal> {
    lines.advance();
    let forward = read_side(lines)?.ok_or_else(|| lines.malformed("expected binary data"))?;
    let backward = read_side(lines)?;
    Ok(Binary { forward, backward })
}

fn read_side(lines: &mut Lines<'_>) -> Result<Option<BinarySide>, Refusal> {
    let (data, size) = if let Some(size) = lines.take(b"literal ") {
        (BinaryData::Literal, size)
    } else if let Some(size) = lines.take(b"delta ") {
        (BinaryData::Delta, size)
    } else {
        return Ok(None);
    };
    let size = std::str::from_utf8(size).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let size = size
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| lines.malformed("a size of binary data that is no number"))?;
    let mut deflated = Vec::new();
    loop {
        match lines.peek_whole() {
            Some(b"\n") => break,
            Some(line) if line.ends_with(b"\n") && decode_line(&line[..line.len() - 1], &mut deflated) => {
                lines.advance();
            }
            Some(_) => return Err(lines.malformed("binary data that is cut short or not well formed")),
            None => return Err(lines.malformed("binary data that is cut short")),
        }
    }
    lines.advance();
    Ok(Some(BinarySide { data, size, deflated }))
}

/// One line: a letter for 1 to 52 bytes, then five characters for every four of them.
fn decode_line(line: &[u8], out: &mut Vec<u8>) -> bool {
    let Some((&letter, text)) = line.split_first() else { return false };
    let mut left = match letter {
        b'A'..=b'Z' => usize::from(letter - b'A') + 1,
        b'a'..=b'z' => usize::from(letter - b'a') + 27,
        _ => return false,
    };
    if text.len() != left.div_ceil(4) * 5 {
        return false;
    }
    for group in text.chunks_exact(5) {
        let value = group.iter().try_fold(0_u64, |value, byte| Some(value * 85 + u64::from(digit(*byte)?)));
        let Some(value) = value.and_then(|value| u32::try_from(value).ok()) else { return false };
        let bytes = value.to_be_bytes();
        let take = left.min(4);
        out.extend_from_slice(&bytes[..take]);
        left -= take;
    }
    true
}

const DIGITS: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0_u8;
    while (value as usize) < DIGITS.len() {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

fn digit(byte: u8) -> Option<u8> {
    let value = VALUES[usize::from(byte)];
    (value != u8::MAX).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(line: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode_line(line, &mut out).then_some(out)
    }

    #[test]
    fn a_line_holds_as_many_bytes_as_its_letter_says() {
        assert_eq!(decode(b"A00000"), Some(vec![0]));
        assert_eq!(decode(b"D|NsC0"), Some(vec![0xff; 4]));
        for broken in [&b""[..], b"A", b"A0000", b"A000000", b"D|NsC1", b"A0000\"", b"100000", b"E00000"] {
            assert_eq!(decode(broken), None, "{broken:?}");
        }
    }
}
