//! Finding any of many needles in a text, all occurrences, overlapping ones too.
//!
//! Each needle has at least eight bytes, so that of the five groups of four bytes that begin in its first five bytes one
//! begins at a multiple of five of the text, wherever the needle is. Only there is looked: in a small table whether the
//! four bytes are of a needle at all, and only then which. So what is no secret is passed over five bytes at a time, and more
//! of them where all needles are longer.
//!
//! Through white space it is the same: of an occurrence at most as many bytes that are not blank come before one of the places that
//! are looked at, and the four bytes there are the next four that are not blank.
//!
//! Needles that repeat themselves, in a text that does as well, could make that slow. The work is counted, and beyond a
//! bound an automaton takes over whose time does not depend on what it reads.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use aho_corasick::automaton::Automaton as _;
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};
use zeroize::Zeroizing;

use super::spaced::{self, Places, squeeze};

/// The shortest needle.
pub(super) const SHORTEST: usize = 8;
/// Bytes that are compared at once.
const GRAM: usize = 4;
/// Between two looks at most: with more, so much of each needle would be in the table that it told nothing.
const MAX_STEP: usize = 16;
/// Bits of the table's index: 32 KiB, which stay in the processor's first cache.
const BITS: u32 = 18;
/// Bytes that may be compared for each byte of text before the automaton takes over.
const WORK: usize = 16;
/// An automaton is built for so many bytes of needles times the lengths that they have: it tells at each place all that end there,
/// one of each length at most, and takes up to ten times as many bytes.
const MOST_BUILT: usize = 16 << 20;
/// So many needles are told that end at one place, the longest of them: what is shorter lies within.
const AT_ONE_PLACE: usize = 4;
/// So many occurrences are told one by one. Beyond them those that touch are one: there may be more of them than bytes of text.
const ONE_BY_ONE: usize = 4096;

/// Bytes to look for, and what to show in their place.
#[derive(Clone)]
pub(super) struct Needle {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) mask: Arc<[u8]>,
}

/// Needles, ready for searching.
pub(super) struct Set {
    needles: Vec<Needle>,
    /// Four bytes of a needle, which needle, and where in it.
    grams: Zeroizing<Vec<(u32, u32, u8)>>,
    /// Whether four bytes may be in `grams`.
    maybe: Vec<u64>,
    longest: usize,
    /// Bytes between two looks.
    step: usize,
    automaton: OnceLock<Option<NFA>>,
}

/// A needle that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) needle: usize,
}

