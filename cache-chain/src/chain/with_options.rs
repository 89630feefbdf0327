//! Calls with options.

use std::{error::Error as StdError, time::Duration};

use cache_core::{CacheKey, Entry, Key, Result, Ttl};

use super::{
    ChainCache,
    options::{CallOptions, Resolved},
};
use crate::{
    load::{Load, LoadContext, LoadFn, load_fn},
    outcome::Found,
};

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Returns this chain with options for the calls that are made through the result.
    ///
    /// Calls without options do not pay for them.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::{CallOptions, ChainCache, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
    ///     users.set(42, "Ada".to_owned()).await?;
    ///
    ///     // After an administrator has edited the user elsewhere:
    ///     let reload = CallOptions::new().reload();
    ///     let load = || async { Ok::<_, std::io::Error>("Ada L.".to_owned()) };
    ///     let user = users.with(&reload).get_or_load(42, load).await?;
    ///     assert_eq!(user, "Ada L.");
    ///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada L."));
    ///     Ok(())
    /// }
    /// ```
    pub fn with(&self, options: &CallOptions) -> WithOptions<'_, V> {
        let resolved = options.resolve(&self.reader.tiers, &self.loader.call());
        WithOptions { chain: self, resolved }
    }
}

/// A chain with options for its calls; see [`ChainCache::with`].
///
/// Each method is that of [`ChainCache`]. If the options are invalid, it returns an error of kind
/// [`InvalidInput`](cache_core::ErrorKind::InvalidInput).
#[derive(Clone, Debug)]
#[must_use = "call a method of it"]
pub struct WithOptions<'a, V> {
    chain: &'a ChainCache<V>,
    resolved: Result<Resolved>,
}

impl<V: Clone + Send + Sync + 'static> WithOptions<'_, V> {
    /// As [`ChainCache::get`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<V>>> + Send {
        let key = Key::new(&key);
        async move { Ok(self.find(key?).await?.and_then(|(_, entry)| entry.into_value())) }
    }

    /// As [`ChainCache::get_with_ttl`]. The TTL of a stale value is zero.
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(V, Ttl)>>> + Send {
        let key = Key::new(&key);
        async move {
            let found = self.find(key?).await?;
            Ok(found.and_then(|(_, entry)| {
                let remaining = entry.stale_at().remaining(self.chain.reader.clock.now());
                Some((entry.into_value()?, remaining))
            }))
        }
    }

    /// As [`ChainCache::get_detailed`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get_detailed(&self, key: impl CacheKey) -> impl Future<Output = Result<Found<V>>> + Send {
        let key = Key::new(&key);
        async move {
            let (found, reader) = (self.find(key?).await?, &self.chain.reader);
            let found = found.map_or_else(Found::nowhere, |(place, entry)| reader.found(Some(place), entry));
            Ok(reader.detailed(found))
        }
    }

    /// As [`ChainCache::get_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_many`].
    pub fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send {
        let keys = Key::many(keys);
        async move {
            let (keys, resolved) = (keys?, self.resolved()?);
            let query = resolved.query();
            Box::pin(self.chain.reader.get_many_with(&keys, &query, resolved.allows_stale)).await
        }
    }

    /// As [`ChainCache::get_or_load`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load`].
    pub fn get_or_load<T, E, F, Fut>(
        &self,
        key: impl CacheKey,
        load: F,
    ) -> impl Future<Output = Result<T::Output>> + Send
    where
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let key = Key::new(&key);
        async move { T::output(self.load(key?, load_fn(|_| load())).await?.value) }
    }

    /// As [`ChainCache::get_or_load_detailed`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load_detailed`].
    pub fn get_or_load_detailed<T, E, F, Fut>(
        &self,
        key: impl CacheKey,
        load: F,
    ) -> impl Future<Output = Result<Found<V>>> + Send
    where
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let key = Key::new(&key);
        async move { Ok(self.chain.reader.detailed(self.load(key?, load_fn(|_| load())).await?)) }
    }

    /// As [`ChainCache::get_or_load_with`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load_with`].
    pub fn get_or_load_with<T, E, F, Fut>(
        &self,
        key: impl CacheKey,
        load: F,
    ) -> impl Future<Output = Result<T::Output>> + Send
    where
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let key = Key::new(&key);
        async move { T::output(self.load(key?, load_fn(load)).await?.value) }
    }

    /// As [`ChainCache::get_or_load_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load_many`].
    pub fn get_or_load_many<K, T, E, I, F, Fut>(
        &self,
        keys: impl AsRef<[K]>,
        load: F,
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send
    where
        K: CacheKey + Clone + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        F: FnOnce(Vec<K>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let keys = keys.as_ref().to_vec();
        Box::pin(async move { self.chain.loader.get_many(keys, load, &self.resolved()?.load).await })
    }

    /// As [`ChainCache::set`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set`].
    pub fn set(&self, key: impl CacheKey, value: V) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.write(vec![(key?, value)]).await }
    }

    /// As [`ChainCache::set_with_ttl`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set_with_ttl`].
    pub fn set_with_ttl(&self, key: impl CacheKey, value: V, ttl: Duration) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move {
            let (values, ttl) = (vec![(key?, value)], Ttl::checked(ttl)?);
            self.chain.writer.set(values, ttl, self.resolved()?.load.query.unwritten.clone()).await
        }
    }

    /// As [`ChainCache::set_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set_many`].
    pub fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> impl Future<Output = Result<()>> + Send {
        let values: Result<Vec<_>> = values.into_iter().map(|(key, value)| Ok((Key::new(&key)?, value))).collect();
        async move { self.write(values?).await }
    }

    fn resolved(&self) -> Result<&Resolved> {
        self.resolved.as_ref().map_err(Clone::clone)
    }

    /// Returns the entry of the key and the place of its tier.
    async fn find(&self, key: Key) -> Result<Option<(usize, Entry<V>)>> {
        let resolved = self.resolved()?;
        let query = resolved.query();
        Box::pin(self.chain.reader.get_with(&key, &query, resolved.allows_stale)).await
    }

    async fn load(&self, key: Key, load: LoadFn<V>) -> Result<Found<V>> {
        Box::pin(self.chain.loader.get_with(key, load, &self.resolved()?.load)).await
    }

    async fn write(&self, values: Vec<(Key, V)>) -> Result<()> {
        let Resolved { load, .. } = self.resolved()?;
        self.chain.writer.set(values, load.ttl, load.query.unwritten.clone()).await
    }
}
