//! What is looked for: each secret in the encodings that programs print by accident.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::{fmt, io};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use runtimed_api::digest::Digest;
use zeroize::Zeroizing;

use super::set::{Needle, SHORTEST, Set};

/// Needles of all secrets of a Run.
const MAX_NEEDLES: usize = 1 << 20;

/// More secrets than can be masked together.
#[derive(Debug, thiserror::Error)]
#[error("there are more secrets than can be masked together")]
pub struct TooMany;

/// The secrets of one attempt. Values may be added at any time, and none is ever taken away.
#[derive(Clone, Default)]
pub struct Redactor {
    shared: Arc<RwLock<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Looked for as they are.
    raw: Vec<Needle>,
    /// Looked for through white space.
    spaced: Vec<Needle>,
    built: Option<Arc<Needles>>,
}

/// What to look for, ready for searching.
pub struct Needles {
    pub(super) raw: Set,
    pub(super) spaced: Set,
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Needles({})", self.raw.len() + self.spaced.len())
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(…)")
    }
}

impl Redactor {
    /// Looks for each of these values from now on, and masks it as `***name***`.
    ///
    /// # Errors
    /// There are more needles than can be counted.
    pub fn register(&self, secrets: &[(&str, &[u8])]) -> Result<(), TooMany> {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        let Shared { raw, spaced, built } = &mut *shared;
        for (name, value) in secrets {
            let mask: Arc<[u8]> = format!("***{name}***").into_bytes().into();
            add(raw, &mask, plain_forms(value));
            add(spaced, &mask, digit_forms(value.trim_ascii()));
        }
        if raw.len().max(spaced.len()) > MAX_NEEDLES {
            return Err(TooMany);
        }
        *built = Some(Arc::new(Needles { raw: Set::new(raw.clone()), spaced: Set::new(spaced.clone()) }));
        Ok(())
    }

    /// What to look for now; `None` while there is nothing.
    #[must_use]
    pub fn needles(&self) -> Option<Arc<Needles>> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).built.clone()
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
        self.needles().is_some_and(|needles| needles.raw.is_in(bytes) || needles.spaced.is_in_spaced(bytes))
    }

    /// Whether a secret is in what is read, wherever its pieces end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn finds_in_stream(&self, mut bytes: impl io::Read) -> io::Result<bool> {
        let (mut masker, mut piece, mut out) =
            (super::Masker::new(self.clone()), vec![0; 64 * 1024], Vec::new());
        while masker.hits() == 0 {
            let count = match bytes.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            masker.push(&piece[..count], &mut out);
            out.clear();
        }
        masker.finish(&mut out);
        Ok(masker.hits() > 0)
    }
}

/// Adds what is not there yet and is long enough: shorter lines and encodings would mask half of a log.
fn add(needles: &mut Vec<Needle>, mask: &Arc<[u8]>, forms: Vec<Zeroizing<Vec<u8>>>) {
    // By digest, so that no further copy of a value is in memory.
    let mut seen: HashSet<Digest> = needles.iter().map(|needle| Digest::of(&needle.bytes)).collect();
    for bytes in forms {
        if bytes.len() >= SHORTEST && seen.insert(Digest::of(&bytes)) {
            needles.push(Needle { bytes, mask: Arc::clone(mask) });
        }
    }
}

/// The forms of a value that are text like any other.
fn plain_forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms: Vec<Zeroizing<Vec<u8>>> = vec![Zeroizing::new(value.to_vec())];
    let trimmed = value.trim_ascii();
    forms.push(Zeroizing::new(trimmed.to_vec()));
    // A key of many lines is printed line by line, with a prefix before each.
    forms.extend(value.split(|b| *b == b'\n').map(|line| Zeroizing::new(line.trim_ascii().to_vec())));
    for (kept, space) in PERCENT {
        forms.extend([false, true].map(|upper| percent(trimmed, kept, space, upper)));
    }
    if let Ok(text) = std::str::from_utf8(trimmed) {
        forms.extend(JSON.map(|escaped| json(text, escaped)));
    }
    forms
}

/// What the programs that write `%XX` leave as it is beside letters, digits, `-`, `.` and `_`, and what they write for a space:
/// RFC 3986; Python's `quote`; JavaScript's `encodeURIComponent` and `encodeURI`; forms, as browsers and Java send them.
const PERCENT: [(&[u8], &str); 5] =
    [(b"~", "%20"), (b"~/", "%20"), (b"~!'()*", "%20"), (b"~!'()*;,/?:@&=+$#", "%20"), (b"*", "+")];

