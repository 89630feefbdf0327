//! The chain itself.

use std::{collections::HashMap, error::Error as StdError, fmt, sync::Arc, time::Duration};

use cache_core::{Cache, CacheKey, Entry, Error, ErrorKind, Key, Result, SharedClock, Ttl};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    backfill::Queue,
    budget::Budget,
    builder::{ChainBuilder, Weigher},
    completion::{Completion, Ground},
    flight::Flights,
    load::{Landed, Landing},
    loaded::{Load, Loader, loader},
    mend::Mending,
    outcome::{Outcome, Source},
    pauses::Pauses,
    read::Looked,
    read_through::ReadThrough,
    stats::{LoadCounters, Stats},
    tier::Tier,
    write::Failures,
};

/// A [`Cache`] over any number of tiers, the fastest first.
///
/// - `get` goes down from the first tier and returns at the first hit; the tiers above are backfilled asynchronously,
///   through a bounded queue, with the TTL that remains.
/// - `set` writes every tier, from the last up; `del` and `clear` remove from every tier, likewise.
/// - A tier that fails or is late is passed over by reads; if no tier has the value then, its error is the answer, for
///   "not found" would be a guess. Writes report every tier that failed.
///
/// A clone is the same chain. Dropping the last one throws away the backfills that are still queued; use
/// [`shutdown`](Self::shutdown) to finish them.
///
/// # Cancel safety
///
/// A dropped read leaves no trace. A write, once polled, runs to its end even if its future is dropped.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cache_chain::{Cache, ChainCache};
/// use cache_core::testkit::MapStore;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (memory, shared) = (MapStore::new(), MapStore::new());
/// let users: ChainCache<String> = ChainCache::builder().tier(memory).tier(shared).build()?;
///
/// users.set_with_ttl(("acme", 42), "Ada".to_owned(), Duration::from_secs(60)).await?;
/// assert_eq!(users.get(("acme", 42)).await?.as_deref(), Some("Ada"));
/// users.del(("acme", 42)).await?;
/// assert_eq!(users.get(("acme", 42)).await?, None);
/// # Ok::<(), cache_chain::Error>(()) }).unwrap();
/// ```
pub struct ChainCache<V> {
    inner: Arc<Inner<V>>,
}

