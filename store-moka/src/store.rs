//! The store.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use cache_core::{
    Displaced, Entry, Fence, Key, LocalStore, Profile, Result, Usage,
    backend::{BuildFingerprintHasher, Fingerprint, MemoryRow, MemorySettings},
};
use moka::sync::Cache;

use crate::bin::{self, BinnedRow, EmptyOnDrop};

/// The cache: rows by the fingerprint of their key.
pub(crate) type Rows<V> = Cache<Fingerprint, Arc<BinnedRow<V>>, BuildFingerprintHasher>;

/// A store in memory on [moka](https://docs.rs/moka): `TinyLFU` admission and LRU eviction, bounded by
/// a number of entries or by their weight, without threads.
///
/// Clones share one store. The [crate's documentation](crate) lists the guarantees and the limits.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::DelegateCache;
/// use store_moka::MokaStore;
///
/// #[tokio::main]
/// async fn main() -> cache_core::Result<()> {
///     let store = MokaStore::<String>::new(100_000)?;
///
///     // Alone, or as the first tier of a chain: `ChainCache::builder().tier(store).tier(redis)`.
///     let users = DelegateCache::new(store.clone());
///     users.set_with_ttl(42, "Ada".to_owned(), Duration::from_secs(60)).await?;
///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
///     assert_eq!((store.len(), store.capacity()), (1, 100_000));
///     Ok(())
/// }
/// ```
pub struct MokaStore<V: Clone + Send + Sync + 'static> {
    inner: Arc<Inner<V>>,
}

pub(crate) struct Inner<V: Send + Sync + 'static> {
    pub(crate) rows: Rows<V>,
    /// The number of insertions since moka last evicted, in a store without a weigher.
    pub(crate) pending: AtomicU64,
    /// The number of times that the store was cleared. Rows of an earlier generation are not served.
    pub(crate) generation: AtomicU64,
    pub(crate) fence: Fence,
    pub(crate) settings: MemorySettings<V>,
    /// Declared, and so dropped, after the rows.
    pub(crate) _bin: EmptyOnDrop,
}

impl<V: Clone + Send + Sync + 'static> MokaStore<V> {
    pub(crate) fn from_inner(inner: Inner<V>) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Returns the number of entries, including expired ones that have not been evicted yet. Lets
    /// moka apply its buffers and evict first, so it is slower than a read.
    pub fn len(&self) -> u64 {
        self.inner.run_maintenance();
        self.inner.rows.entry_count()
    }

    /// Returns `true` if the store holds no entries; as [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the total weight of the entries; as [`len`](Self::len). Without a weigher, each entry
    /// weighs 1.
    pub fn weight(&self) -> u64 {
        self.inner.run_maintenance();
        self.inner.rows.weighted_size()
    }

    /// Returns the largest number of entries, or with a weigher their largest total weight.
    pub fn capacity(&self) -> u64 {
        self.inner.settings.capacity
    }
}

impl<V: Send + Sync + 'static> Inner<V> {
    /// Lets moka apply its buffers and evict what does not fit.
    fn run_maintenance(&self) {
        self.pending.store(0, Relaxed);
        self.rows.run_pending_tasks();
    }
}

impl<V: Clone + Send + Sync + 'static> LocalStore for MokaStore<V> {
    type Value = V;

    fn profile(&self) -> Profile {
        self.inner.settings.profile("moka")
    }

    fn fence(&self) -> &Fence {
        &self.inner.fence
    }

    fn usage(&self) -> Option<Usage> {
        Some(Usage::new(self.len(), self.weight()))
    }

    #[inline]
    fn get(&self, key: &Key) -> Option<Entry<V>> {
        let Inner { rows, generation, settings, .. } = &*self.inner;
        let binned = rows.get(&key.fingerprint())?;
        if binned.generation != generation.load(Acquire) {
            return None;
        }
        binned.row().read(key, &settings.clock, settings.time_to_idle)
    }

    fn holds(&self, key: &Key) -> bool {
        self.inner.rows.contains_key(&key.fingerprint())
    }

    fn weigh(&self, key: &Key, entry: &Entry<V>) -> u64 {
        self.inner.settings.weigh(key, entry)
    }

    fn insert(&self, key: &Key, entry: Entry<V>, weight: u64) -> Result<Displaced> {
        let Inner { rows, pending, generation, settings, .. } = &*self.inner;
        let row = MemoryRow::new(key.clone(), entry, settings.clock.now(), settings.time_to_idle);
        let row = Arc::new(BinnedRow::new(row, weight.max(1), generation.load(Acquire)));
        if weight > settings.capacity {
            // Moka would evict everything else first. The row goes into the bin.
            rows.invalidate(&key.fingerprint());
            drop(row);
            return Ok(bin::take());
        }
        rows.insert(key.fingerprint(), row);
        // Moka evicts after 64 insertions, which a small capacity does not allow. And it loses count
        // of the weight of an entry that is written twice before that: with random weights, moka
        // 0.12.16 then keeps 2.5 times its capacity.
        if settings.weigher.is_some() || pending.fetch_add(1, Relaxed) >= settings.capacity / 32 {
            self.inner.run_maintenance();
        }
        Ok(bin::take())
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        self.inner.rows.invalidate(&key.fingerprint());
        Ok(bin::take())
    }

    fn clear(&self) -> Result<()> {
        // Moka's own `invalidate_all` compares times, by which a row may come back.
        let cleared = self.inner.generation.fetch_add(1, Release);
        for (fingerprint, row) in &self.inner.rows {
            if row.generation <= cleared {
                self.inner.rows.invalidate(&*fingerprint);
            }
        }
        LocalStore::wait(self)
    }

    fn wait(&self) -> Result<()> {
        self.inner.run_maintenance();
        bin::empty();
        Ok(())
    }
}

impl<V: Clone + Send + Sync + 'static> Clone for MokaStore<V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<V: Clone + Send + Sync + 'static> fmt::Debug for MokaStore<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MokaStore")
            .field("len", &self.inner.rows.entry_count())
            .field("weight", &self.inner.rows.weighted_size())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
