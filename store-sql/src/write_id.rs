//! Ids of writes.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// An id that no other write has, in this process or another: a counter, hashed with a random seed. The standard library
/// draws the seed, so no further dependency is needed.
pub(crate) fn next() -> u64 {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    SEED.get_or_init(RandomState::new).hash_one(COUNTER.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_do_not_repeat() {
        let ids: std::collections::HashSet<u64> = (0..100_000).map(|_| super::next()).collect();
        assert_eq!(ids.len(), 100_000);
    }
}