pub(crate) struct Inner<V> {
    pub(crate) tiers: Arc<[Tier<V>]>,
    pub(crate) queue: Arc<Queue<V>>,
    /// Up to which position the queue's jobs have been applied.
    pub(crate) drained: watch::Receiver<u64>,
    pub(crate) ground: Ground,
    pub(crate) clock: SharedClock,
    pub(crate) weigher: Weigher<V>,
    pub(crate) default_ttl: Ttl,
    pub(crate) jitter: f64,
    pub(crate) deadline: Option<Duration>,
    /// Looks through the tiers, and loads. No key has more than one of each.
    pub(crate) reads: Flights<Looked<V>>,
    pub(crate) loads: Flights<Landing<V>>,
    pub(crate) permits: Semaphore,
    pub(crate) pauses: Pauses,
    pub(crate) mending: Mending,
    pub(crate) load_counters: LoadCounters,
    pub(crate) read_through: ReadThrough,
}

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Starts a chain without tiers.
    pub fn builder() -> ChainBuilder<V> {
        ChainBuilder::new()
    }

    pub(crate) fn new(inner: Inner<V>) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// What the chain has done so far.
    pub fn stats(&self) -> Stats {
        let tiers = self.inner.tiers.iter().map(Tier::stats).collect();
        Stats {
            tiers,
            backfill: self.inner.queue.stats(),
            loads: self.inner.load_counters.snapshot(self.inner.loads.len()),
        }
    }

    /// Finishes the queued backfills, the writes whose callers went away, and the stores' buffers, within `deadline`. Reads and writes go on to work; what
    /// they would backfill is dropped from now on.
    ///
    /// # Errors
    ///
    /// Of kind [`Timeout`](ErrorKind::Timeout) if the deadline came first; what was queued then is thrown away. Else as the
    /// stores fail.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has closed the queue; what is in it is still applied.
    pub async fn shutdown(&self, deadline: Duration) -> Result<()> {
        self.inner.queue.close();
        let rest = self.inner.ground.within(async { timeout(deadline, self.wait()).await });
        rest.await.unwrap_or_else(|_| {
            self.inner.queue.discard();
            let message = format!("the chain did not come to rest within {deadline:?}; queued backfills were dropped");
            Err(Error::new(ErrorKind::Timeout, message))
        })
    }

    /// The value of the key or, if no tier has it, what `load` brings; that is cached.
    ///
    /// The loader may return a plain value, an `Option` whose `None` is remembered as well, or a [`Loaded`] with a TTL of its
    /// own; see [`Load`] for what the caller gets then. How long callers wait, how stale values are served, and more, is set by
    /// [`ReadThrough`].
    ///
    /// - **One load per key.** Callers of one key wait for one load, and so do other processes if a tier grants claims. Do not
    ///   call this for the same key from its own loader: it would wait for itself.
    /// - **No resurrection.** What is loaded is not cached if the key was set, deleted or cleared meanwhile, and who comes after
    ///   that does not wait for the older load.
    /// - **Failures are not cached.** The next caller loads again.
    ///
    /// # Errors
    ///
    /// Of kind [`Loader`](ErrorKind::Loader) if the loader fails: its own error is the source, shared by all who waited; take
    /// it back by [`Error::source_as`]. [`Panicked`](ErrorKind::Panicked) if it panics, [`Timeout`](ErrorKind::Timeout) if it
    /// takes too long, [`Absent`](ErrorKind::Absent) if the caller's loader returns a plain value and another has found that
    /// there is none. A tier that fails is passed over.
    ///
    /// # Cancel safety
    ///
    /// A caller that is dropped leaves the load to those who wait for it; it goes on where it is. The last one ends it.
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
            let first = self.inner.first(&key);
            // The common case first: it builds no other future and allocates nothing.
            match first {
                Some(entry) if self.inner.is_plain(&entry) => T::output(entry.into_value()),
                first => T::output(self.loaded(key, first, loader(load)).await?.value),
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
            let first = self.inner.first(&key);
            self.loaded(key, first, loader(load)).await
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
        Box::pin(self.inner.ground.within(self.inner.through_many(keys, load))).await
    }

    /// As [`get`](Cache::get), and where the value came from.
    ///
    /// # Errors
    ///
    /// As [`get`](Cache::get).
    pub fn get_detailed(&self, key: impl CacheKey) -> impl Future<Output = Result<Outcome<V>>> + Send {
        let key = Key::new(&key);
        async move {
            let found = self.entry(key?).await?;
            Ok(found.map_or_else(Outcome::nowhere, |(at, entry)| {
                self.inner.outcome(Landed { entry, source: Source::Tier(at) })
            }))
        }
    }

    async fn loaded(&self, key: Key, first: Option<Entry<V>>, loader: Loader<V>) -> Result<Outcome<V>> {
        Box::pin(self.inner.ground.within(self.inner.through(key, first, loader))).await
    }

    /// The fresh entry of a key, and the place of its tier.
    async fn entry(&self, key: Key) -> Result<Option<(usize, Entry<V>)>> {
        // The common case first: it builds no other future and allocates nothing.
        match self.inner.first_fresh(&key) {
            Some(entry) => Ok(Some((0, entry))),
            None => Box::pin(self.inner.ground.within(self.inner.read(key))).await,
        }
    }

    fn write<F>(&self, write: impl FnOnce(Arc<Inner<V>>) -> F) -> Completion
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let write = write(Arc::clone(&inner));
        self.inner.ground.complete(async move {
            // What failed is made up for, in the background.
            write.await.inspect_err(|_| inner.mend())
        })
    }

    /// A write whose caller waits no longer than the chain's deadline.
    async fn write_in_time<F>(&self, write: impl FnOnce(Arc<Inner<V>>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let write = self.write(write);
        match self.inner.deadline {
            None => write.await,
            deadline => self.inner.ground.within(Budget::new(deadline).bound(write)).await,
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Cache for ChainCache<V> {
    type Value = V;

    fn set(&self, key: impl CacheKey, value: V) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.set_entry(key?, value, Ttl::Never).await }
    }

    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<V>>> + Send {
        let key = Key::new(&key);
        async move { Ok(self.entry(key?).await?.and_then(|(_, entry)| entry.into_value())) }
    }

    fn set_with_ttl(&self, key: impl CacheKey, value: V, ttl: Duration) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.set_entry(key?, value, Ttl::checked(ttl)?).await }
    }

    fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(V, Ttl)>>> + Send {
        let key = Key::new(&key);
        async move {
            let entry = self.entry(key?).await?;
            Ok(entry.and_then(|(_, entry)| {
                // What is stale is not served here.
                let remaining = entry.stale_at().remaining(self.inner.clock.now());
                Some((entry.into_value()?, remaining))
            }))
        }
    }

    fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move {
            let key = key?;
            self.write_in_time(|inner| async move { inner.del(&[key]).await }).await
        }
    }

    async fn clear(&self) -> Result<()> {
        self.write(|inner| async move { inner.clear().await }).await
    }

    async fn wait(&self) -> Result<()> {
        self.inner.ground.within(self.inner.wait()).await
    }

    fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send {
        let keys = Key::many(keys);
        async move {
            let keys = keys?;
            Box::pin(self.inner.ground.within(self.inner.read_many(keys))).await
        }
    }

    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> impl Future<Output = Result<()>> + Send {
        let values: Result<Vec<_>> = values.into_iter().map(|(key, value)| Ok((Key::new(&key)?, value))).collect();
        async move {
            let values = last_of_each(values?);
            self.write_in_time(|inner| async move { inner.set(values, Ttl::Never).await }).await
        }
    }

    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        let keys = Key::many(keys);
        async move {
            let keys = keys?;
            self.write_in_time(|inner| async move { inner.del(&keys).await }).await
        }
    }
}