/// What the programs that write JSON escape beside what they must: nothing; Python what is not ASCII; PHP that and the slash; Go,
/// and Java's Gson, what HTML has a meaning for.
const JSON: [fn(char) -> bool; 5] = [
    |_| false,
    |c| !c.is_ascii(),
    |c| !c.is_ascii() || c == '/',
    |c| "<>&\u{2028}\u{2029}".contains(c),
    |c| "<>&='\u{2028}\u{2029}".contains(c),
];

/// The forms of a value that are digits of some base: programs break them into lines and groups as they like.
fn digit_forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = Vec::new();
    for phase in 0..3 {
        forms.push(base64_interior(value, phase, |bytes| STANDARD_NO_PAD.encode(bytes)));
        forms.push(base64_interior(value, phase, |bytes| URL_SAFE_NO_PAD.encode(bytes)));
    }
    let hex = |upper: bool| -> Zeroizing<Vec<u8>> {
        let digits: &[u8; 16] = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
        let pair = |b: &u8| [digits[usize::from(b >> 4)], digits[usize::from(b & 15)]];
        Zeroizing::new(value.iter().flat_map(pair).collect())
    };
    forms.extend([hex(false), hex(true)]);
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

/// What is not to be kept as `%XX`.
fn percent(value: &[u8], kept: &[u8], space: &str, upper: bool) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::new());
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._".contains(byte) || kept.contains(byte) {
            out.push(*byte);
        } else if *byte == b' ' {
            out.extend_from_slice(space.as_bytes());
        } else {
            let escaped = if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
            out.extend_from_slice(escaped.as_bytes());
        }
    }
    out
}

/// The inside of a JSON string (RFC 8259, section 7).
fn json(text: &str, escaped: impl Fn(char) -> bool) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::new());
    for c in text.chars() {
        if c == '/' && escaped(c) {
            out.extend_from_slice(b"\\/");
        } else if escaped(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        } else if let Ok(quoted) = serde_json::to_string(&c) {
            out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the programs themselves write it.
    #[test]
    fn a_value_is_found_as_programs_write_it() {
        let value = "pä$$/wörd <a&b>=\"it's\" ~(*)";
        let redactor = Redactor::default();
        redactor.register(&[("x", value.as_bytes())]).expect("registers");
        for written in [
            // Python: json.dumps, urllib.parse.quote and quote_plus
            r#"p\u00e4$$/w\u00f6rd <a&b>=\"it's\" ~(*)"#,
            "p%C3%A4%24%24/w%C3%B6rd%20%3Ca%26b%3E%3D%22it%27s%22%20~%28%2A%29",
            // PHP: json_encode
            r#"p\u00e4$$\/w\u00f6rd <a&b>=\"it's\" ~(*)"#,
            // Go: json.Marshal
            r#"pä$$/wörd \u003ca\u0026b\u003e=\"it's\" ~(*)"#,
            // Java: Gson, URLEncoder
            r#"pä$$/wörd \u003ca\u0026b\u003e\u003d\"it\u0027s\" ~(*)"#,
            "p%C3%A4%24%24%2Fw%C3%B6rd+%3Ca%26b%3E%3D%22it%27s%22+%7E%28*%29",
            // JavaScript: JSON.stringify, encodeURIComponent, encodeURI
            r#"pä$$/wörd <a&b>=\"it's\" ~(*)"#,
            "p%C3%A4%24%24%2Fw%C3%B6rd%20%3Ca%26b%3E%3D%22it's%22%20~(*)",
            "p%C3%A4$$/w%C3%B6rd%20%3Ca&b%3E=%22it's%22%20~(*)",
            // curl --data-urlencode, and the same in small letters
            "p%C3%A4%24%24%2Fw%C3%B6rd%20%3Ca%26b%3E%3D%22it%27s%22%20~%28%2A%29",
            "p%c3%a4%24%24%2fw%c3%b6rd%20%3ca%26b%3e%3d%22it%27s%22%20~%28%2a%29",
        ] {
            assert_eq!(redactor.mask_text(&format!("[{written}]")), "[***x***]", "{written}");
        }
        let plain = Redactor::default();
        plain.register(&[("x", b"hunter22hunter22")]).expect("registers");
        assert_eq!(format!("{:?}", plain.needles().expect("some")), "Needles(6)", "no form twice");
    }
}
