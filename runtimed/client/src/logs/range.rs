//! `Range: bytes=…` (RFC 9110, section 14): one range; anything else is answered whole, as the standard allows.

use std::ops::Range;

/// What a `Range` header means for a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: the header is none that is understood.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing that is there: 416.
    Beyond,
}

/// The bytes of a `Range` header, within a text of `total` bytes.
pub(crate) fn parse(header: &str, total: u64) -> Wanted {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|rest| rest.split_once('-')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..total,
        // The first byte is after the last one: such a header is to be ignored.
        (Some(first), Some(last)) if last < first => return Wanted::Whole,
        (Some(first), Some(last)) => first..last.saturating_add(1).min(total),
        // The last so many bytes.
        (None, Some(last)) if first.is_empty() => total.saturating_sub(last)..total,
        _ => return Wanted::Whole,
    };
    if range.start < range.end { Wanted::Part(range) } else { Wanted::Beyond }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_anything_else_is_the_whole() {
        assert_eq!(parse("bytes=0-3", 10), Wanted::Part(0..4));
        assert_eq!(parse("bytes=4-", 10), Wanted::Part(4..10));
        assert_eq!(parse("bytes=-3", 10), Wanted::Part(7..10));
        assert_eq!(parse("bytes=-30", 10), Wanted::Part(0..10));
        assert_eq!(parse("bytes=8-99", 10), Wanted::Part(8..10));
        for beyond in ["bytes=10-", "bytes=11-12", "bytes=-0"] {
            assert_eq!(parse(beyond, 10), Wanted::Beyond, "{beyond}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Beyond);
        for whole in ["bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=-", "bytes=+1-2", ""] {
            assert_eq!(parse(whole, 10), Wanted::Whole, "{whole}");
        }
    }
}
