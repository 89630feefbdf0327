//! A cache over one store.

use std::{fmt, time::Duration};

use crate::{Cache, CacheKey, Entry, Expiry, Key, Result, SharedClock, Store, SystemClock, Ticket, Ttl, Write};

/// A [`Cache`] over one [`Store`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::DelegateCache;
/// use store_stretto::StrettoStore;
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     let users = DelegateCache::new(StrettoStore::<String>::new(10_000)?);
///     users.set_with_ttl(("users", 42), "Ada".to_owned(), Duration::from_secs(60)).await?;
///     assert_eq!(users.get(("users", 42)).await?.as_deref(), Some("Ada"));
///     users.del(("users", 42)).await?;
///     assert_eq!(users.get(("users", 42)).await?, None);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct DelegateCache<S> {
    store: S,
    clock: SharedClock,
    default_ttl: Ttl,
}

impl<S: Store> DelegateCache<S> {
    /// Creates a cache over `store`, on the system's clock, without a default TTL.
    pub fn new(store: S) -> Self {
        Self { store, clock: SystemClock::shared(), default_ttl: Ttl::Never }
    }

    /// Sets the clock, which must be that of the store. Default: [`SystemClock`].
    pub fn with_clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the TTL of values that are set without one. Default: they do not expire.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the TTL is zero.
    pub fn with_default_ttl(mut self, ttl: Duration) -> Result<Self> {
        self.default_ttl = Ttl::checked(ttl)?;
        Ok(self)
    }

    /// Returns the store.
    pub fn store(&self) -> &S {
        &self.store
    }

    fn write(&self, key: Key, value: S::Value, ttl: Ttl) -> Write<S::Value> {
        let now = self.clock.now();
        let entry = Entry::new(value, Expiry::after(now, ttl)).created_at(now);
        Write::new(key, entry, Ticket::unconditional())
    }

    async fn read(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        let found = match self.store.local() {
            Some(local) => local.get(key),
            None => self.store.get(key).await?,
        };
        Ok(found.filter(|entry| self.is_fresh(entry)))
    }

    /// Only a chain serves stale entries, because it can load them again.
    fn is_fresh(&self, entry: &Entry<S::Value>) -> bool {
        !entry.turns_stale() || !entry.stale_at().has_passed(&*self.clock)
    }
}

/// The methods of [`Cache`], which need no import of the trait.
impl<S: Store> DelegateCache<S> {
    /// Returns the value of the key, `None` if the store has none.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](crate::ErrorKind::InvalidInput) if the key cannot
    /// be used; else fails as the store does.
    #[doc(alias = "fetch")]
    pub fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<S::Value>>> + Send {
        let key = Key::new(&key);
        async move {
            let key = key?;
            // A hit in memory builds no other future and moves no entry.
            if let Some(local) = self.store.local() {
                let mut found = local.get(&key);
                let is_hit = found.as_ref().is_some_and(|entry| self.is_fresh(entry));
                return Ok(found.as_mut().filter(|_| is_hit).and_then(Entry::take_value));
            }
            Ok(self.read(&key).await?.and_then(Entry::into_value))
        }
    }

    /// Returns the value of the key and its remaining TTL.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(S::Value, Ttl)>>> + Send {
        let key = Key::new(&key);
        async move {
            let entry = self.read(&key?).await?;
            Ok(entry.and_then(|entry| {
                let remaining = entry.stale_at().remaining(self.clock.now());
                Some((entry.into_value()?, remaining))
            }))
        }
    }

    /// Returns the values of the keys, in their order, by one call of the store.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), if one of the keys fails.
    pub fn get_many<K: CacheKey>(
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

    /// Sets the value of the key, with the default TTL.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](crate::ErrorKind::InvalidInput) if the key cannot
    /// be used. Otherwise fails as the store does; the value may have been set then.
    #[doc(alias = "insert")]
    pub fn set(&self, key: impl CacheKey, value: S::Value) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.store.set(self.write(key?, value, self.default_ttl)).await }
    }

    /// Sets the value of the key, with this TTL.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set); of kind [`InvalidInput`](crate::ErrorKind::InvalidInput) if the TTL
    /// is zero.
    pub fn set_with_ttl(
        &self,
        key: impl CacheKey,
        value: S::Value,
        ttl: Duration,
    ) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.store.set(self.write(key?, value, Ttl::checked(ttl)?)).await }
    }

    /// Sets values with the default TTL, by one call of the store.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set): the first error, in the order of the values; the others may have been
    /// set. If any key cannot be used, nothing is set.
    pub fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, S::Value)>,
    ) -> impl Future<Output = Result<()>> + Send {
        let writes: Result<Vec<_>> =
            values.into_iter().map(|(key, value)| Ok(self.write(Key::new(&key)?, value, self.default_ttl))).collect();
        async move { self.store.set_many(writes?).await.into_iter().collect() }
    }

    /// Deletes the key. It is no error if the store has no value for it.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    #[doc(alias = "invalidate")]
    #[doc(alias = "remove")]
    pub fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.store.del(&key?).await }
    }

    /// Deletes the keys, by one call of the store.
    ///
    /// # Errors
    ///
    /// As [`set_many`](Self::set_many).
    pub fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        let keys = Key::many(keys);
        async move { self.store.del_many(&keys?).await.into_iter().collect() }
    }

    /// Deletes all keys of the store's namespace.
    ///
    /// # Errors
    ///
    /// Fails as the store does; some keys may be left then.
    #[doc(alias = "invalidate_all")]
    pub async fn clear(&self) -> Result<()> {
        self.store.clear().await
    }

    /// Waits until the store has applied its buffered writes.
    ///
    /// # Errors
    ///
    /// Fails as the store does.
    pub async fn wait(&self) -> Result<()> {
        self.store.wait().await
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Cache for DelegateCache<S> {
    type Value = S::Value;

    fn set(&self, key: impl CacheKey, value: S::Value) -> impl Future<Output = Result<()>> + Send {
        self.set(key, value)
    }

    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<S::Value>>> + Send {
        self.get(key)
    }

    fn set_with_ttl(
        &self,
        key: impl CacheKey,
        value: S::Value,
        ttl: Duration,
    ) -> impl Future<Output = Result<()>> + Send {
        self.set_with_ttl(key, value, ttl)
    }

    fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(S::Value, Ttl)>>> + Send {
        self.get_with_ttl(key)
    }

    fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        self.del(key)
    }

    async fn clear(&self) -> Result<()> {
        self.clear().await
    }

    async fn wait(&self) -> Result<()> {
        self.wait().await
    }

    fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<S::Value>>>> + Send {
        self.get_many(keys)
    }

    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, S::Value)>,
    ) -> impl Future<Output = Result<()>> + Send {
        self.set_many(values)
    }

    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        self.del_many(keys)
    }
}

impl<S> fmt::Debug for DelegateCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelegateCache").field("default_ttl", &self.default_ttl).finish_non_exhaustive()
    }
}
