//! Setting up a store.

use std::{fmt, sync::Arc, time::Duration};

use cache_core::{Error, ErrorKind, Fence, Key, Result, SharedClock, SystemClock};
use stretto::CacheBuilder;

use crate::{
    StrettoStore,
    index::{HandThrough, Spread},
    reaper::Reaper,
    row::Holdings,
    store::Inner,
};

pub(crate) type Weigher<V> = Arc<dyn Fn(&Key, &V) -> u64 + Send + Sync>;

/// An exbibyte. Stretto adds weights up in an `i64`; four times this much still fits.
const MAX_CAPACITY: u64 = 1 << 60;

/// What an entry is taken to weigh, to estimate their number.
const USUAL_WEIGHT: u64 = 1024;

/// Stretto's advice: ten counters for each entry of a full cache. A counter takes 2 to 4 bytes.
const COUNTERS_PER_ENTRY: u64 = 10;
const MIN_COUNTERS: u64 = 1024;
/// At most some 130 MB of counters, which is what over three million entries want.
const MAX_COUNTERS: u64 = 1 << 25;

/// How often stretto looks for what has expired and for tombstones.
const SWEEP: Duration = Duration::from_secs(1);

/// Sets up a [`StrettoStore`].
///
/// # Examples
///
/// 64 MiB of text:
///
/// ```
/// use store_stretto::StrettoStore;
///
/// let store = StrettoStore::<String>::builder()
///     .capacity(64 * 1024 * 1024)
///     .weigher(|key, text| (key.memory() + text.len()) as u64)
///     .build()?;
/// # Ok::<(), cache_core::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct StrettoBuilder<V> {
    capacity: u64,
    expected_entries: Option<u64>,
    weigher: Option<Weigher<V>>,
    clock: SharedClock,
}

impl<V: Clone + Send + Sync + 'static> StrettoBuilder<V> {
    pub(crate) fn new() -> Self {
        Self { capacity: 0, expected_entries: None, weigher: None, clock: SystemClock::shared() }
    }

    /// How many entries the store may hold; with a [`weigher`](Self::weigher), what they may weigh together. It must be
    /// given.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.capacity = capacity;
        self
    }

    /// Bounds the store by the weight of its entries, in bytes or whatever unit the weigher counts. An entry weighs at
    /// least 1; one of more than nine tenths of the capacity is not stored.
    ///
    /// It is called once for each insertion, with no lock held; it may call the store. It sees the whole cost if it counts
    /// [`Key::memory`] as well; the store itself takes some 200 bytes more for each entry.
    pub fn weigher(mut self, weigher: impl Fn(&Key, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// How many entries a full store will hold, from which the counters of its admission policy are sized. It is no limit.
    ///
    /// By default the capacity; with a weigher, the capacity divided by 1024, as for entries of 1 KiB.
    pub fn expected_entries(mut self, entries: u64) -> Self {
        self.expected_entries = Some(entries);
        self
    }

    /// The clock by which entries expire; by default the system's monotonic one.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Starts the store and its three threads: stretto's two, and one that drops what leaves the store.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the capacity is zero or beyond 2^60; [`ErrorKind::Backend`] if a thread cannot be
    /// started.
    pub fn build(self) -> Result<StrettoStore<V>> {
        let Self { capacity, expected_entries, weigher, clock } = self;
        if capacity == 0 {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the capacity of a stretto store is zero; give the number of entries that it may hold",
            ));
        }
        if capacity > MAX_CAPACITY {
            return Err(Error::new(ErrorKind::InvalidInput, "the capacity of a stretto store is beyond 2^60"));
        }
        let budget = if weigher.is_some() { capacity - capacity / 10 } else { capacity };
        let max_cost = budget.cast_signed();
        let holdings = Arc::new(Holdings::new(Reaper::start()?));
        let counters = counters(capacity, weigher.is_some(), expected_entries);
        let rows = CacheBuilder::new_with_key_builder(counters, max_cost, HandThrough)
            .set_hasher(Spread)
            .set_cleanup_duration(SWEEP)
            .finalize()
            .map_err(|error| Error::with_source(ErrorKind::Backend, "cannot set up stretto", error))?;
        Ok(StrettoStore::from_inner(Inner {
            rows: Some(rows),
            holdings,
            fence: Fence::new(),
            clock,
            weigher,
            capacity,
            budget,
        }))
    }
}

fn counters(capacity: u64, weighed: bool, expected_entries: Option<u64>) -> usize {
    let usual = if weighed { capacity / USUAL_WEIGHT } else { capacity };
    let entries = expected_entries.unwrap_or(usual);
    let counters = entries.saturating_mul(COUNTERS_PER_ENTRY).clamp(MIN_COUNTERS, MAX_COUNTERS);
    usize::try_from(counters).unwrap_or(usize::MAX)
}

impl<V> fmt::Debug for StrettoBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrettoBuilder")
            .field("capacity", &self.capacity)
            .field("expected_entries", &self.expected_entries)
            .field("weigher", &self.weigher.is_some())
            .field("clock", &self.clock)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_ten_for_each_entry_within_bounds() {
        assert_eq!(counters(1, false, None), 1024);
        assert_eq!(counters(100_000, false, None), 1_000_000);
        assert_eq!(counters(MAX_CAPACITY, false, None), 1 << 25);
        assert_eq!(counters(64 << 20, true, None), 655_360);
        assert_eq!(counters(64 << 20, true, Some(1_000)), 10_000);
        assert_eq!(counters(1, false, Some(u64::MAX)), 1 << 25);
    }

    #[test]
    fn a_capacity_of_nothing_or_beyond_counting_is_refused() {
        for capacity in [0, MAX_CAPACITY + 1, u64::MAX] {
            let error = StrettoStore::<u8>::new(capacity).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{capacity}");
        }
        let missing = StrettoStore::<u8>::builder().build().unwrap_err();
        assert!(missing.to_string().contains("is zero"), "{missing}");
        let largest = StrettoStore::<u8>::builder().capacity(MAX_CAPACITY).expected_entries(1).build().unwrap();
        assert_eq!(largest.capacity(), MAX_CAPACITY);
    }
}
