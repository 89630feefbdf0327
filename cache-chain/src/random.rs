//! Chance, for jitter and early refresh: good enough to spread load, and nothing else.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// A number from 0 up to and including 1, evenly spread: a counter, hashed with a random seed. The standard library draws
/// the seed, so no further dependency is needed.
pub(crate) fn unit() -> f64 {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let bits = SEED.get_or_init(RandomState::new).hash_one(COUNTER.fetch_add(1, Ordering::Relaxed));
    bits as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_evenly_spread() {
        let mut tenths = [0; 10];
        for _ in 0..100_000 {
            let unit = super::unit();
            assert!((0.0..=1.0).contains(&unit));
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below ten")]
            let tenth = ((unit * 10.0) as usize).min(9);
            tenths[tenth] += 1;
        }
        // Ten standard deviations.
        assert!(tenths.iter().all(|count| (9_000..11_000).contains(count)), "{tenths:?}");
    }
}
