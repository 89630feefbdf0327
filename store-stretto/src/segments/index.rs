//! Passes a key's fingerprint to stretto as its index and conflict hash, without hashing it again.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash, Hasher},
};

use cache_core::backend::{BuildFingerprintHasher, Fingerprint};
use stretto::KeyBuilder;

/// Makes the fingerprint both the index and the conflict hash of a row.
#[derive(Debug)]
pub(super) struct PassThroughKeyBuilder;

impl KeyBuilder for PassThroughKeyBuilder {
    type Key = Fingerprint;

    #[inline]
    fn hash_index<Q>(&self, key: &Q) -> u64
    where
        Fingerprint: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.build_key(key).0
    }

    #[inline]
    fn hash_conflict<Q>(&self, key: &Q) -> u64
    where
        Fingerprint: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.build_key(key).1
    }

    #[inline]
    fn build_key<Q>(&self, key: &Q) -> (u64, u64)
    where
        Fingerprint: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let index = BuildFingerprintHasher::default().hash_one(key);
        // A conflict hash of zero means "any row" to stretto.
        (index, index.max(1))
    }
}

/// The hasher of stretto's own maps, whose keys are indexes (uniform already) and seconds
/// (consecutive).
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct BuildSpreadHasher;

impl BuildHasher for BuildSpreadHasher {
    type Hasher = SpreadHasher;

    #[inline]
    fn build_hasher(&self) -> SpreadHasher {
        SpreadHasher(0)
    }
}

#[derive(Debug)]
pub(super) struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(GOLDEN);
        }
    }

    /// Hashes an index. Its low eight bits chose the shard and are equal for all rows of a map,
    /// while the map takes the bucket from the low bits and the tag from the top seven. So the
    /// halves are swapped.
    #[inline]
    fn write_u64(&mut self, index: u64) {
        self.0 = index.rotate_left(32);
    }

    /// Hashes a second.
    fn write_i64(&mut self, second: i64) {
        self.0 = second.cast_unsigned().wrapping_mul(GOLDEN);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// 2^64 divided by the golden ratio, odd. Multiplied by it, consecutive numbers lie far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_fingerprint_is_passed_through() {
        let fingerprint = Fingerprint(0x4567);
        assert_eq!(PassThroughKeyBuilder.build_key(&fingerprint), (0x4567, 0x4567));
        assert_eq!(PassThroughKeyBuilder.hash_index(&fingerprint), 0x4567);
        assert_eq!(PassThroughKeyBuilder.hash_conflict(&fingerprint), 0x4567);
    }

    #[test]
    fn a_conflict_hash_is_never_the_wildcard() {
        assert_eq!(PassThroughKeyBuilder.build_key(&Fingerprint(0)), (0, 1));
    }

    /// All indexes of a shard agree in the low eight bits. A map of 256 buckets must still use them
    /// all, and so must the seven bits of its tags.
    #[test]
    fn the_rows_of_one_shard_spread_over_its_map() {
        let shard = 0x5a_u64;
        let hashes: Vec<u64> =
            (1..=4096_u64).map(|n| BuildSpreadHasher.hash_one(n.wrapping_mul(GOLDEN) & !0xff | shard)).collect();
        let buckets: HashSet<u64> = hashes.iter().map(|hash| hash & 0xff).collect();
        let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert_eq!((buckets.len(), tags.len()), (256, 128));
    }

    #[test]
    fn consecutive_seconds_spread_over_a_map() {
        let hashes: Vec<u64> = (0..256_i64).map(|second| BuildSpreadHasher.hash_one(1_700_000_000 + second)).collect();
        let buckets: HashSet<u64> = hashes.iter().map(|hash| hash & 0xff).collect();
        let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert_eq!((buckets.len(), tags.len()), (256, 128));
    }
}
