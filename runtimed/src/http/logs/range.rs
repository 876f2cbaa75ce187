//! `Range: bytes=…` (RFC 9110, section 14): one range; anything else is answered whole, as the standard allows.

use std::ops::Range;

/// The bytes of a `Range` header, within a text of `total` bytes; `None` when it is to be answered whole.
pub(super) fn parse(header: &str, total: u64) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last) {
        (Ok(first), "") => first..total,
        (Ok(first), last) => first..last.parse::<u64>().ok()?.saturating_add(1).min(total),
        // The last so many bytes.
        (Err(_), last) if first.is_empty() => total.saturating_sub(last.parse().ok()?)..total,
        (Err(_), _) => return None,
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn one_range_is_read_and_anything_else_is_the_whole() {
        assert_eq!(parse("bytes=0-3", 10), Some(0..4));
        assert_eq!(parse("bytes=4-", 10), Some(4..10));
        assert_eq!(parse("bytes=-3", 10), Some(7..10));
        assert_eq!(parse("bytes=8-99", 10), Some(8..10));
        for whole in ["bytes=10-", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=-", ""] {
            assert_eq!(parse(whole, 10), None, "{whole}");
        }
    }
}
