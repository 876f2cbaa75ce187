//! What the phases around the command may use of memory.

use runtimed_api::quantity::Bytes;

/// Memory that a phase may use whatever the Run's limit, in bytes.
const LEAST_PHASE_MEMORY: u64 = 128 << 20;
/// New content that a capture takes in at most, in bytes.
const MAX_CHANGED: u64 = 256 << 20;

/// What a phase may use of memory: as much as the command, whose tree is dead or not yet there; but with a small limit
/// enough for a repository of ordinary size.
pub(super) fn phase_memory(limit: Option<Bytes>) -> Option<u64> {
    limit.map(|limit| limit.0.max(LEAST_PHASE_MEMORY))
}

/// New content that a capture may hold: three times as much is in memory together with the objects and the patch made of it.
pub(super) fn max_changed_bytes(limit: Option<Bytes>) -> u64 {
    limit.map_or(MAX_CHANGED, |limit| (limit.0 / 4).clamp(LEAST_PHASE_MEMORY / 16, MAX_CHANGED))
}
