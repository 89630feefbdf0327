//! The builder of a store.

use std::{
    fmt,
    hash::BuildHasherDefault,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use cache_core::{Error, ErrorKind, Fence, Key, Result, SharedClock, SystemClock, backend::check_time_to_idle};
use moka::sync::Cache;

use crate::{
    bin::{Bin, Kept},
    store::{Id, Inner, MokaStore, Weigher},
};

/// The largest capacity, an exbibyte. The cache adds weights up in a `u64`.
const MAX_CAPACITY: u64 = 1 << 60;

/// Configures a [`MokaStore`].
///
/// # Examples
///
/// A store for 64 MiB of text:
///
/// ```
/// use store_moka::MokaStore;
///
/// fn main() -> cache_core::Result<()> {
///     let store = MokaStore::<String>::builder()
///         .capacity(64 * 1024 * 1024)
///         .weigher(|key, text| (key.memory() + text.len()) as u64)
///         .build()?;
///     assert!(store.is_empty());
///     Ok(())
/// }
/// ```
#[derive(Clone)]
#[must_use]
pub struct MokaBuilder<V> {
    capacity: u64,
    weigher: Option<Weigher<V>>,
    time_to_idle: Option<Duration>,
    clock: SharedClock,
}

impl<V: Clone + Send + Sync + 'static> MokaStore<V> {
    /// Creates a store of at most `capacity` entries, on the system's clock.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`MokaBuilder::build`].
    pub fn new(capacity: u64) -> Result<Self> {
        Self::builder().capacity(capacity).build()
    }

    /// Returns a builder for a store.
    pub fn builder() -> MokaBuilder<V> {
        MokaBuilder { capacity: 0, weigher: None, time_to_idle: None, clock: SystemClock::shared() }
    }
}

impl<V: Clone + Send + Sync + 'static> MokaBuilder<V> {
    /// Sets the largest number of entries, or with a [`weigher`](Self::weigher) their largest total
    /// weight. Required.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.capacity = capacity;
        self
    }

    /// Bounds the store by the weight of its entries, in bytes or any other unit. An entry weighs
    /// at least 1. One that weighs more than the capacity is evicted at once, and one of more than
    /// 2^32 - 1 counts as that.
    ///
    /// The weigher is called once for each insertion, with no lock held; it may call the store. Add
    /// [`Key::memory`] to count the key as well. The [validator](cache_core::Entry::validator) of
    /// an entry, at most 1 KiB, is not counted.
    pub fn weigher(mut self, weigher: impl Fn(&Key, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// Sets the time after which an entry expires unless it is read, even if its TTL is longer.
    /// Default: none, at no cost.
    ///
    /// The time counts from the last hit, or from the last write of the entry. Hits do not lengthen
    /// the TTL. With this setting, every hit reads the clock and writes to the row, so threads that
    /// read one entry slow each other down. In a chain, it applies to this tier alone.
    #[doc(alias = "sliding_expiration")]
    pub fn time_to_idle(mut self, time: Duration) -> Self {
        self.time_to_idle = Some(time);
        self
    }

    /// Sets the clock by which entries expire. Default: the monotonic clock of the system.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Creates the store.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](ErrorKind::InvalidInput) if the capacity is zero
    /// or more than 2^60 or the time to idle is zero.
    pub fn build(self) -> Result<MokaStore<V>> {
        let Self { capacity, weigher, time_to_idle, clock } = self;
        check_time_to_idle(time_to_idle)?;
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            let message = format!(
                "the capacity of the moka store is {capacity}; set .capacity() to the largest number of entries, \
                 from 1 to 2^60"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let builder = Cache::builder().max_capacity(capacity).weigher(|_: &Id, kept: &Arc<Kept<V>>| kept.weight);
        let rows = builder.build_with_hasher(BuildHasherDefault::default());
        let (bin, fence) = (Arc::new(Bin::default()), Fence::new());
        let pending = AtomicU64::new(0);
        Ok(MokaStore::from_inner(Inner { rows, bin, pending, fence, clock, time_to_idle, weigher, capacity }))
    }
}

impl<V> fmt::Debug for MokaBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MokaBuilder")
            .field("capacity", &self.capacity)
            .field("weigher", &self.weigher.is_some())
            .field("time_to_idle", &self.time_to_idle)
            .field("clock", &self.clock)
            .finish()
    }
}
