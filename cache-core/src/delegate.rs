//! A cache over one store.

use std::{fmt, time::Duration};

use crate::{Cache, CacheKey, Entry, Expiry, Key, Result, SharedClock, Store, SystemClock, Ticket, Ttl, Write};

/// A [`Cache`] over one [`Store`].
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "testkit")] {
/// use cache_core::{Cache, DelegateCache, testkit::MapStore};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let cache = DelegateCache::new(MapStore::<String>::new());
/// cache.set(("users", 42), "Ada".to_owned()).await?;
/// assert_eq!(cache.get(("users", 42)).await?.as_deref(), Some("Ada"));
/// # Ok::<(), cache_core::Error>(()) }).unwrap() }
/// ```
#[derive(Clone)]
pub struct DelegateCache<S> {
    store: S,
    clock: SharedClock,
    default_ttl: Ttl,
}

impl<S: Store> DelegateCache<S> {
    /// A cache over `store`, on the system's clock, without a default TTL.
    pub fn new(store: S) -> Self {
        Self { store, clock: SystemClock::shared(), default_ttl: Ttl::Never }
    }

    /// Takes the time from `clock`; it must be the store's.
    pub fn with_clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Gives what is `set` without a TTL this one.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if it is zero.
    pub fn with_default_ttl(mut self, ttl: Duration) -> Result<Self> {
        self.default_ttl = Ttl::checked(ttl)?;
        Ok(self)
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    fn write(&self, key: Key, value: S::Value, ttl: Ttl) -> Write<S::Value> {
        let now = self.clock.now();
        let entry = Entry::new(value, Expiry::after(now, ttl)).created_at(now);
        Write { key, entry, ticket: Ticket::unconditional() }
    }

    async fn read(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        let found = match self.store.local() {
            Some(local) => local.get(key),
            None => self.store.get(key).await?,
        };
        Ok(found.filter(|entry| self.is_fresh(entry)))
    }

    /// What a chain keeps to be served stale is not for who cannot have it loaded.
    fn is_fresh(&self, entry: &Entry<S::Value>) -> bool {
        !entry.turns_stale() || !entry.is_stale(self.clock.now())
    }
}

impl<S: Store> Cache for DelegateCache<S> {
    type Value = S::Value;

    fn set(&self, key: impl CacheKey, value: S::Value) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.store.set(self.write(key?, value, self.default_ttl)).await }
    }

    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<S::Value>>> + Send {
        let key = Key::new(&key);
        async move { Ok(self.read(&key?).await?.and_then(Entry::into_value)) }
    }

    fn set_with_ttl(
        &self,
        key: impl CacheKey,
        value: S::Value,
        ttl: Duration,
    ) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.store.set(self.write(key?, value, Ttl::checked(ttl)?)).await }
    }

    fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(S::Value, Ttl)>>> + Send {
        let key = Key::new(&key);
        async move {
            let entry = self.read(&key?).await?;
            Ok(entry.and_then(|entry| {
                let remaining = entry.stale_at().remaining(self.clock.now());
                Some((entry.into_value()?, remaining))
            }))
        }
    }

    fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.store.del(&key?).await }
    }

    async fn clear(&self) -> Result<()> {
        self.store.clear().await
    }

    async fn wait(&self) -> Result<()> {
        self.store.wait().await
    }

    fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<S::Value>>>> + Send {
        let keys = Key::many(keys);
        async move {
            let entries = self.store.get_many(&keys?).await;
            let value = |found: Entry<S::Value>| if self.is_fresh(&found) { found.into_value() } else { None };
            entries.into_iter().map(|entry| Ok(entry?.and_then(value))).collect()
        }
    }

    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, S::Value)>,
    ) -> impl Future<Output = Result<()>> + Send {
        let writes: Result<Vec<_>> =
            values.into_iter().map(|(key, value)| Ok(self.write(Key::new(&key)?, value, self.default_ttl))).collect();
        async move { self.store.set_many(writes?).await.into_iter().collect() }
    }

    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        let keys = Key::many(keys);
        async move { self.store.del_many(&keys?).await.into_iter().collect() }
    }
}

impl<S> fmt::Debug for DelegateCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelegateCache").field("default_ttl", &self.default_ttl).finish_non_exhaustive()
    }
}
