//! Binary changes: decompressed under a bound, then taken as they are or as instructions on the old content.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

use crate::{
    git_path::GitPath,
    parse::{Binary, BinaryData, BinarySide},
    rule::{Refusal, Rule},
};

/// The new content. The way back is only unpacked: the ids of both contents say more than it does.
pub(super) fn apply(before: &[u8], binary: &Binary, max: u64, path: &GitPath) -> Result<Vec<u8>, Refusal> {
    let broken = |message: &str| Refusal::at(Rule::Malformed, path, message);
    let unpacked = |side: &BinarySide| {
        if side.size > max {
            return Err(super::too_large(path));
        }
        inflate(side)
            .ok_or_else(|| broken("its compressed data is damaged, or not as long as the patch says"))
    };
    let data = unpacked(&binary.forward)?;
    binary.backward.as_ref().map(unpacked).transpose()?;
    match binary.forward.data {
        BinaryData::Literal => Ok(data),
        BinaryData::Delta => delta(before, &data, max).map_err(|error| match error {
            DeltaError::TooLarge => super::too_large(path),
            DeltaError::Broken => broken("its delta is damaged, or is not for this content"),
        }),
    }
}

/// The data, if it is exactly as long as promised.
fn inflate(side: &BinarySide) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    let mut decoder = ZlibDecoder::new(side.deflated.as_slice());
    // One byte more than promised tells a stream that is too long from one that ends.
    decoder.by_ref().take(side.size + 1).read_to_end(&mut data).ok()?;
    let whole = data.len() as u64 == side.size && decoder.total_in() == side.deflated.len() as u64;
    whole.then_some(data)
}

enum DeltaError {
    TooLarge,
    Broken,
}

/// git's delta: the size of the old content, the size of the new, then copies from the old and insertions.
fn delta(before: &[u8], delta: &[u8], max: u64) -> Result<Vec<u8>, DeltaError> {
    let mut input = delta;
    let from = read_size(&mut input).ok_or(DeltaError::Broken)?;
    let to = read_size(&mut input).ok_or(DeltaError::Broken)?;
    if from != before.len() as u64 {
        return Err(DeltaError::Broken);
    }
    if to > max {
        return Err(DeltaError::TooLarge);
    }
    let mut after = Vec::new();
    while let Some((&op, rest)) = input.split_first() {
        input = rest;
        let piece = if op & 0x80 != 0 {
            let offset = read_sparse(&mut input, op & 0x0f).ok_or(DeltaError::Broken)?;
            let len = match read_sparse(&mut input, (op >> 4) & 0x07).ok_or(DeltaError::Broken)? {
                0 => 0x1_0000,
                len => len,
            };
            before.get(offset..).and_then(|rest| rest.get(..len))
        } else {
            let (piece, rest) = input.split_at_checked(usize::from(op)).ok_or(DeltaError::Broken)?;
            input = rest;
            Some(piece).filter(|piece| !piece.is_empty())
        };
        let piece = piece.ok_or(DeltaError::Broken)?;
        if (after.len() + piece.len()) as u64 > to {
            return Err(DeltaError::Broken);
        }
        after.extend_from_slice(piece);
    }
    if after.len() as u64 == to { Ok(after) } else { Err(DeltaError::Broken) }
}

/// Seven bits a byte, least significant first; the top bit says that more follow.
fn read_size(input: &mut &[u8]) -> Option<u64> {
    let mut size = 0;
    for shift in (0..56).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        size |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(size);
        }
    }
    None
}

/// The bytes of a little-endian number whose bits in `present` are set; the others are zero.
fn read_sparse(input: &mut &[u8], present: u8) -> Option<usize> {
    let mut value = 0;
    for index in 0..4 {
        if present & (1 << index) != 0 {
            let (&byte, rest) = input.split_first()?;
            *input = rest;
            value |= usize::from(byte) << (8 * index);
        }
    }
    Some(value)
}