impl Set {
    pub(super) fn new(needles: Vec<Needle>) -> Self {
        let shortest = needles.iter().map(|needle| needle.bytes.len()).min().unwrap_or(SHORTEST);
        let step = (shortest.max(SHORTEST) - GRAM + 1).min(MAX_STEP);
        let mut grams = Zeroizing::new(Vec::with_capacity(needles.len() * step));
        let mut maybe = vec![0; 1 << (BITS - 6)];
        for (index, needle) in (0_u32..).zip(&needles) {
            for at in 0..step {
                let gram = gram(&needle.bytes, at);
                let (word, bit) = slot(gram);
                maybe[word] |= bit;
                grams.push((gram, index, u8::try_from(at).unwrap_or(0)));
            }
        }
        grams.sort_unstable();
        let longest = needles.iter().map(|needle| needle.bytes.len()).max().unwrap_or(0);
        Self { needles, grams, maybe, longest, step, automaton: OnceLock::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.needles.len()
    }

    /// Bytes of the longest needle.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn mask(&self, hit: &Hit) -> &[u8] {
        &self.needles[hit.needle].mask
    }

    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        let mut found = Vec::new();
        self.find(text, &mut found);
        !found.is_empty()
    }

    /// Appends every occurrence, in the order of nothing.
    pub(super) fn find(&self, text: &[u8], found: &mut Vec<Hit>) {
        if self.needles.is_empty() || text.len() < SHORTEST {
            return;
        }
        let before = found.len();
        let mut work = text.len().saturating_mul(WORK);
        let last = text.len() - GRAM;
        let mut at = 0;
        while at <= last {
            let gram = gram(text, at);
            let (word, bit) = slot(gram);
            if self.maybe[word] & bit != 0 && !self.look(text, at, gram, &mut work, found) {
                found.truncate(before);
                return self.find_steadily(text, found);
            }
            at += self.step;
        }
    }

    /// Looks which needles have these four bytes where they are. Says whether the work is within its bound.
    fn look(&self, text: &[u8], at: usize, gram: u32, work: &mut usize, found: &mut Vec<Hit>) -> bool {
        for (_, index, within) in self.of(gram) {
            let needle = usize::try_from(*index).unwrap_or(0);
            let Some(start) = at.checked_sub(usize::from(*within)) else { continue };
            let bytes = &self.needles[needle].bytes;
            let Some(there) = text.get(start..start + bytes.len()) else { continue };
            // What is compared in vain ends at the first difference, and cannot be counted better from here.
            let Some(left) = work.checked_sub(SHORTEST.max(same(there, bytes))) else { return false };
            *work = left;
            if there == bytes.as_slice() {
                found.push(Hit { start, end: start + bytes.len(), needle });
            }
        }
        true
    }

    pub(super) fn is_in_spaced(&self, text: &[u8]) -> bool {
        let mut found = Vec::new();
        self.find_spaced(text, &mut found);
        !found.is_empty()
    }

    /// Appends every occurrence in the text without its white space, at its place in the text with it: in the order of
    /// nothing, and some more than once.
    pub(super) fn find_spaced(&self, text: &[u8], found: &mut Vec<Hit>) {
        if self.needles.is_empty() {
            return;
        }
        let before = found.len();
        let mut work = text.len().saturating_mul(WORK);
        let mut at = 0;
        while let Some((gram, from)) = spaced::four(text, at) {
            let (word, bit) = slot(gram);
            if self.maybe[word] & bit != 0 && !self.look_spaced(text, from, gram, &mut work, found) {
                found.truncate(before);
                return self.find_squeezed(text, found);
            }
            at = from + self.step;
        }
    }

    fn look_spaced(&self, text: &[u8], at: usize, gram: u32, work: &mut usize, found: &mut Vec<Hit>) -> bool {
        for (_, index, within) in self.of(gram) {
            let needle = usize::try_from(*index).unwrap_or(0);
            let bytes = &self.needles[needle].bytes;
            if let Some(place) = spaced::around(text, at, bytes, usize::from(*within), work) {
                found.push(Hit { start: place.start, end: place.end, needle });
            }
        }
        *work > 0
    }

    fn find_squeezed(&self, text: &[u8], found: &mut Vec<Hit>) {
        let (mut squeezed, mut hits) = (Vec::new(), Vec::new());
        for (begin, part) in spaced::parts(text) {
            squeeze(part, &mut squeezed);
            self.find_steadily(&squeezed, &mut hits);
            // Places are translated in their order.
            let (mut starts, mut ends) = (Places::new(part), Places::new(part));
            hits.sort_by_key(|hit| hit.start);
            hits.iter_mut().for_each(|hit| hit.start = begin + starts.of(hit.start));
            hits.sort_by_key(|hit| hit.end);
            hits.iter_mut().for_each(|hit| hit.end = begin + ends.of(hit.end - 1) + 1);
            found.append(&mut hits);
        }
    }

    /// Like `find`, in a time that depends on the length of the text alone.
    fn find_steadily(&self, text: &[u8], found: &mut Vec<Hit>) {
        let automaton = self.automaton.get_or_init(|| {
            let patterns = self.needles.iter().map(|needle| needle.bytes.as_slice());
            let bytes: usize = patterns.clone().map(<[u8]>::len).sum();
            let lengths: BTreeSet<usize> = patterns.clone().map(<[u8]>::len).collect();
            let small = bytes.saturating_mul(lengths.len()) <= MOST_BUILT;
            small.then(|| NFA::builder().match_kind(MatchKind::Standard).build(patterns).ok()).flatten()
        });
        let begin = automaton
            .as_ref()
            .and_then(|automaton| Some((automaton, automaton.start_state(Anchored::No).ok()?)));
        let Some((automaton, mut state)) = begin else {
            // More needles than it takes: nothing of this text is shown.
            found.push(Hit { start: 0, end: text.len(), needle: 0 });
            return;
        };
        let before = found.len();
        for (end, byte) in (1..).zip(text) {
            state = automaton.next_state(Anchored::No, state, *byte);
            if !automaton.is_match(state) {
                continue;
            }
            for index in 0..automaton.match_len(state).min(AT_ONE_PLACE) {
                let needle = automaton.match_pattern(state, index);
                let start = end - automaton.pattern_len(needle);
                let mut hit = Hit { start, end, needle: needle.as_usize() };
                while found.len() > before + ONE_BY_ONE
                    && let Some(touched) = found.pop_if(|last| last.end >= hit.start)
                {
                    // The first of them names the mask.
                    if touched.start <= hit.start {
                        hit = Hit { end, ..touched };
                    }
                }
                found.push(hit);
            }
        }
    }

    /// The ends of `text` that are a proper beginning of a needle, longest first, until `enough` says so of one.
    pub(super) fn beginnings(&self, text: &[u8], mut enough: impl FnMut(usize) -> bool) {
        let mut work = (text.len() * WORK).max(1 << 16);
        for start in text.len().saturating_sub(self.longest.saturating_sub(1))..text.len() {
            let end = &text[start..];
            let begins = if end.len() < GRAM {
                self.needles.iter().any(|needle| needle.bytes.starts_with(end))
            } else {
                let gram = gram(end, 0);
                let (word, bit) = slot(gram);
                self.maybe[word] & bit != 0
                    && self.of(gram).iter().filter(|(_, _, within)| *within == 0).any(|(_, index, _)| {
                        let needle = &self.needles[usize::try_from(*index).unwrap_or(0)].bytes;
                        let compared = same(end, needle);
                        work = work.saturating_sub(SHORTEST.max(compared));
                        // Out of work: more is held back than need be, which shows nothing wrong.
                        work == 0 || (compared == end.len() && needle.len() > end.len())
                    })
            };
            if begins && enough(start) {
                return;
            }
        }
    }

    fn of(&self, gram: u32) -> &[(u32, u32, u8)] {
        let from = self.grams.partition_point(|(known, ..)| *known < gram);
        let count = self.grams[from..].iter().take_while(|(known, ..)| *known == gram).count();
        &self.grams[from..from + count]
    }
}