/// The last value of each key: written twice in one batch, a key would be left absent above the last tier.
fn last_of_each<V>(mut values: Vec<(Key, V)>) -> Vec<(Key, V)> {
    let last: HashMap<Key, usize> = values.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)).collect();
    let mut at = 0..;
    values.retain(|(key, _)| last.get(key).copied() == at.next());
    values
}

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    async fn set_entry(&self, key: Key, value: V, ttl: Ttl) -> Result<()> {
        self.write_in_time(|inner| async move { inner.set(vec![(key, value)], ttl).await }).await
    }
}

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    async fn read(self: &Arc<Self>, key: Key) -> Result<Option<(usize, Entry<V>)>> {
        let budget = Budget::new(self.deadline);
        budget.bound(self.look(&key, budget, false)).await?.fresh()
    }

    async fn read_many(&self, keys: Vec<Key>) -> Result<Vec<Option<V>>> {
        let budget = Budget::new(self.deadline);
        let looked = budget.bound(async { Ok(self.look_for_many(&keys, budget, false).await) }).await?;
        looked.into_iter().map(|looked| Ok(looked.fresh()?.and_then(|(_, entry)| entry.into_value()))).collect()
    }

    async fn wait(&self) -> Result<()> {
        let end = self.queue.end();
        let mut drained = self.drained.clone();
        if drained.wait_for(|position| *position >= end).await.is_err() && self.queue.stats().items > 0 {
            return Err(Error::new(ErrorKind::Closed, "the runtime that the chain was built in has ended"));
        }
        self.ground.orphans_done().await;
        let mut failures = Failures::default();
        for tier in &*self.tiers {
            failures.note(tier, tier.wait().await);
        }
        failures.outcome("wait")
    }
}

impl<V> Drop for Inner<V> {
    fn drop(&mut self) {
        self.queue.close();
        self.queue.discard();
    }
}

impl<V> Clone for ChainCache<V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<V> fmt::Debug for ChainCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainCache").field("tiers", &self.inner.tiers).finish_non_exhaustive()
    }
}
