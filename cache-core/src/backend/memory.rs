//! Settings and hasher of in-memory stores.

use std::{
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use super::{Fingerprint, check_time_to_idle};
use crate::{Entry, Error, ErrorKind, Key, Profile, Result, SharedClock, SystemClock};

/// A function of the application that weighs an entry.
pub type Weigher<V> = Arc<dyn Fn(&Key, &V) -> u64 + Send + Sync>;

/// The largest capacity, an exbibyte. Caches add weights up in 64 bits.
const MAX_CAPACITY: u64 = 1 << 60;

/// The settings that all stores in memory have.
#[derive(Clone)]
#[non_exhaustive]
pub struct MemorySettings<V> {
    /// The largest number of entries, or with a weigher their largest total weight.
    pub capacity: u64,
    /// Weighs the entries; without one, each weighs 1.
    pub weigher: Option<Weigher<V>>,
    /// The time after which an entry expires unless it is read.
    pub time_to_idle: Option<Duration>,
    /// The clock by which entries expire.
    pub clock: SharedClock,
}

impl<V> MemorySettings<V> {
    /// Creates settings without a capacity, which is required.
    pub fn new() -> Self {
        Self { capacity: 0, weigher: None, time_to_idle: None, clock: SystemClock::shared() }
    }

    /// Checks the settings of a store of this kind.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](ErrorKind::InvalidInput) if the capacity is zero or
    /// more than 2^60 or the time to idle is zero.
    pub fn check(&self, kind: &str) -> Result<()> {
        check_time_to_idle(self.time_to_idle)?;
        if (1..=MAX_CAPACITY).contains(&self.capacity) {
            return Ok(());
        }
        let message = format!(
            "the capacity of the {kind} store is {}; set .capacity() to the largest number of entries, from 1 to 2^60",
            self.capacity
        );
        Err(Error::new(ErrorKind::InvalidInput, message))
    }

    /// Returns the profile of a store of this kind with these settings.
    pub fn profile(&self, kind: &'static str) -> Profile {
        let entries = if self.weigher.is_none() { self.capacity } else { 0 };
        Profile::new(kind).ttl_resolution(Duration::from_nanos(1)).entries(entries)
    }

    /// Returns the weight of an entry, at least 1.
    pub fn weigh(&self, key: &Key, entry: &Entry<V>) -> u64 {
        match (&self.weigher, entry.value()) {
            (Some(weigher), Some(value)) => weigher(key, value).max(1),
            _ => 1,
        }
    }
}

impl<V> Default for MemorySettings<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> fmt::Debug for MemorySettings<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySettings")
            .field("capacity", &self.capacity)
            .field("weigher", &self.weigher.is_some())
            .field("time_to_idle", &self.time_to_idle)
            .field("clock", &self.clock)
            .finish()
    }
}

/// Builds hashers for maps by fingerprints, or by keys, which hash as their fingerprints.
pub type BuildFingerprintHasher = BuildHasherDefault<FingerprintHasher>;

/// The hasher of fingerprints, which are hashes already: returns them unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct FingerprintHasher(u64);

impl Hasher for FingerprintHasher {
    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    /// For other types than fingerprints, which have no use for this hasher.
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hash for Fingerprint {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn a_fingerprint_is_its_own_hash() {
        let fingerprint = Fingerprint::of(b"k");
        assert_eq!(BuildFingerprintHasher::default().hash_one(fingerprint), fingerprint.0);
    }

    #[test]
    fn a_capacity_of_nothing_or_beyond_counting_is_refused() {
        for capacity in [0, MAX_CAPACITY + 1, u64::MAX] {
            let error = MemorySettings::<u8> { capacity, ..MemorySettings::new() }.check("small").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{capacity}");
            assert!(error.to_string().contains("the small store") && error.to_string().contains("set .capacity()"));
        }
        assert!(MemorySettings::<u8> { capacity: MAX_CAPACITY, ..MemorySettings::new() }.check("large").is_ok());
        let idle = MemorySettings::<u8> { capacity: 1, time_to_idle: Some(Duration::ZERO), ..MemorySettings::new() };
        assert_eq!(idle.check("idle").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn an_entry_weighs_at_least_one() {
        let (key, entry) = (Key::new("k").unwrap(), |value| Entry::new(value, crate::Expiry::Never));
        let settings = MemorySettings::<u64> { weigher: Some(Arc::new(|_, value| *value)), ..MemorySettings::new() };
        assert_eq!([0, 1, 7].map(|weight| settings.weigh(&key, &entry(weight))), [1, 1, 7]);
        assert_eq!(MemorySettings::new().weigh(&key, &entry(7)), 1);
    }
}
