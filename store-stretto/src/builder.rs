//! The builder of a store.

use std::{sync::Arc, time::Duration};

use cache_core::{Fence, Key, Result, SharedClock, backend::MemorySettings};

use crate::{
    flusher::Flusher,
    reaper::Reaper,
    segments::Segments,
    store::{Inner, StrettoStore},
};

/// The weight that an entry is assumed to have when the number of entries is estimated.
const USUAL_WEIGHT: u64 = 1024;

/// Stretto recommends ten counters for each entry of a full cache. A counter takes 2 to 4 bytes.
const COUNTERS_PER_ENTRY: u64 = 10;
const MIN_COUNTERS: u64 = 1024;
/// Limits the counters to about 130 MB, enough for more than three million entries.
const MAX_COUNTERS: u64 = 1 << 25;

/// To evict one entry, stretto visits all of them: 47 µs with 10,000, 0.6 ms with 100,000. A
/// segment therefore holds no more entries than this, as long as there are fewer than
/// `MAX_SEGMENTS`: each segment runs two threads.
const ENTRIES_PER_SEGMENT: u64 = 16 * 1024;
const MAX_SEGMENTS: u32 = 8;

/// Configures and starts a [`StrettoStore`].
///
/// # Examples
///
/// A store for 64 MiB of text:
///
/// ```
/// use store_stretto::StrettoStore;
///
/// fn main() -> cache_core::Result<()> {
///     let store = StrettoStore::<String>::builder()
///         .capacity(64 * 1024 * 1024)
///         .weigher(|key, text| (key.memory() + text.len()) as u64)
///         .build()?;
///     assert!(store.is_empty());
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct StrettoBuilder<V> {
    settings: MemorySettings<V>,
    expected_entries: Option<u64>,
    segments: Option<u32>,
}

impl<V: Clone + Send + Sync + 'static> StrettoStore<V> {
    /// Starts a store of at most `capacity` entries, on the system's clock.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`StrettoBuilder::build`].
    ///
    /// # Examples
    ///
    /// ```
    /// use store_stretto::StrettoStore;
    ///
    /// fn main() -> cache_core::Result<()> {
    ///     let store = StrettoStore::<String>::new(100_000)?;
    ///     assert_eq!(store.capacity(), 100_000);
    ///     Ok(())
    /// }
    /// ```
    pub fn new(capacity: u64) -> Result<Self> {
        Self::builder().capacity(capacity).build()
    }

    /// Returns a builder for a store.
    pub fn builder() -> StrettoBuilder<V> {
        StrettoBuilder::new()
    }
}

