//! Frames as bytes: a 32-bit little-endian length, then that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::MAX_FRAME_BYTES;

/// Bytes that are no frame. The sender is broken or hostile: the link ends.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the bound.
    #[error("a frame of {0} bytes is longer than the bound of {MAX_FRAME_BYTES}")]
    TooLong(usize),
    /// Not the JSON that was expected. The text is not repeated: it may be anything.
    #[error("a frame is not the JSON expected at this point (line {line}, column {column})")]
    Malformed {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
}

/// `frame` as bytes, length first.
///
/// # Errors
/// The frame is longer than [`MAX_FRAME_BYTES`].
pub fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame).map_err(|e| malformed(&e))?;
    let length = bytes.len() - 4;
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME_BYTES);
    let prefix = prefix.ok_or(FrameError::TooLong(length))?;
    bytes[..4].copy_from_slice(&prefix.to_le_bytes());
    Ok(bytes)
}

/// Takes the first whole frame from the front of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// The length is over the bound, or the JSON is not a `T`.
pub fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = buffer.get(4..4 + length) else {
        return Ok(None);
    };
    let frame = serde_json::from_slice(body).map_err(|e| malformed(&e))?;
    buffer.drain(..4 + length);
    Ok(Some(frame))
}

fn malformed(error: &serde_json::Error) -> FrameError {
    FrameError::Malformed { line: error.line(), column: error.column() }
}

#[cfg(test)]
mod tests {
    use super::super::{Down, Stop};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are split, the same frames come out.
        #[test]
        fn frames_survive_any_split(graces in prop::collection::vec(any::<u64>(), 1..5), cut in 1_usize..40) {
            let mut bytes = Vec::new();
            for grace_millis in &graces {
                bytes.extend(encode(&Down::Stop(Stop { grace_millis: *grace_millis, limit: None })).expect("encodes"));
            }
            let mut buffer = Vec::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decode::<Down>(&mut buffer).expect("decodes") {
                    let Down::Stop(stop) = frame else { panic!("another frame") };
                    seen.push(stop.grace_millis);
                }
            }
            prop_assert_eq!(seen, graces);
            prop_assert!(buffer.is_empty());
        }

        /// Nothing that a hostile peer sends makes us panic, or is taken for a frame that it is not.
        #[test]
        fn garbage_is_an_error_or_incomplete(mut bytes: Vec<u8>) {
            prop_assert!(!matches!(decode::<Down>(&mut bytes), Ok(Some(_))));
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_at_once() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        assert!(matches!(decode::<Down>(&mut bytes), Err(FrameError::TooLong(_))));
    }
}
