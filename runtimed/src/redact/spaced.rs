//! Looking through the white space of a text without taking it out: GNU `base64` breaks its lines after 76 digits, `od` and `xxd`
//! put spaces between bytes.

use std::ops::Range;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
/// The high bits of the first four bytes.
const FOUR: u64 = 0x8080_8080;

/// White space that is looked through between two bytes of an encoding. What is further apart is not one: else a command could
/// have the beginning of its secret remembered, and all the white space after it.
const MAX_GAP: usize = 256;

/// How many bytes so many digits may be spread over. Text of 32 bits a character has three bytes between two digits, a byte on each
/// line far from the margin has more; but who may have all of it filled with blanks has a hundred times as much held back as the
/// longest secret is.
pub(super) fn reach(digits: usize) -> usize {
    const BLANKS_TO_EACH: usize = 8;
    const ANY_WAY: usize = 4096;
    digits.saturating_mul(1 + BLANKS_TO_EACH).saturating_add(ANY_WAY)
}

/// What is looked through: all bytes up to the space.
pub(super) fn is_blank(byte: u8) -> bool {
    byte <= b' '
}

/// The four bytes at or after `at` that are not blank, and a place at or after `at` from which on they are the first four.
pub(super) fn four(text: &[u8], at: usize) -> Option<(u32, usize)> {
    if let Some(eight) = eight(text, at) {
        // Words are longer than a blank, so that most eights have one at most before their fifth byte. It is closed up
        // without a branch: whether there is one cannot be foretold.
        let blank = blanks(eight);
        let before = (blank & blank.wrapping_neg()).wrapping_shr(7).wrapping_sub(1);
        let closed = (eight & before) | ((eight >> 8) & !before);
        if blanks(closed) & FOUR == 0 {
            let [a, b, c, d, ..] = closed.to_le_bytes();
            return Some((u32::from_le_bytes([a, b, c, d]), at));
        }
    }
    let first = solid(text, at)?;
    let (mut four, mut next) = ([0; 4], first);
    for byte in &mut four {
        let place = solid(text, next)?;
        *byte = text[place];
        next = place + 1;
    }
    Some((u32::from_le_bytes(four), first))
}

/// Where `needle` is, if the byte of it that is at `within` is the first one at or after `at` that is not blank. What was looked
/// at is taken off `work`.
pub(super) fn around(
    text: &[u8],
    at: usize,
    needle: &[u8],
    within: usize,
    work: &mut usize,
) -> Option<Range<usize>> {
    let (before, after) = needle.split_at_checked(within)?;
    let first = solid(text, at)?;
    let (mut start, mut end) = (first, first);
    let forwards = after.iter().all(|wanted| match solid(&text[..text.len().min(end + MAX_GAP + 1)], end) {
        Some(place) if text[place] == *wanted => {
            end = place + 1;
            true
        }
        _ => false,
    });
    let whole = forwards
        && before.iter().rev().all(|wanted| {
            let near = start.saturating_sub(MAX_GAP + 1);
            match text[near..start].iter().rposition(|byte| !is_blank(*byte)) {
                Some(place) if text[near + place] == *wanted => {
                    start = near + place;
                    true
                }
                _ => false,
            }
        });
    *work = work.saturating_sub(end - start + 1);
    (whole && end - start <= reach(needle.len())).then_some(start..end)
}

/// From where on a text has `count` bytes that are not blank and belong together, or as many as there are at its end.
pub(super) fn last(text: &[u8], count: usize) -> usize {
    let mut from = text.len();
    let least = from.saturating_sub(reach(count));
    for _ in 0..count {
        let near = from.saturating_sub(MAX_GAP + 1).max(least);
        match text[near..from].iter().rposition(|byte| !is_blank(*byte)) {
            Some(place) => from = near + place,
            None => break,
        }
    }
    from
}

/// The parts of a text that are too far apart to belong together, and where each begins.
pub(super) fn parts(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = solid(text, at)?;
        at = begin + 1;
        while let Some(next) = solid(text, at).filter(|next| next - at <= MAX_GAP) {
            at = next + 1;
        }
        Some((begin, &text[begin..at]))
    })
}

/// The first place at or after `at` that is not blank.
fn solid(text: &[u8], mut at: usize) -> Option<usize> {
    while let Some(eight) = eight(text, at) {
        let solid = !blanks(eight) & HIGHS;
        if solid != 0 {
            return Some(at + usize::try_from(solid.trailing_zeros() / 8).unwrap_or(0));
        }
        at += 8;
    }
    let rest = text.get(at..)?;
    rest.iter().position(|byte| !is_blank(*byte)).map(|place| at + place)
}

