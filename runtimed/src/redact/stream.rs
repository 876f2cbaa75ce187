//! Masking a stream that arrives in pieces.
//!
//! Everything is let through at once but the one tail that may be the beginning of a secret: the longest end of the
//! text so far that is a proper beginning of something looked for. Matches are searched with overlaps, for the phrase
//! `tok-tok-SECRET` holds `tok-SECRET` where a search that restarts after a near miss does not see it.

use super::needles::{Needles, Redactor};

/// Masks one stream.
#[derive(Debug)]
pub struct Masker {
    redactor: Redactor,
    /// The tail that may be the beginning of a secret. Its first `covered` bytes are masked already.
    carry: Vec<u8>,
    covered: usize,
    hits: u64,
}

impl Masker {
    /// A masker at the beginning of a stream.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self { redactor, carry: Vec::new(), covered: 0, hits: 0 }
    }

    /// Takes the next piece, and appends to `out` what may be shown.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(needles) = self.redactor.needles() else {
            out.append(&mut self.carry);
            out.extend_from_slice(piece);
            return;
        };
        if self.carry.is_empty() {
            let keep = advance(&needles, piece, 0, false, out);
            self.retain(piece, keep);
        } else {
            let mut text = std::mem::take(&mut self.carry);
            text.extend_from_slice(piece);
            let keep = advance(&needles, &text, self.covered, false, out);
            self.retain(&text, keep);
        }
    }

    /// The stream is over: what was held back is no secret.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.carry);
        match self.redactor.needles() {
            Some(needles) => {
                self.hits += advance(&needles, &text, self.covered, true, out).hits;
            }
            None => out.extend_from_slice(&text),
        }
        self.covered = 0;
    }

    /// How many secrets were masked so far.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    fn retain(&mut self, text: &[u8], keep: Keep) {
        self.carry.clear();
        self.carry.extend_from_slice(&text[keep.from..]);
        self.covered = keep.covered;
        self.hits += keep.hits;
    }
}

/// What of a text is held back: from where, how much of that is masked already, and how many were masked.
struct Keep {
    from: usize,
    covered: usize,
    hits: u64,
}

/// Lets through what of `text` can be told. The first `done` bytes were let through or masked before.
fn advance(needles: &Needles, text: &[u8], mut done: usize, last: bool, out: &mut Vec<u8>) -> Keep {
    let from = if last { text.len() } else { text.len() - longest_beginning(needles, text) };
    let mut found: Vec<_> = needles.automaton.find_overlapping_iter(text).collect();
    // The longest of those that begin together names the mask.
    found.sort_by_key(|hit| (hit.start(), std::cmp::Reverse(hit.end())));
    let (mut masked_until, mut hits) = (0, 0);
    for hit in found {
        if hit.start() >= from {
            // It lies in what is held back, and will be found again.
            break;
        }
        if hit.end() > done {
            hits += 1;
            if hit.start() >= done {
                out.extend_from_slice(&text[done..hit.start()]);
                // One that begins inside or right at the end of another only makes its mask longer.
                if hit.start() > masked_until || masked_until == 0 {
                    out.extend_from_slice(&needles.masks[hit.pattern().as_usize()]);
                }
            }
            done = hit.end();
        }
        masked_until = masked_until.max(hit.end());
    }
    if done < from {
        out.extend_from_slice(&text[done..from]);
        done = from;
    }
    Keep { from, covered: done - from, hits }
}

/// The length of the longest end of `text` that is a proper beginning of something looked for.
fn longest_beginning(needles: &Needles, text: &[u8]) -> usize {
    let mut longest = 0;
    for pattern in &needles.patterns {
        let most = (pattern.len() - 1).min(text.len());
        for length in (longest + 1..=most).rev() {
            if pattern.starts_with(&text[text.len() - length..]) {
                longest = length;
                break;
            }
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masked(secret: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
        let redactor = Redactor::default();
        redactor.register(&[("x", secret)]).expect("registers");
        let mut masker = Masker::new(redactor);
        let mut out = Vec::new();
        for piece in pieces {
            masker.push(piece, &mut out);
        }
        masker.finish(&mut out);
        out
    }

    #[test]
    fn a_near_miss_before_a_secret_does_not_hide_it() {
        let secret = b"tok-tok-SECRET";
        assert_eq!(masked(secret, &[b"tok-", b"tok-tok-SECRET\n"]), b"tok-***x***\n");
        assert_eq!(masked(b"tok-SECRET", &[b"tok-tok-", b"SECRET!"]), b"tok-***x***!");
    }

    #[test]
    fn what_cannot_become_a_secret_is_shown_at_once() {
        let redactor = Redactor::default();
        redactor.register(&[("x", b"hunter22hunter22")]).expect("registers");
        let mut masker = Masker::new(redactor);
        let mut out = Vec::new();
        masker.push(b"password? hunt", &mut out);
        assert_eq!(out, b"password? ");
        masker.push(b"ing", &mut out);
        assert_eq!(out, b"password? hunting");
    }

    #[test]
    fn encodings_are_masked_too() {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let secret = b"s3cr3t/value+with=signs";
        for before in ["", "a", "ab", "abc"] {
            let text = STANDARD.encode([before.as_bytes(), secret, b"xyz"].concat());
            let out = masked(secret, &[text.as_bytes()]);
            let shown = String::from_utf8_lossy(&out);
            assert!(shown.contains("***x***"), "{before:?}: {shown}");
        }
        for text in ["733363723374", "s3cr3t%2Fvalue%2Bwith%3Dsigns"] {
            let whole = if text.starts_with('7') {
                secret.iter().map(|b| format!("{b:02x}")).collect::<String>()
            } else {
                text.to_owned()
            };
            assert_eq!(masked(secret, &[whole.as_bytes()]), b"***x***");
        }
    }

    #[test]
    fn a_large_key_is_found_whole_and_by_its_lines() {
        let line = |i: u32| format!("{i:08}-{}", "k".repeat(55));
        let key: Vec<u8> = (0..1000).map(line).collect::<Vec<_>>().join("\n").into_bytes();
        assert_eq!(masked(&key, &[b"<", &key[..40_000], &key[40_000..], b">"]), b"<***x***>");
        let one = format!("[{}]", line(7));
        assert_eq!(masked(&key, &[one.as_bytes()]), b"[***x***]");
    }

    proptest! {
        /// However the stream is split: no secret comes out, and what is no secret comes out as it was.
        #[test]
        fn every_split_is_the_same(
            secret in "[ab]{8,12}",
            parts in prop::collection::vec("[abc]{0,20}", 0..6),
            cut in 1_usize..7,
        ) {
            let text = parts.join(&secret);
            let whole = masked(secret.as_bytes(), &[text.as_bytes()]);
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            let split = masked(secret.as_bytes(), &pieces);
            prop_assert!(!String::from_utf8_lossy(&whole).contains(&secret));
            prop_assert!(!String::from_utf8_lossy(&split).contains(&secret));
            if !text.contains(&secret) {
                prop_assert_eq!(&whole, text.as_bytes());
                prop_assert_eq!(&split, text.as_bytes());
            }
            // The unmasked rest is the same, whatever the number of masks of what overlaps.
            let rest = |out: &[u8]| String::from_utf8_lossy(out).replace("***x***", "");
            prop_assert_eq!(rest(&whole), rest(&split));
        }
    }
}
