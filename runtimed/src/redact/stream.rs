//! Masking a stream that arrives in pieces.
//!
//! Everything is let through at once but the one tail that may be the beginning of a secret: the longest end of the
//! text so far that is a proper beginning of something looked for. Matches are searched with overlaps, for the phrase
//! `tok-tok-SECRET` holds `tok-SECRET` where a search that restarts after a near miss does not see it.
//!
//! Encodings are looked for in the text without its white space as well. There a few digits at the end of a line may be
//! the beginning of a secret that goes on in the next one: as the last word of any line may be, and a person waits for
//! that line. So fewer than eight digits before white space are shown and remembered; if a secret goes on from there, the
//! rest of it is masked.
//!
//! What is held back is searched again with what comes then. So that who prints the beginning of a large secret, and then goes on
//! in small pieces, does not cost more with each of them, a large tail waits until enough has come that the search is worth it:
//! each byte is searched a bounded number of times. Who feeds a masker has it [`settle`](Masker::settle) when no more comes.

use super::needles::{Needles, Redactor};
use super::set::{Hit, SHORTEST};
use super::spaced::{self, Places, is_blank, squeeze};

/// So many bytes are searched again with each piece: it takes no longer than reading that from its pipe.
const SMALL: usize = 4096;
/// More of them are, once there is this part as much of new ones.
const WORTH: usize = 8;

/// Masks one stream.
#[derive(Debug)]
pub struct Masker {
    redactor: Redactor,
    /// The tail that may be the beginning of a secret, and what came since that was not looked at.
    carry: Vec<u8>,
    /// How much of it was searched.
    searched: usize,
    /// How much of it is shown or masked already.
    done: usize,
    /// How much of that was masked.
    masked: usize,
    hits: u64,
    scratch: Scratch,
}

/// Memory that is used again for each piece.
#[derive(Debug, Default)]
struct Scratch {
    tail: Vec<u8>,
    found: Vec<Found>,
    hits: Vec<Hit>,
}

/// A needle in the text as it came.
#[derive(Debug)]
struct Found {
    start: usize,
    end: usize,
    /// Among the needles that are looked for through white space.
    spaced: bool,
    hit: Hit,
}

impl Masker {
    /// A masker at the beginning of a stream.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self {
            redactor,
            carry: Vec::new(),
            searched: 0,
            done: 0,
            masked: 0,
            hits: 0,
            scratch: Scratch::default(),
        }
    }

    /// Takes the next piece, and appends to `out` what may be shown.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(needles) = self.redactor.needles() else {
            out.extend_from_slice(piece);
            return;
        };
        if self.carry.is_empty() {
            let keep = self.advance(&needles, piece, false, out);
            self.carry.extend_from_slice(&piece[keep..]);
            self.searched = self.carry.len();
            return;
        }
        self.carry.extend_from_slice(piece);
        let new = self.carry.len() - self.searched;
        if self.searched <= SMALL || new >= self.searched / WORTH {
            self.settle(out);
        }
    }

    /// Whether something waits for more that may not have to: then it is settled when nothing comes for a while.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.searched < self.carry.len()
    }

    /// Appends to `out` whatever may be shown by now.
    pub fn settle(&mut self, out: &mut Vec<u8>) {
        let Some(needles) = self.redactor.needles() else { return };
        let mut text = std::mem::take(&mut self.carry);
        let keep = self.advance(&needles, &text, false, out);
        text.drain(..keep);
        text.shrink_to(SMALL.max(text.len()).saturating_mul(2));
        self.carry = text;
        self.searched = self.carry.len();
    }

    /// The stream is over: what was held back is no secret.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.carry);
        self.searched = 0;
        if let Some(needles) = self.redactor.needles() {
            self.advance(&needles, &text, true, out);
        }
    }

    /// How many secrets were masked so far.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Lets through what of `text` can be told, and says from where on it is to be kept.
    fn advance(&mut self, needles: &Needles, text: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
        let Scratch { tail, found, hits } = &mut self.scratch;
        let tail = if last { Tail::none(text) } else { Tail::of(needles, text, tail) };
        find(needles, text, hits, found);
        let (mut done, mut masked) = (self.done, self.masked);
        for one in found.iter() {
            if one.start >= tail.hold {
                // It lies in what is held back, and will be found again.
                break;
            }
            if one.end <= done {
                continue;
            }
            self.hits += 1;
            if one.start > done {
                out.extend_from_slice(&text[done..one.start]);
                done = one.start;
            }
            // One that begins inside or right at the end of another only makes its mask longer.
            if masked == 0 || masked < done || one.start > masked {
                let set = if one.spaced { &needles.spaced } else { &needles.raw };
                out.extend_from_slice(set.mask(&one.hit));
            }
            (done, masked) = (one.end, one.end);
        }
        if done < tail.hold {
            out.extend_from_slice(&text[done..tail.hold]);
            done = tail.hold;
        }
        let keep = tail.keep.min(done);
        self.done = done - keep;
        self.masked = masked.saturating_sub(keep);
        keep
    }
}

/// Every needle in `text`, by where it begins; of those that begin together the longest first, for it names the mask.
fn find(needles: &Needles, text: &[u8], hits: &mut Vec<Hit>, found: &mut Vec<Found>) {
    found.clear();
    hits.clear();
    let of = |spaced| move |hit: Hit| Found { start: hit.start, end: hit.end, spaced, hit };
    needles.raw.find(text, hits);
    found.extend(hits.drain(..).map(of(false)));
    needles.spaced.find_spaced(text, hits);
    found.extend(hits.drain(..).map(of(true)));
    found.sort_by_key(|one| (one.start, std::cmp::Reverse(one.end)));
}

/// What of a text is not done with.
struct Tail {
    /// From here on it is not shown yet.
    hold: usize,
    /// From here on it is remembered.
    keep: usize,
}

impl Tail {
    fn none(text: &[u8]) -> Self {
        Self { hold: text.len(), keep: text.len() }
    }

    fn of(needles: &Needles, text: &[u8], squeezed: &mut Vec<u8>) -> Self {
        let mut tail = Self::none(text);
        needles.raw.beginnings(text, |start| {
            tail = Self { hold: start, keep: start };
            true
        });
        // Digits that nothing blank follows are held back however few they are.
        let word = text.iter().rev().take_while(|byte| !is_blank(**byte)).count();
        let from = spaced::last(text, needles.spaced.longest());
        squeeze(&text[from..], squeezed);
        let mut places = Places::new(&text[from..]);
        needles.spaced.beginnings(squeezed, |start| {
            let digits = squeezed.len() - start;
            let held = digits >= SHORTEST || digits <= word;
            let place = from + places.of(start);
            tail.keep = tail.keep.min(place);
            if held {
                tail.hold = tail.hold.min(place);
            }
            held
        });
        tail
    }
}

#[cfg(test)]
mod tests;
