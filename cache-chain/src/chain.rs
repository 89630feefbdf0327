//! The chain itself.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use cache_core::{Cache, CacheKey, Entry, Error, ErrorKind, Key, Result, SharedClock, Ttl};
use tokio::{sync::watch, time::timeout};

use crate::{
    backfill::Queue,
    builder::{ChainBuilder, Weigher},
    completion::{Completion, Ground},
    stats::Stats,
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
        Stats { tiers, backfill: self.inner.queue.stats() }
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

    async fn entry(&self, key: Key) -> Result<Option<Entry<V>>> {
        // The common case first: it builds no other future and allocates nothing.
        match self.inner.first(&key) {
            Some(entry) => Ok(Some(entry)),
            None => Box::pin(self.inner.ground.within(self.inner.read(key))).await,
        }
    }

    fn write<F>(&self, write: impl FnOnce(Arc<Inner<V>>) -> F) -> Completion
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.inner.ground.complete(write(Arc::clone(&self.inner)))
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
        async move { Ok(self.entry(key?).await?.and_then(Entry::into_value)) }
    }

    fn set_with_ttl(&self, key: impl CacheKey, value: V, ttl: Duration) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.set_entry(key?, value, Ttl::checked(ttl)?).await }
    }

    fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(V, Ttl)>>> + Send {
        let key = Key::new(&key);
        async move {
            let entry = self.entry(key?).await?;
            Ok(entry.and_then(|entry| {
                let remaining = entry.remaining(self.inner.clock.now());
                Some((entry.into_value()?, remaining))
            }))
        }
    }

    fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move {
            let key = key?;
            self.write(|inner| async move { inner.del(&[key]).await }).await
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
            let entries = Box::pin(self.inner.ground.within(self.inner.read_many(keys))).await?;
            Ok(entries.into_iter().map(|entry| entry.and_then(Entry::into_value)).collect())
        }
    }

    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> impl Future<Output = Result<()>> + Send {
        let values: Result<Vec<_>> = values.into_iter().map(|(key, value)| Ok((Key::new(&key)?, value))).collect();
        async move {
            let values = last_of_each(values?);
            self.write(|inner| async move { inner.set(values, Ttl::Never).await }).await
        }
    }

    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        let keys = Key::many(keys);
        async move {
            let keys = keys?;
            self.write(|inner| async move { inner.del(&keys).await }).await
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
    fn set_entry(&self, key: Key, value: V, ttl: Ttl) -> Completion {
        self.write(|inner| async move { inner.set(vec![(key, value)], ttl).await })
    }
}

impl<V: Clone + Send + Sync + 'static> Inner<V> {
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
