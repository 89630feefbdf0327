//! What an application calls to read through the chain.

use std::error::Error as StdError;

use cache_core::{CacheKey, Entry, Key, Result};

use crate::{
    chain::ChainCache,
    load::Landed,
    loaded::{Load, Loader, loader},
    outcome::{Outcome, Source},
};

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// The value of the key or, if no tier has it, what `load` brings; that is cached.
    ///
    /// The loader may return a plain value, an `Option` whose `None` is remembered as well, or a [`Loaded`](crate::Loaded) with a TTL of its
    /// own; see [`Load`] for what the caller gets then. How long callers wait, how stale values are served, and more, is set by
    /// [`ReadThrough`](crate::ReadThrough).
    ///
    /// - **One load per key.** Callers of one key wait for one load, and so do other processes if a tier grants claims.
    /// - **Nested loads.** A loader may read other keys, of this chain or of another one. If it reads a key whose loader waits
    ///   for this one, directly or through others, that read fails at once. Loads that a running load waits for take no permit
    ///   of [`concurrent_loads`](crate::ReadThrough::concurrent_loads). Both hold for calls that the loader awaits itself; in
    ///   tasks that it spawns, a cycle ends by the timeouts.
    /// - **The chain's runtime.** The loader runs in a task on the runtime in which the chain was built, without the task-locals
    ///   of the caller.
    /// - **No resurrection.** What is loaded is not cached if the key was set, deleted or cleared meanwhile, and who comes after
    ///   that does not wait for the older load.
    /// - **Failures are not cached.** The next caller loads again.
    ///
    /// # Errors
    ///
    /// Of kind [`Loader`](cache_core::ErrorKind::Loader) if the loader fails: its own error is the source, shared by all who waited; take
    /// it back by [`Error::source_as`](cache_core::Error::source_as). (What is no error type itself, such as a `String` or an `anyhow::Error`, is boxed as
    /// its own conversion does it, and can be shown but not taken back.) [`Panicked`](cache_core::ErrorKind::Panicked) if it panics,
    /// [`Timeout`](cache_core::ErrorKind::Timeout) if it takes too long, [`Absent`](cache_core::ErrorKind::Absent) if the caller's loader returns a
    /// plain value and another has found that there is none, [`Cycle`](cache_core::ErrorKind::Cycle) if this call is made in a
    /// loader and the key waits for that, [`Closed`](cache_core::ErrorKind::Closed) if the chain's runtime has ended. A tier that
    /// fails is passed over.
    ///
    /// # Cancel safety
    ///
    /// A dropped caller leaves the load to the other callers. The last one aborts it: the loader's future is dropped soon after,
    /// at its next await.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::ChainCache;
    /// use cache_core::testkit::MapStore;
    ///
    /// async fn name_of(id: u64) -> std::io::Result<String> {
    ///     Ok(format!("user {id}")) // your query
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let names: ChainCache<String> = ChainCache::builder().tier(MapStore::new()).build()?;
    /// let name = names.get_or_load(("name", 42), || name_of(42)).await?;
    /// assert_eq!(name, "user 42");
    ///
    /// let error = names.get_or_load(7, || async { Err::<String, _>(std::fmt::Error) }).await.unwrap_err();
    /// assert_eq!(error.source_as::<std::fmt::Error>(), Some(&std::fmt::Error));
    /// # Ok::<(), cache_chain::Error>(()) }).unwrap();
    /// ```
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
        async move {
            let key = key?;
            // The common case first: it builds no other future and allocates nothing.
            match self.inner.first(&key) {
                Some(entry) if !self.inner.is_due(&entry) => T::output(entry.into_value()),
                due => T::output(self.loaded(key, due, loader(load)).await?.value),
            }
        }
    }

    /// As [`get_or_load`](Self::get_or_load), and where the value came from.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load); that there is no value is none.
    pub fn get_or_load_detailed<T, E, F, Fut>(
        &self,
        key: impl CacheKey,
        load: F,
    ) -> impl Future<Output = Result<Outcome<V>>> + Send
    where
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let key = Key::new(&key);
        async move {
            let key = key?;
            match self.inner.first(&key) {
                Some(entry) if !self.inner.is_due(&entry) => {
                    Ok(self.inner.outcome(Landed { entry, source: Source::Tier(0) }))
                }
                due => self.loaded(key, due, loader(load)).await,
            }
        }
    }

    /// The values of `keys`, in their order; what no tier has is loaded by one call of `load` for all of it, and what another
    /// caller is loading already is waited for.
    ///
    /// `load` is given the keys that are missing and returns pairs of keys and what it found; what it does not mention is
    /// remembered as absent. It is not called if nothing is missing. Other processes are not waited for.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), of the first key that has one.
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::ChainCache;
    /// use cache_core::testkit::MapStore;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let squares: ChainCache<u64> = ChainCache::builder().tier(MapStore::new()).build()?;
    /// let load = |missing: Vec<u64>| async move {
    ///     Ok::<_, std::io::Error>(missing.into_iter().map(|n| (n, n * n)).collect::<Vec<_>>())
    /// };
    /// assert_eq!(squares.get_or_load_many([2, 3], load).await?, [Some(4), Some(9)]);
    /// # Ok::<(), cache_chain::Error>(()) }).unwrap();
    /// ```
    pub async fn get_or_load_many<K, T, E, I, F, Fut>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: F,
    ) -> Result<Vec<Option<V>>>
    where
        K: CacheKey + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>>,
        I: IntoIterator<Item = (K, T)>,
        F: FnOnce(Vec<K>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
    {
        let keys: Vec<K> = keys.into_iter().collect();
        Box::pin(self.inner.through_many(keys, load)).await
    }

    async fn loaded(&self, key: Key, due: Option<Entry<V>>, loader: Loader<V>) -> Result<Outcome<V>> {
        Box::pin(self.inner.through(key, due, loader)).await
    }
}
