//! The journal's bytes.
//!
//! ```text
//! file     "RTDJRN1\n"  record*
//! record   length:u32  crc32:u32  JSON         little-endian; the checksum is over the JSON
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first bytes; the digit is the format's version.
pub const MAGIC: [u8; 8] = *b"RTDJRN1\n";

/// The longest record: a result with its outputs and names fits many times.
pub const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;

/// Appends `record` to `out`.
///
/// # Errors
/// It cannot be written as JSON, or is longer than the bound.
pub fn append<T: Serialize>(out: &mut Vec<u8>, record: &T) -> Result<(), String> {
    let json = serde_json::to_vec(record).map_err(|error| error.to_string())?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|_| json.len() <= MAX_RECORD_BYTES)
        .ok_or_else(|| format!("a record of {} bytes is longer than the bound", json.len()))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
    out.extend_from_slice(&json);
    Ok(())
}

/// Reads records until the end or the first that is torn. Returns them and the length of the sound part.
///
/// # Errors
/// The file is of another format or version, or a sound record is not a `T`: a newer daemon wrote it.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(Vec<T>, usize), String> {
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
        // A crash while the file was made can leave less than the first line, and nothing can have been promised then.
        return if MAGIC.starts_with(bytes) {
            Ok((Vec::new(), 0))
        } else {
            Err("another first line".to_owned())
        };
    };
    let mut records = Vec::new();
    while let Some((json, after)) = split(rest) {
        records.push(
            serde_json::from_slice(json).map_err(|error| format!("record {}: {error}", records.len()))?,
        );
        rest = after;
    }
    Ok((records, bytes.len() - rest.len()))
}

/// The first record's JSON and what follows; `None` at a torn one.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length =
        usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_RECORD_BYTES)?;
    let (json, rest) = rest.split_at_checked(length)?;
    (crc32fast::hash(json) == u32::from_le_bytes(*checksum)).then_some((json, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Cut the file anywhere, or flip a byte: what is read is a true beginning of what was written.
        #[test]
        fn a_torn_tail_is_cut_and_never_guessed(texts: Vec<String>, cut: prop::sample::Index, flip: Option<prop::sample::Index>) {
            let mut bytes = MAGIC.to_vec();
            for text in &texts {
                append(&mut bytes, text).expect("appends");
            }
            let mut torn = bytes[..=cut.index(bytes.len()).max(7)].to_vec();
            if let Some(flip) = flip {
                let at = flip.index(torn.len()).max(8);
                if let Some(byte) = torn.get_mut(at) {
                    *byte ^= 1;
                }
            }
            let (read, sound) = super::read::<String>(&torn).expect("reads");
            prop_assert!(texts.starts_with(&read));
            prop_assert_eq!(&torn[..sound], &bytes[..sound]);
        }
    }

    /// A life of two attempts as a daemon journals it: cut at every byte, and with every bit of every byte turned, it reads
    /// as a beginning of what was written, and never as anything else.
    #[test]
    fn a_journal_that_is_damaged_anywhere_is_cut_there() {
        use crate::journal::{Record, State};
        let text = r#"[
            {"accepted":{"attempt":{"namespace":"n","name":"a","uid":"u","attempt":1,"fence":1},"tree":"t1"}},
            {"staging":{"attempt":{"namespace":"n","name":"a","uid":"u","attempt":1,"fence":1},"files":["llm"]}},
            {"accepted":{"attempt":{"namespace":"n","name":"b","uid":"v","attempt":2,"fence":7},"tree":"t2"}},
            {"reported":{"attempt":{"namespace":"n","name":"a","uid":"u","attempt":1,"fence":1},"sequence":2,"finished":true}},
            {"released":{"attempt":{"namespace":"n","name":"a","uid":"u","attempt":1,"fence":1}}},
            {"acknowledged":{"attempt":{"namespace":"n","name":"b","uid":"v","attempt":2,"fence":7},"sequence":1}}
        ]"#;
        let records: Vec<Record> = serde_json::from_str(text).expect("records");
        let mut bytes = MAGIC.to_vec();
        let mut ends = vec![bytes.len()];
        for record in &records {
            append(&mut bytes, record).expect("appends");
            ends.push(bytes.len());
        }
        let whole_before =
            |damage: usize| ends.iter().filter(|end| **end <= damage).count().saturating_sub(1);
        let fold = |records: &[Record]| {
            let mut state = State::default();
            records.iter().for_each(|record| state.apply(record.clone()));
            state
        };
        let mut looked_at = 0;
        for at in MAGIC.len()..bytes.len() {
            let kept = &records[..whole_before(at)];
            let (read, sound) = super::read::<Record>(&bytes[..at]).expect("reads");
            assert_eq!((fold(&read), sound), (fold(kept), ends[kept.len()]), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let (read, sound) = super::read::<Record>(&damaged).expect("reads");
                assert_eq!((read.as_slice(), sound), (kept, ends[kept.len()]), "bit {bit} of byte {at}");
                looked_at += 1;
            }
        }
        assert!(looked_at > 4000, "{looked_at}");
    }

    #[test]
    fn another_version_is_refused() {
        assert!(read::<String>(b"RTDJRN2\n").is_err());
        assert_eq!(read::<String>(b"RTDJ"), Ok((vec![], 0)));
    }
}
