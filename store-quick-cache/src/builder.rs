//! The builder of a store.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use cache_core::{
    Error, ErrorKind, Fence, Key, Result, SharedClock,
    backend::{BuildFingerprintHasher, MemorySettings},
};
use quick_cache::{OptionsBuilder, sync};

use crate::{
    policy::{CollectDisplaced, RowWeighter},
    store::{Inner, QuickCacheStore},
};

/// The weight that an entry is assumed to have when the number of entries is estimated.
const USUAL_WEIGHT: u64 = 1024;

/// The fewest entries of a shard. Each shard evicts on its own, so small ones evict entries that are
/// worth more than those of others.
const ENTRIES_PER_SHARD: u64 = 4096;
const MAX_SHARDS: u64 = 64;

/// Configures a [`QuickCacheStore`].
///
/// # Examples
///
/// A store for 64 MiB of text:
///
/// ```
/// use store_quick_cache::QuickCacheStore;
///
/// fn main() -> cache_core::Result<()> {
///     let store = QuickCacheStore::<String>::builder()
///         .capacity(64 * 1024 * 1024)
///         .weigher(|key, text| (key.memory() + text.len()) as u64)
///         .build()?;
///     assert!(store.is_empty());
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct QuickCacheBuilder<V> {
    settings: MemorySettings<V>,
    expected_entries: Option<u64>,
    shards: Option<u32>,
}

impl<V: Clone + Send + Sync + 'static> QuickCacheStore<V> {
    /// Creates a store of at most `capacity` entries, on the system's clock.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`QuickCacheBuilder::build`].
    ///
    /// # Examples
    ///
    /// ```
    /// use store_quick_cache::QuickCacheStore;
    ///
    /// fn main() -> cache_core::Result<()> {
    ///     let store = QuickCacheStore::<String>::new(100_000)?;
    ///     assert_eq!(store.capacity(), 100_000);
    ///     Ok(())
    /// }
    /// ```
    pub fn new(capacity: u64) -> Result<Self> {
        Self::builder().capacity(capacity).build()
    }

    /// Returns a builder for a store.
    pub fn builder() -> QuickCacheBuilder<V> {
        QuickCacheBuilder { settings: MemorySettings::new(), expected_entries: None, shards: None }
    }
}

impl<V: Clone + Send + Sync + 'static> QuickCacheBuilder<V> {
    /// Sets the largest number of entries, or with a [`weigher`](Self::weigher) their largest total
    /// weight. Required.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.settings.capacity = capacity;
        self
    }

    /// Bounds the store by the weight of its entries, in bytes or any other unit. An entry weighs
    /// at least 1. An entry that weighs more than 97 % of a [shard](Self::shards)'s part of the
    /// capacity is not stored.
    ///
    /// The weigher is called once for each insertion, with no lock held; it may call the store. Add
    /// [`Key::memory`] to count the key as well. What the store itself takes for each entry, and the
    /// [validator](cache_core::Entry::validator) of an entry, at most 1 KiB, are not counted.
    pub fn weigher(mut self, weigher: impl Fn(&Key, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.settings.weigher = Some(Arc::new(weigher));
        self
    }

    /// Sets the expected number of entries of a full store. The number of shards, and that of the
    /// keys of evicted entries that are remembered, follow from it. It is not a limit.
    ///
    /// Default: the capacity; with a weigher, the capacity divided by 1024, as for entries of 1
    /// KiB.
    pub fn expected_entries(mut self, entries: u64) -> Self {
        self.expected_entries = Some(entries);
        self
    }

    /// Sets the number of shards, rounded up to a power of two, at most 64. Each has a lock and a
    /// part of the capacity. Default: one for each 4096 expected entries, rounded down to a power of
    /// two. One if the capacity is smaller than the number of shards.
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Sets the time after which an entry expires unless it is read, even if its TTL is longer.
    /// Default: none, at no cost.
    ///
    /// The time counts from the last hit, or from the last write of the entry. Hits do not lengthen
    /// the TTL: nothing is served after the entry's own expiry. An idle entry is a miss at once,
    /// also within its stale window; its memory is freed as that of other expired entries. With this
    /// setting, every hit reads the clock and writes to the row, so threads that read one entry
    /// slow each other down.
    ///
    /// In a chain, it applies to this tier alone: a hit here does not reach the tiers below, so an
    /// entry that is hot here ages in Redis or a database by its TTL, however often it is read. Tiers
    /// that processes share therefore have no idle expiry. To keep hot entries in all tiers, use a
    /// TTL and the early refresh of the chain.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use store_quick_cache::QuickCacheStore;
    ///
    /// fn main() -> cache_core::Result<()> {
    ///     let idle = Duration::from_secs(20 * 60);
    ///     let sessions = QuickCacheStore::<String>::builder().capacity(100_000).time_to_idle(idle).build()?;
    ///     assert!(sessions.is_empty());
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "sliding_expiration")]
    pub fn time_to_idle(mut self, time: Duration) -> Self {
        self.settings.time_to_idle = Some(time);
        self
    }

    /// Sets the clock by which entries expire. Default: the monotonic clock of the system.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Creates the store.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](ErrorKind::InvalidInput) if the capacity is zero
    /// or more than 2^60 or the time to idle is zero.
    pub fn build(self) -> Result<QuickCacheStore<V>> {
        let Self { settings, expected_entries, shards } = self;
        settings.check("quick_cache")?;
        let capacity = settings.capacity;
        let usual = if settings.weigher.is_some() { capacity.div_ceil(USUAL_WEIGHT) } else { capacity };
        let entries = expected_entries.unwrap_or(usual).max(1);
        let shards = shard_count(shards, entries, capacity);
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let mut options = OptionsBuilder::new();
        // The cache rounds the part of each shard up.
        options.shards(size(shards)).weight_capacity(capacity - capacity % shards);
        // With fewer, it would take fewer shards than it is told.
        options.estimated_items_capacity(size(entries.max(32 * shards)));
        let options = options.build().map_err(|error| Error::with_source(ErrorKind::Backend, "quick_cache", error))?;
        let rows = sync::Cache::with_options(
            options,
            RowWeighter,
            BuildFingerprintHasher::default(),
            CollectDisplaced::default(),
        );
        Ok(QuickCacheStore::from_inner(Inner { rows, fence: Fence::new(), settings, evictions: AtomicU64::new(0) }))
    }
}

/// Returns the number of shards, a power of two. Each has a capacity of at least 1.
fn shard_count(wanted: Option<u32>, entries: u64, capacity: u64) -> u64 {
    let usual = 1 << (entries / ENTRIES_PER_SHARD).max(1).ilog2();
    let count = wanted.map_or(usual, |wanted| u64::from(wanted).next_power_of_two()).clamp(1, MAX_SHARDS);
    if count > capacity { 1 } else { count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_a_power_of_two_and_each_has_a_capacity() {
        let usual = [1, 4096, 8191, 8192, 100_000, 1 << 60].map(|n| shard_count(None, n, n));
        assert_eq!(usual, [1, 1, 1, 2, 16, 64]);
        assert_eq!([0, 1, 3, 1000].map(|wanted| shard_count(Some(wanted), 1, 100)), [1, 1, 4, 64]);
        assert_eq!(shard_count(Some(8), 1, 7), 1, "a shard without a capacity would store nothing");
    }
}
