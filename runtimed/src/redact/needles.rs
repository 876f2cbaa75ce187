//! What is looked for: each secret in the encodings that programs print by accident.

use std::collections::HashSet;
use std::sync::{Arc, RwLock};
use std::{fmt, io};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Shorter encodings and lines would mask half of a log.
const MIN_NEEDLE: usize = 8;

/// The secrets of one attempt. Values may be added at any time, and none is ever taken away.
#[derive(Clone, Default)]
pub struct Redactor {
    shared: Arc<RwLock<Shared>>,
}

#[derive(Default)]
struct Shared {
    known: Vec<Needle>,
    built: Option<Arc<Needles>>,
}

/// Bytes to look for, and what to show in their place.
type Needle = (Zeroizing<Vec<u8>>, Arc<[u8]>);

/// What to look for, ready for searching.
pub struct Needles {
    pub(super) automaton: AhoCorasick,
    pub(super) masks: Vec<Arc<[u8]>>,
    pub(super) patterns: Vec<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Needles({})", self.patterns.len())
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(…)")
    }
}

impl Redactor {
    /// Looks for each of these values from now on, and masks it as `***name***`. One automaton is built for all, which
    /// for large keys takes a while.
    ///
    /// # Errors
    /// The automaton cannot be built: there are more secrets than it takes.
    pub fn register(&self, secrets: &[(&str, &[u8])]) -> Result<(), aho_corasick::BuildError> {
        let mut shared = self.shared.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut seen: HashSet<Vec<u8>> = shared.known.iter().map(|(known, _)| known.to_vec()).collect();
        for (name, value) in secrets {
            let mask: Arc<[u8]> = format!("***{name}***").into_bytes().into();
            for needle in encodings(value) {
                if seen.insert(needle.to_vec()) {
                    shared.known.push((needle, Arc::clone(&mask)));
                }
            }
        }
        // The copies are wiped like the values.
        seen.into_iter().for_each(|copy| drop(Zeroizing::new(copy)));
        let (patterns, masks): (Vec<_>, Vec<_>) = shared.known.iter().cloned().unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .kind(Some(kind_for(patterns.iter().map(|pattern| pattern.len()).sum())))
            .build(patterns.iter().map(|pattern| pattern.as_slice()))?;
        shared.built = Some(Arc::new(Needles { automaton, masks, patterns }));
        Ok(())
    }

    /// What to look for now; `None` while there is nothing.
    #[must_use]
    pub fn needles(&self) -> Option<Arc<Needles>> {
        self.shared.read().unwrap_or_else(std::sync::PoisonError::into_inner).built.clone()
    }

    /// `bytes` with every secret masked.
    #[must_use]
    pub fn mask(&self, bytes: &[u8]) -> Vec<u8> {
        let mut masker = super::Masker::new(self.clone());
        let mut out = Vec::with_capacity(bytes.len());
        masker.push(bytes, &mut out);
        masker.finish(&mut out);
        out
    }

    /// `text` with every secret masked.
    #[must_use]
    pub fn mask_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask(text.as_bytes())).into_owned()
    }

    /// Whether a secret is in `bytes`.
    #[must_use]
    pub fn finds_in(&self, bytes: &[u8]) -> bool {
        self.needles().is_some_and(|needles| needles.automaton.is_match(bytes))
    }

    /// Whether a secret is in what is read, wherever its pieces end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn finds_in_stream(&self, bytes: impl io::Read) -> io::Result<bool> {
        let Some(needles) = self.needles() else { return Ok(false) };
        let first = needles.automaton.stream_find_iter(bytes).next();
        Ok(first.transpose()?.is_some())
    }
}

/// Which automaton for so many bytes of needles. The fast one takes up to a KiB of memory for each of them, so that a
/// 64 KiB key in all its forms would take hundreds of MiB.
fn kind_for(bytes: usize) -> AhoCorasickKind {
    if bytes <= 16 * 1024 { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA }
}

/// The forms in which a value is looked for.
fn encodings(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms: Vec<Zeroizing<Vec<u8>>> = vec![Zeroizing::new(value.to_vec())];
    let trimmed = value.trim_ascii();
    forms.push(Zeroizing::new(trimmed.to_vec()));
    // A key of many lines is printed line by line, with a prefix before each.
    forms.extend(value.split(|b| *b == b'\n').map(|line| Zeroizing::new(line.trim_ascii().to_vec())));
    for phase in 0..3 {
        forms.push(base64_interior(trimmed, phase, |bytes| STANDARD_NO_PAD.encode(bytes)));
        forms.push(base64_interior(trimmed, phase, |bytes| URL_SAFE_NO_PAD.encode(bytes)));
    }
    let hex = |upper: bool| -> Zeroizing<Vec<u8>> {
        let digits: &[u8; 16] = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
        let pair = |b: &u8| [digits[usize::from(b >> 4)], digits[usize::from(b & 15)]];
        Zeroizing::new(trimmed.iter().flat_map(pair).collect())
    };
    forms.extend([hex(false), hex(true)]);
    forms.extend([percent(trimmed, false), percent(trimmed, true)]);
    if let Ok(text) = std::str::from_utf8(trimmed)
        && let Ok(json) = serde_json::to_string(text)
    {
        let json = Zeroizing::new(json.into_bytes());
        forms.push(Zeroizing::new(json[1..json.len() - 1].to_vec()));
    }
    forms.retain(|form| form.len() >= MIN_NEEDLE);
    forms
}

/// The middle of the base64 of something that holds `value` after `phase` other bytes: the digits at either end also
/// depend on what stands around it.
fn base64_interior(value: &[u8], phase: usize, encode: impl Fn(&[u8]) -> String) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(vec![0; phase]);
    padded.extend_from_slice(value);
    let encoded = Zeroizing::new(encode(&padded).into_bytes());
    let first = (phase * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    Zeroizing::new(encoded.get(first..last).unwrap_or_default().to_vec())
}

/// What is not unreserved (RFC 3986) as `%XX`.
fn percent(value: &[u8], upper: bool) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::new());
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            let escaped = if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
            out.extend_from_slice(escaped.as_bytes());
        }
    }
    out
}
