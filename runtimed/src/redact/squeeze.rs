//! A text without its white space: GNU `base64` breaks its lines after 76 digits, `od` and `xxd` put spaces between bytes.

/// What is left out: all bytes up to the space.
pub(super) fn is_blank(byte: u8) -> bool {
    byte <= b' '
}

/// Puts `text` without white space into `out`.
pub(super) fn squeeze(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.resize(text.len() + 8, 0);
    let (mut at, mut length) = (0, 0);
    while let Some(eight) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // All eight are written, and what is beyond the first blank is written over: a branch for each byte would cost more.
        out[length..length + 8].copy_from_slice(eight);
        let word = before_blank(u64::from_le_bytes(*eight));
        length += word;
        at += word + usize::from(word < 8);
    }
    for byte in &text[at..] {
        out[length] = *byte;
        length += usize::from(!is_blank(*byte));
    }
    out.truncate(length);
}

/// How many of eight bytes come before the first that is blank.
fn before_blank(eight: u64) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // A byte below 0x21 borrows from the bit above it. What borrows from the next byte as well is itself the first.
    let blanks = eight.wrapping_sub(ONES * 0x21) & !eight & HIGHS;
    usize::try_from(blanks.trailing_zeros() / 8).unwrap_or(8)
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
        fn what_is_left_is_what_is_not_blank(text: Vec<u8>) {
            let mut out = Vec::new();
            squeeze(&text, &mut out);
            let expected: Vec<u8> = text.iter().copied().filter(|byte| !is_blank(*byte)).collect();
            prop_assert_eq!(&out, &expected);
            let mut places = Places::new(&text);
            for (index, byte) in expected.iter().enumerate() {
                prop_assert_eq!(text[places.of(index)], *byte);
            }
            prop_assert_eq!(places.of(expected.len()), text.len());
        }
    }
}