fn gram(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

/// Where in the table four bytes are.
fn slot(gram: u32) -> (usize, u64) {
    let hash = gram.wrapping_mul(0x9E37_79B1) >> (32 - BITS);
    (usize::try_from(hash >> 6).unwrap_or(0), 1 << (hash & 63))
}

/// How many bytes two texts have in common at their beginning, to a multiple of 64.
fn same(a: &[u8], b: &[u8]) -> usize {
    let length = a.len().min(b.len());
    if a[..length] == b[..length] {
        return length;
    }
    a.chunks(64).zip(b.chunks(64)).take_while(|(a, b)| a == b).count() * 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(needles: &[Vec<u8>]) -> Set {
        let needle =
            |bytes: &Vec<u8>| Needle { bytes: Zeroizing::new(bytes.clone()), mask: b"*".as_slice().into() };
        Set::new(needles.iter().map(needle).collect())
    }

    fn sorted(mut hits: Vec<Hit>) -> Vec<(usize, usize)> {
        hits.sort_by_key(|hit| (hit.start, hit.end));
        hits.into_iter().map(|hit| (hit.start, hit.end)).collect()
    }

    proptest! {
        #[test]
        fn it_finds_what_a_look_at_every_place_finds(
            needles in prop::collection::vec("[ab]{8,14}", 1..5), text in "[ab]{0,80}",
        ) {
            let needles: Vec<_> = needles.into_iter().map(String::into_bytes).collect();
            let (set, text) = (set(&needles), text.into_bytes());
            let mut expected = Vec::new();
            for start in 0..text.len() {
                for (needle, bytes) in needles.iter().enumerate() {
                    if text[start..].starts_with(bytes) {
                        expected.push(Hit { start, end: start + bytes.len(), needle });
                    }
                }
            }
            let (mut found, mut steadily, mut spaced) = (Vec::new(), Vec::new(), Vec::new());
            set.find(&text, &mut found);
            set.find_steadily(&text, &mut steadily);
            set.find_spaced(&text, &mut spaced);
            spaced.sort_by_key(|hit| (hit.start, hit.end, hit.needle));
            spaced.dedup();
            prop_assert_eq!(sorted(spaced), sorted(expected.clone()));
            prop_assert_eq!(sorted(found), sorted(expected.clone()));
            prop_assert_eq!(sorted(steadily), sorted(expected));
            let mut starts = Vec::new();
            set.beginnings(&text, |start| { starts.push(start); false });
            let begins = |start: &usize| needles.iter().any(|n| n.len() > text.len() - start && n.starts_with(&text[*start..]));
            prop_assert_eq!(starts, (0..text.len()).filter(begins).collect::<Vec<_>>());
        }
    }

    proptest! {
        /// White space anywhere, and much of it.
        #[test]
        fn it_finds_through_white_space_what_is_there_without(
            needles in prop::collection::vec("[ab]{8,24}", 1..5),
            parts in prop::collection::vec(("[ab]{0,9}", " {0,40}"), 0..30),
        ) {
            let needles: Vec<_> = needles.into_iter().map(String::into_bytes).collect();
            let set = set(&needles);
            let text: Vec<u8> = parts.iter().flat_map(|(word, blank)| [word.as_str(), blank]).collect::<String>().into_bytes();
            let places: Vec<usize> = (0..text.len()).filter(|place| text[*place] > b' ').collect();
            let squeezed: Vec<u8> = places.iter().map(|place| text[*place]).collect();
            let mut expected = Vec::new();
            for start in 0..squeezed.len() {
                for (needle, bytes) in needles.iter().enumerate() {
                    if squeezed[start..].starts_with(bytes) {
                        expected.push(Hit { start: places[start], end: places[start + bytes.len() - 1] + 1, needle });
                    }
                }
            }
            let (mut found, mut steadily) = (Vec::new(), Vec::new());
            set.find_spaced(&text, &mut found);
            set.find_squeezed(&text, &mut steadily);
            let unique = |mut hits: Vec<Hit>| {
                hits.sort_by_key(|hit| (hit.start, hit.end, hit.needle));
                hits.dedup();
                hits
            };
            let expected = unique(expected);
            prop_assert_eq!(unique(found), expected.clone());
            prop_assert_eq!(unique(steadily), expected);
        }
    }

    /// A key and a text that repeat themselves: the time does not grow with their product.
    #[test]
    fn what_repeats_itself_takes_no_longer_than_its_bound() {
        let mut key = vec![b'a'; 6000];
        let set = set(&[key.clone(), key[1..].to_vec()]);
        key.push(b'b');
        let text = [vec![b'a'; 10_000], key].concat();
        let began = std::time::Instant::now();
        let mut found = Vec::new();
        let whole =
            |found: &[Hit]| (found.iter().map(|hit| hit.start).min(), found.iter().map(|hit| hit.end).max());
        set.find(&text, &mut found);
        assert_eq!(whole(&found), (Some(0), Some(16_000)));
        set.beginnings(&text, |_| false);
        // And so it is with white space, of which there may be more than of anything else.
        let spaced: Vec<u8> = text.iter().flat_map(|byte| [*byte, b' ']).collect();
        found.clear();
        set.find_spaced(&spaced, &mut found);
        assert_eq!(whole(&found), (Some(0), Some(31_999)));
        let blank = [vec![b' '; 4_000_000], b"a".to_vec(), vec![0; 4_000_000]].concat();
        set.find_spaced(&blank, &mut found);
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
