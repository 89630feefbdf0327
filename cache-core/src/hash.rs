//! The hashes of this process. Both are keyed by random seeds, which the standard library draws.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
};

use foldhash::{SharedSeed, quality::FoldHasher};

/// Hashes the bytes of a key, for places in maps and tables. Two keys may have the same hash, so
/// whoever finds something by it compares the keys.
#[inline]
pub(crate) fn hash_key(bytes: &[u8]) -> u64 {
    static SEED: OnceLock<(u64, SharedSeed)> = OnceLock::new();
    let (own, shared) = SEED.get_or_init(|| {
        let random = RandomState::new();
        (random.hash_one(0_u8), SharedSeed::from_u64(random.hash_one(1_u8)))
    });
    let mut hasher = FoldHasher::with_seed(*own, shared);
    hasher.write(bytes);
    hasher.finish()
}

/// Hashes content by `SipHash`, for which nobody can find two contents of one hash without the seed.
/// Equal hashes stand for equal contents.
pub(crate) fn hash_content(bytes: &[u8]) -> u64 {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = SEED.get_or_init(RandomState::new).build_hasher();
    hasher.write(bytes);
    hasher.finish()
}