impl<V: Clone + Send + Sync + 'static> StrettoBuilder<V> {
    fn new() -> Self {
        Self { settings: MemorySettings::new(), expected_entries: None, segments: None }
    }

    /// Sets the largest number of entries, or with a [`weigher`](Self::weigher) their largest total
    /// weight. Required.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.settings.capacity = capacity;
        self
    }

    /// Bounds the store by the weight of its entries, in bytes or any other unit. An entry weighs
    /// at least 1. An entry that weighs more than nine tenths of a [segment](Self::segments)'s part
    /// of the capacity is not stored.
    ///
    /// The weigher is called once for each insertion, with no lock held; it may call the store. Add
    /// [`Key::memory`] to count the key as well. The store itself takes about 500 bytes more for
    /// each entry; see the [crate](crate). The [validator](cache_core::Entry::validator) of an
    /// entry, at most 1 KiB, is not counted.
    pub fn weigher(mut self, weigher: impl Fn(&Key, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.settings.weigher = Some(Arc::new(weigher));
        self
    }

    /// Sets the expected number of entries of a full store, from which the counters of the
    /// admission policy are sized. It is not a limit.
    ///
    /// Default: the capacity; with a weigher, the capacity divided by 1024, as for entries of 1
    /// KiB.
    pub fn expected_entries(mut self, entries: u64) -> Self {
        self.expected_entries = Some(entries);
        self
    }

    /// Sets the number of stretto caches that the entries are divided among, rounded up to a power
    /// of two, at most 64. Default: one for each 16,384 expected entries, at most 8.
    ///
    /// Each segment evicts on its own, faster the fewer entries it has, and runs two threads.
    pub fn segments(mut self, segments: u32) -> Self {
        self.segments = Some(segments);
        self
    }

    /// Sets the time after which an entry expires unless it is read, even if its TTL is longer.
    /// Default: none, at no cost.
    ///
    /// The time counts from the last hit, or from the last write of the entry. Hits do not lengthen
    /// the TTL: nothing is served after the entry's own expiry. An idle entry is a miss at once,
    /// also within its stale window, and is removed as other expired entries are. With this
    /// setting, every hit reads the clock and writes to the row, so threads that read one entry
    /// slow each other down.
    ///
    /// Idle expiry frees the memory of unused entries earlier than their TTL. In a chain, it
    /// applies to this tier alone: a hit here does not reach the tiers below, so an entry that is
    /// hot here ages in Redis or a database by its TTL, however often it is read. Tiers that
    /// processes share therefore have no idle expiry. To keep hot entries in all tiers, use a TTL
    /// and the early refresh of the chain.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use store_stretto::StrettoStore;
    ///
    /// fn main() -> cache_core::Result<()> {
    ///     let idle = Duration::from_secs(20 * 60);
    ///     let sessions = StrettoStore::<String>::builder().capacity(100_000).time_to_idle(idle).build()?;
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

    /// Starts the store and its threads: two for each segment, one that drops the entries that
    /// stretto evicts, and one that removes expired entries.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](cache_core::ErrorKind::InvalidInput) if the capacity is zero
    /// or more than 2^60 or the time to idle is zero, and of kind [`Backend`](cache_core::ErrorKind::Backend)
    /// if a thread cannot be started.
    pub fn build(self) -> Result<StrettoStore<V>> {
        let Self { settings, expected_entries, segments } = self;
        settings.check("stretto")?;
        // Stretto adds weights up in an `i64`; four times the largest capacity still fits.
        let (capacity, is_weighed) = (settings.capacity, settings.weigher.is_some());
        let budget = if is_weighed { capacity - capacity / 10 } else { capacity };
        let usual = if is_weighed { capacity / USUAL_WEIGHT } else { capacity };
        let entries = expected_entries.unwrap_or(usual);
        let segments = count(segments, entries, budget);
        // With a weigher, stretto admits nine tenths of the capacity, and the rest is room for
        // entries that await admission. Without a weigher, that room is added to the capacity.
        let limit = if is_weighed { capacity } else { capacity + room(capacity) };
        let segments = Arc::new(Segments::start(segments, budget, limit, counters(entries), &Reaper::start()?)?);
        let flusher = Flusher::start(Arc::clone(&segments), Arc::clone(&settings.clock))?;
        Ok(StrettoStore::from_inner(Inner { segments, flusher, fence: Fence::new(), settings }))
    }
}

/// Returns the number of segments: a power of two, such that each has a budget of at least 1.
fn count(wanted: Option<u32>, entries: u64, budget: u64) -> u32 {
    let usual = u32::try_from(entries.div_ceil(ENTRIES_PER_SEGMENT)).unwrap_or(u32::MAX).clamp(1, MAX_SEGMENTS);
    let count = wanted.unwrap_or(usual).clamp(1, 64).next_power_of_two();
    if u64::from(count) > budget { 1 } else { count }
}

/// Returns the number of entries that the store holds beyond its capacity: a sixteenth. A small
/// store holds fewer, so that this room and the values held by four writers, each with a new and a
/// displaced one, together stay within a tenth.
fn room(capacity: u64) -> u64 {
    (capacity / 16).min((capacity / 10).saturating_sub(8).max(1))
}

/// Returns the number of counters of the admission policy.
fn counters(entries: u64) -> usize {
    let counters = entries.saturating_mul(COUNTERS_PER_ENTRY).clamp(MIN_COUNTERS, MAX_COUNTERS);
    usize::try_from(counters).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_ten_for_each_entry_within_bounds() {
        assert_eq!(counters(0), 1024);
        assert_eq!(counters(100_000), 1_000_000);
        assert_eq!(counters(u64::MAX), 1 << 25);
    }

    #[test]
    fn the_room_and_eight_values_are_a_tenth_of_the_capacity() {
        assert_eq!([1, 15, 16, 99, 100, 200, 1000, 1 << 60].map(room), [0, 0, 1, 1, 2, 12, 62, 1 << 56]);
        assert!((100..100_000).all(|capacity| room(capacity) + 8 <= capacity / 10));
    }

    #[test]
    fn segments_are_a_power_of_two_and_each_has_a_budget() {
        assert_eq!([1, 16 * 1024, 16 * 1024 + 1, 100_000, u64::MAX].map(|n| count(None, n, n)), [1, 1, 2, 8, 8]);
        assert_eq!([0, 1, 3, 1000].map(|wanted| count(Some(wanted), 1, 100)), [1, 1, 4, 64]);
        assert_eq!(count(Some(8), 1, 7), 1, "a segment with no budget would store nothing");
    }

    #[test]
    fn the_largest_capacity_can_be_counted() {
        let largest = StrettoStore::<u8>::builder().capacity(1 << 60).expected_entries(1).build().unwrap();
        assert_eq!(largest.capacity(), 1 << 60);
    }
}
