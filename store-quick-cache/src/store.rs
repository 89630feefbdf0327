//! The store.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use cache_core::{
    Displaced, Entry, Fence, Key, LocalStore, Profile, Result, Usage,
    backend::{MemoryRow, MemorySettings},
};

use crate::policy::{DisplacedRows, Row, Rows};

/// A store in memory on [`quick_cache`](https://docs.rs/quick_cache): S3-FIFO eviction, bounded by a
/// number of entries or by their weight, without threads.
///
/// Clones share one store. The [crate's documentation](crate) lists the guarantees and the limits.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::DelegateCache;
/// use store_quick_cache::QuickCacheStore;
///
/// #[tokio::main]
/// async fn main() -> cache_core::Result<()> {
///     let store = QuickCacheStore::<String>::new(100_000)?;
///
///     // Alone, or as the first tier of a chain: `ChainCache::builder().tier(store).tier(redis)`.
///     let users = DelegateCache::new(store.clone());
///     users.set_with_ttl(42, "Ada".to_owned(), Duration::from_secs(60)).await?;
///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
///     assert_eq!((store.len(), store.capacity()), (1, 100_000));
///     Ok(())
/// }
/// ```
pub struct QuickCacheStore<V: Clone + Send + Sync + 'static> {
    inner: Arc<Inner<V>>,
}

pub(crate) struct Inner<V> {
    pub(crate) rows: Rows<V>,
    pub(crate) fence: Fence,
    pub(crate) settings: MemorySettings<V>,
    pub(crate) evictions: AtomicU64,
}

impl<V: Clone + Send + Sync + 'static> QuickCacheStore<V> {
    pub(crate) fn from_inner(inner: Inner<V>) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Returns the number of entries, including expired ones that have not been evicted yet.
    pub fn len(&self) -> u64 {
        self.inner.rows.len() as u64
    }

    /// Returns `true` if the store holds no entries.
    pub fn is_empty(&self) -> bool {
        self.inner.rows.is_empty()
    }

    /// Returns the total weight of the entries. Without a weigher, each entry weighs 1.
    pub fn weight(&self) -> u64 {
        self.inner.rows.weight()
    }

    /// Returns the number of entries that were evicted to make room for others.
    pub fn evictions(&self) -> u64 {
        self.inner.evictions.load(Relaxed)
    }

    /// Returns the configured capacity: the largest number of entries, or with a weigher their largest
    /// total weight. The store rounds it down to a multiple of its shards.
    pub fn capacity(&self) -> u64 {
        self.inner.settings.capacity
    }
}

impl<V: Clone + Send + Sync + 'static> LocalStore for QuickCacheStore<V> {
    type Value = V;

    fn profile(&self) -> Profile {
        self.inner.settings.profile("quick_cache")
    }

    fn fence(&self) -> &Fence {
        &self.inner.fence
    }

    fn usage(&self) -> Option<Usage> {
        Some(Usage::new(self.len(), self.weight()).evictions(self.evictions()))
    }

    #[inline]
    fn get(&self, key: &Key) -> Option<Entry<V>> {
        let Inner { rows, settings, .. } = &*self.inner;
        // The lock of the cache is held only while the `Arc` is cloned.
        rows.get(&key.fingerprint())?.row.read(key, &settings.clock, settings.time_to_idle)
    }

    fn holds(&self, key: &Key) -> bool {
        self.inner.rows.contains_key(&key.fingerprint())
    }

    fn weigh(&self, key: &Key, entry: &Entry<V>) -> u64 {
        self.inner.settings.weigh(key, entry)
    }

    fn insert(&self, key: &Key, entry: Entry<V>, weight: u64) -> Result<Displaced> {
        let Inner { rows, settings, .. } = &*self.inner;
        let row = MemoryRow::new(key.clone(), entry, settings.clock.now(), settings.time_to_idle);
        // A row of no weight would never be evicted.
        let row = Arc::new(Row { row, weight: weight.max(1) });
        let mut displaced = DisplacedRows::new();
        rows.insert_with_lifecycle(key.fingerprint(), row, &mut displaced);
        // A row of this key was replaced, or is the new one, which was refused.
        let evicted = displaced.iter().filter(|displaced| displaced.row.key() != key).count();
        if evicted > 0 {
            self.inner.evictions.fetch_add(evicted as u64, Relaxed);
        }
        Ok(Displaced::rows(displaced))
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        let removed = self.inner.rows.remove(&key.fingerprint());
        Ok(Displaced::rows(removed.map(|(_, row)| row)))
    }

    fn clear(&self) -> Result<()> {
        // Takes the lock for each row anew, and lets go of it before the row is dropped.
        self.inner.rows.drain().for_each(drop);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

impl<V: Clone + Send + Sync + 'static> Clone for QuickCacheStore<V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<V: Clone + Send + Sync + 'static> fmt::Debug for QuickCacheStore<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuickCacheStore")
            .field("len", &self.len())
            .field("weight", &self.weight())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
