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
/// [`InvalidInput`](cache_core::ErrorKind::InvalidInput). The future borrows the chain, and not this
/// value, so several calls fit into one `tokio::join!`.
#[derive(Clone, Debug)]
#[must_use = "call a method of it"]
pub struct WithOptions<'a, V> {
    chain: &'a ChainCache<V>,
    resolved: Result<Resolved>,
}

impl<'a, V: Clone + Send + Sync + 'static> WithOptions<'a, V> {
    /// As [`ChainCache::get`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get<K: CacheKey>(&self, key: K) -> impl Future<Output = Result<Option<V>>> + Send + use<'a, V, K> {
        let (this, key) = (self.clone(), Key::new(&key));
        async move { Ok(this.find(key?).await?.and_then(|(_, entry)| entry.into_value())) }
    }

    /// As [`ChainCache::get_with_ttl`]. The TTL of a stale value is zero.
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get_with_ttl<K: CacheKey>(
        &self,
        key: K,
    ) -> impl Future<Output = Result<Option<(V, Ttl)>>> + Send + use<'a, V, K> {
        let (this, key) = (self.clone(), Key::new(&key));
        async move {
            let found = this.find(key?).await?;
            Ok(found.and_then(|(_, entry)| {
                let remaining = entry.stale_at().remaining(this.chain.reader.clock.now());
                Some((entry.into_value()?, remaining))
            }))
        }
    }

    /// As [`ChainCache::get_detailed`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get_detailed<K: CacheKey>(&self, key: K) -> impl Future<Output = Result<Found<V>>> + Send + use<'a, V, K> {
        let (this, key) = (self.clone(), Key::new(&key));
        async move {
            let (found, reader) = (this.find(key?).await?, &this.chain.reader);
            let found = found.map_or_else(Found::nowhere, |(place, entry)| reader.found(Some(place), entry));
            Ok(reader.detailed(found))
        }
    }

    /// As [`ChainCache::get_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_many`].
    pub fn get_many<K: CacheKey, I: IntoIterator<Item = K>>(
        &self,
        keys: I,
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send + use<'a, V, K, I> {
        let (this, keys) = (self.clone(), Key::many(keys));
        async move {
            let (keys, resolved) = (keys?, this.resolved()?);
            let query = resolved.query();
            Box::pin(this.chain.reader.get_many_with(&keys, &query, resolved.allows_stale)).await
        }
    }

    /// As [`ChainCache::get_or_load`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load`].
    pub fn get_or_load<K, T, E, F, Fut>(
        &self,
        key: K,
        load: F,
    ) -> impl Future<Output = Result<T::Output>> + Send + use<'a, V, K, T, E, F, Fut>
    where
        K: CacheKey,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (this, key) = (self.clone(), Key::new(&key));
        async move { T::output(this.load(key?, load_fn(|_| load())).await?.value) }
    }

    /// As [`ChainCache::get_or_load_detailed`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load_detailed`].
    pub fn get_or_load_detailed<K, T, E, F, Fut>(
        &self,
        key: K,
        load: F,
    ) -> impl Future<Output = Result<Found<V>>> + Send + use<'a, V, K, T, E, F, Fut>
    where
        K: CacheKey,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (this, key) = (self.clone(), Key::new(&key));
        async move { Ok(this.chain.reader.detailed(this.load(key?, load_fn(|_| load())).await?)) }
    }

    /// As [`ChainCache::get_or_load_with`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load_with`].
    pub fn get_or_load_with<K, T, E, F, Fut>(
        &self,
        key: K,
        load: F,
    ) -> impl Future<Output = Result<T::Output>> + Send + use<'a, V, K, T, E, F, Fut>
    where
        K: CacheKey,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (this, key) = (self.clone(), Key::new(&key));
        async move { T::output(this.load(key?, load_fn(load)).await?.value) }
    }

    /// As [`ChainCache::get_or_load_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load_many`].
    pub fn get_or_load_many<Q, K, T, E, I, F, Fut>(
        &self,
        keys: Q,
        load: F,
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send + use<'a, V, Q, K, T, E, I, F, Fut>
    where
        Q: AsRef<[K]>,
        K: CacheKey + Clone + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        F: FnOnce(Vec<K>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let (this, keys) = (self.clone(), keys.as_ref().to_vec());
        Box::pin(async move { this.chain.loader.get_many(keys, load, &this.resolved()?.load).await })
    }

    /// As [`ChainCache::set`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set`].
    pub fn set<K: CacheKey>(&self, key: K, value: V) -> impl Future<Output = Result<()>> + Send + use<'a, V, K> {
        let (this, key) = (self.clone(), Key::new(&key));
        async move { this.write(vec![(key?, value)]).await }
    }

    /// As [`ChainCache::set_with_ttl`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set_with_ttl`].
    pub fn set_with_ttl<K: CacheKey>(
        &self,
        key: K,
        value: V,
        ttl: Duration,
    ) -> impl Future<Output = Result<()>> + Send + use<'a, V, K> {
        let (this, key) = (self.clone(), Key::new(&key));
        async move {
            let (values, ttl) = (vec![(key?, value)], Ttl::checked(ttl)?);
            this.chain.writer.set(values, ttl, this.resolved()?.load.query.unwritten.clone()).await
        }
    }

    /// As [`ChainCache::set_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set_many`].
    pub fn set_many<K: CacheKey, I: IntoIterator<Item = (K, V)>>(
        &self,
        values: I,
    ) -> impl Future<Output = Result<()>> + Send + use<'a, V, K, I> {
        let this = self.clone();
        let values: Result<Vec<_>> = values.into_iter().map(|(key, value)| Ok((Key::new(&key)?, value))).collect();
        async move { this.write(values?).await }
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