fn eight(text: &[u8], at: usize) -> Option<u64> {
    text.get(at..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

/// The high bit of each byte that is blank. No byte borrows from the next: each has its high bit to lend.
fn blanks(eight: u64) -> u64 {
    let solid = (eight | HIGHS).wrapping_sub(ONES * 0x21) | eight;
    !solid & HIGHS
}

/// Puts `text` without white space into `out`.
pub(super) fn squeeze(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend(text.iter().copied().filter(|byte| !is_blank(*byte)));
}

/// Translates places of a squeezed text, in ascending order, into places of the text.
pub(super) struct Places<'a> {
    text: &'a [u8],
    squeezed: usize,
    at: usize,
}

impl<'a> Places<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, squeezed: 0, at: 0 }
    }

    /// Where the byte is that is the `squeezed`-th that is not blank.
    pub(super) fn of(&mut self, squeezed: usize) -> usize {
        if squeezed < self.squeezed {
            (self.squeezed, self.at) = (0, 0);
        }
        while self.at < self.text.len() {
            if !is_blank(self.text[self.at]) {
                if self.squeezed == squeezed {
                    break;
                }
                self.squeezed += 1;
            }
            self.at += 1;
        }
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_left_is_what_is_not_blank(text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'\n')], 0..60)) {
            let solid = |place: &usize| text[*place] > b' ';
            let places: Vec<usize> = (0..text.len()).filter(solid).collect();
            let expected: Vec<u8> = places.iter().map(|place| text[*place]).collect();
            let mut out = Vec::new();
            squeeze(&text, &mut out);
            prop_assert_eq!(&out, &expected);
            let mut translated = Places::new(&text);
            for (index, place) in places.iter().enumerate() {
                prop_assert_eq!(translated.of(index), *place);
            }
            prop_assert_eq!(translated.of(expected.len()), text.len());
            for count in 0..=places.len() {
                let from = last(&text, count);
                prop_assert_eq!(places.iter().filter(|place| **place >= from).count(), count);
            }
            for at in 0..text.len() {
                let first: Vec<usize> = places.iter().copied().filter(|place| *place >= at).take(4).collect();
                let Some((gram, from)) = four(&text, at) else {
                    prop_assert!(first.len() < 4);
                    continue;
                };
                let bytes: Vec<u8> = first.iter().map(|place| text[*place]).collect();
                prop_assert_eq!(gram.to_le_bytes().to_vec(), bytes);
                prop_assert!((at..=first[0]).contains(&from));
            }
        }
    }

    #[test]
    fn a_needle_is_found_around_any_of_its_bytes() {
        let (text, needle) = (b"xx a bc\n\n  def", b"abcd");
        for (within, at) in [(0, 3), (0, 2), (1, 4), (1, 5), (2, 6), (3, 7), (3, 11)] {
            assert_eq!(around(text, at, needle, within, &mut 99), Some(3..12), "{within} at {at}");
        }
        assert_eq!(around(text, 4, needle, 0, &mut 99), None);
        assert_eq!(around(text, 13, b"fg", 0, &mut 99), None);
        assert_eq!(around(text, 0, b"zx", 1, &mut 99), None);
    }

    #[test]
    fn what_is_far_apart_does_not_belong_together() {
        for (blank, together) in [(0, true), (MAX_GAP, true), (MAX_GAP + 1, false)] {
            let text = [b"  ab".as_slice(), &vec![0; blank], b"cd \n"].concat();
            let place = 2..6 + blank;
            for (within, at) in [(0, 2), (2, 4 + blank), (3, 5 + blank)] {
                let found = around(&text, at, b"abcd", within, &mut 9999);
                assert_eq!(found, together.then(|| place.clone()), "{blank} at {at}");
            }
            assert_eq!(last(&text, 9), if together { 2 } else { 4 + blank });
            let parts: Vec<_> = parts(&text).map(|(at, part)| at..at + part.len()).collect();
            let apart = vec![2..4, 4 + blank..6 + blank];
            assert_eq!(parts, if together { vec![place] } else { apart });
        }
        assert_eq!(last(&[b"abcd".as_slice(), &[b' '; MAX_GAP + 1]].concat(), 4), 4 + MAX_GAP + 1);
    }
}
