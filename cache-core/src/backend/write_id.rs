//! Ids of writes: what a ticket remembers, and what tells a claim from a plain lease.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The bit that a claim's marker has in its id. A fill keeps the id of its ticket, so that a value may have it as well.
const CLAIM: u64 = 1 << 63;

/// An id that no other write has, in this process or another, and that is no claim's: a counter, hashed with a random seed.
/// The standard library draws the seed, so no further dependency is needed.
pub fn next() -> u64 {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    SEED.get_or_init(RandomState::new).hash_one(COUNTER.fetch_add(1, Ordering::Relaxed)) & !CLAIM
}

/// The same for a marker that says that somebody is loading the value.
pub fn next_claim() -> u64 {
    next() | CLAIM
}

/// Whether a marker with this id is a claim's: its top bit is set. In eight bytes, little-endian, the last one is 128 or
/// more; as a signed number it is negative.
pub const fn is_claim(id: u64) -> bool {
    id & CLAIM != 0
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_repeat() {
        let ids: std::collections::HashSet<u64> = (0..100_000).map(|_| next()).collect();
        assert_eq!(ids.len(), 100_000);
    }

    #[test]
    fn claims_are_told_by_their_ids() {
        for id in (0..1000).map(|_| next_claim()) {
            assert!(is_claim(id) && id.cast_signed() < 0 && id.to_le_bytes()[7] >= 128, "{id}");
        }
        for id in (0..1000).map(|_| next()) {
            assert!(!is_claim(id) && id.cast_signed() >= 0 && id.to_le_bytes()[7] < 128, "{id}");
        }
    }
}
