//! The builder of a store.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use cache_core::{
    Fence, Key, Result, SharedClock,
    backend::{BuildFingerprintHasher, Fingerprint, MemorySettings},
};
use moka::sync::Cache;

use crate::{
    bin::{BinnedRow, EmptyOnDrop},
    store::{Inner, MokaStore},
};

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
#[derive(Clone, Debug)]
#[must_use]
pub struct MokaBuilder<V>(MemorySettings<V>);

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
        MokaBuilder(MemorySettings::new())
    }
}

impl<V: Clone + Send + Sync + 'static> MokaBuilder<V> {
    /// Sets the largest number of entries, or with a [`weigher`](Self::weigher) their largest total
    /// weight. Required.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.0.capacity = capacity;
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
        self.0.weigher = Some(Arc::new(weigher));
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
    /// use store_moka::MokaStore;
    ///
    /// fn main() -> cache_core::Result<()> {
    ///     let idle = Duration::from_secs(20 * 60);
    ///     let sessions = MokaStore::<String>::builder().capacity(100_000).time_to_idle(idle).build()?;
    ///     assert!(sessions.is_empty());
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "sliding_expiration")]
    pub fn time_to_idle(mut self, time: Duration) -> Self {
        self.0.time_to_idle = Some(time);
        self
    }

    /// Sets the clock by which entries expire. Default: the monotonic clock of the system.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.0.clock = clock;
        self
    }

    /// Creates the store.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](cache_core::ErrorKind::InvalidInput) if the capacity is zero
    /// or more than 2^60 or the time to idle is zero.
    pub fn build(self) -> Result<MokaStore<V>> {
        let Self(settings) = self;
        settings.check("moka")?;
        let builder = Cache::builder().max_capacity(settings.capacity);
        // With a weigher, moka counts frequencies of fewer entries.
        let builder = match &settings.weigher {
            Some(_) => builder.weigher(|_: &Fingerprint, row: &Arc<BinnedRow<V>>| row.weight),
            None => builder,
        };
        let rows = builder.build_with_hasher(BuildFingerprintHasher::default());
        let (pending, generation) = (AtomicU64::new(0), AtomicU64::new(0));
        let fence = Fence::new();
        Ok(MokaStore::from_inner(Inner { rows, pending, generation, fence, settings, _bin: EmptyOnDrop }))
    }
}
