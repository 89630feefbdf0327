//! The chain itself.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use cache_core::{Cache, CacheKey, Entry, Error, ErrorKind, Key, Result, SharedClock, Ttl};
use tokio::sync::{Semaphore, watch};

use crate::{
    backfill::Queue,
    budget::{Budget, after},
    builder::{ChainBuilder, Weigher},
    completion::Ground,
    flights::{Flights, Starter},
    leases::Releases,
    load::{Landed, Landing},
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
/// What no tier has is loaded by [`get_or_load`](Self::get_or_load).
///
/// A clone is the same chain. Dropping the last one throws away the backfills that are still queued; use
/// [`shutdown`](Self::shutdown) to finish them.
///
/// # Cancel safety
///
/// A dropped read leaves no trace but its lookup, which may go on until the tiers' timeouts. A write, once polled, runs to its
/// end even if its future is dropped; later writes of its keys wait for it.
///
/// # Runtime
///
/// The chain does its work in tasks on the tokio runtime in which it was built, so it can be called from any runtime or
/// executor. When that runtime has ended, calls that go below the first tier fail with [`Closed`](ErrorKind::Closed).
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
    pub(crate) inner: Arc<Inner<V>>,
}

pub(crate) struct Inner<V> {
    pub(crate) tiers: Arc<[Tier<V>]>,
    pub(crate) queue: Arc<Queue<V>>,
    /// Up to which position the queue's jobs have been applied.
    pub(crate) drained: watch::Receiver<u64>,
    /// The leases that lookups do not need, and how many have been seen to; `None` if they leave nothing behind.
    pub(crate) releases: Option<Arc<Releases>>,
    pub(crate) released: watch::Receiver<u64>,
    pub(crate) ground: Ground,
    pub(crate) clock: SharedClock,
    pub(crate) weigher: Weigher<V>,
    pub(crate) default_ttl: Ttl,
    pub(crate) jitter: f64,
    pub(crate) deadline: Option<Duration>,
    pub(crate) flights: Starter,
    /// Lookups in the tiers, and loads. No key has more than one of each.
    /// Lookups that leave time for a loader are apart if there is a deadline.
    pub(crate) reads: [Flights<Looked<V>>; 2],
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

    /// Drains queued backfills, detached writes and the stores' buffers, waiting at most `timeout`. Reads and writes still work
    /// afterwards, but nothing is backfilled any more.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`Timeout`](ErrorKind::Timeout) if the time was not enough; backfills that were still queued are
    /// dropped then. Otherwise fails as the stores do.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has closed the queue; queued backfills are still applied.
    pub async fn shutdown(&self, timeout: Duration) -> Result<()> {
        self.inner.queue.close();
        let done = self.inner.ground.runtime.timeout_at(after(timeout), self.wait()).await;
        done.unwrap_or_else(|| {
            let queued = self.inner.queue.stats().items;
            self.inner.queue.discard();
            let message = format!("shutdown timed out after {timeout:?}; {queued} queued backfills were dropped");
            Err(Error::new(ErrorKind::Timeout, message))
        })
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

    /// The fresh entry of a key, and the place of its tier.
    async fn entry(&self, key: Key) -> Result<Option<(usize, Entry<V>)>> {
        match self.inner.first_fresh(&key) {
            Some(entry) => Ok(Some((0, entry))),
            None => self.below(key).await,
        }
    }

    /// As [`entry`](Self::entry), if the first tier does not have it at once.
    async fn below(&self, key: Key) -> Result<Option<(usize, Entry<V>)>> {
        Box::pin(self.inner.read(key)).await
    }

    /// Runs a write of these keys to its end; its caller waits no longer than the chain's deadline.
    async fn write<F>(&self, keys: Arc<[Key]>, write: impl FnOnce(Arc<Inner<V>>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let Inner { ground, deadline, .. } = &*self.inner;
        // It is large, and is moved into its task.
        let write = Box::pin(repaired(Arc::clone(&self.inner), write(Arc::clone(&self.inner))));
        let inner = Arc::clone(&self.inner);
        let delete = |keys: Vec<Key>| async move {
            if inner.del(&keys).await.is_err() {
                inner.mend();
            }
        };
        let write = ground.complete(keys, write, delete);
        match *deadline {
            None => write.await,
            deadline => Budget::new(deadline).bound(&ground.runtime, write).await,
        }
    }
}

/// A write after which the tiers that failed are repaired in the background.
async fn repaired<V, F>(inner: Arc<Inner<V>>, write: F) -> Result<()>
where
    V: Clone + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send,
{
    write.await.inspect_err(|_| inner.mend())
}

impl<V: Clone + Send + Sync + 'static> Cache for ChainCache<V> {
    type Value = V;

    fn set(&self, key: impl CacheKey, value: V) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.set_entry(key?, value, Ttl::Never).await }
    }

    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<V>>> + Send {
        let key = Key::new(&key);
        async move {
            let key = key?;
            // The common case first: it builds no other future and allocates nothing.
            match self.inner.first_fresh(&key) {
                Some(entry) => Ok(entry.into_value()),
                None => Ok(self.below(key).await?.and_then(|(_, entry)| entry.into_value())),
            }
        }
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
            let keys = Arc::from([key?]);
            self.write(Arc::clone(&keys), |inner| async move { inner.del(&keys).await }).await
        }
    }

    async fn clear(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let clear = async move {
            // Values that detached writes have yet to bring are removed as well. If these do not end, the rest is cleared.
            let _ = inner.ground.detached.wait_for_all().await;
            inner.clear().await
        };
        self.inner.ground.complete_clear(repaired(Arc::clone(&self.inner), clear)).await
    }

    async fn wait(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.inner.ground.runtime.run(async move { inner.wait().await }).await?
    }

    fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send {
        let keys = Key::many(keys);
        async move {
            let keys = keys?;
            Box::pin(self.inner.read_many(keys)).await
        }
    }

    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> impl Future<Output = Result<()>> + Send {
        let values: Result<Vec<_>> = values.into_iter().map(|(key, value)| Ok((Key::new(&key)?, value))).collect();
        async move {
            let values = last_of_each(values?);
            let keys = values.iter().map(|(key, _)| key.clone()).collect();
            self.write(keys, |inner| async move { inner.set(values, Ttl::Never).await }).await
        }
    }

    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        let keys = Key::many(keys);
        async move {
            let keys: Arc<[Key]> = keys?.into();
            self.write(Arc::clone(&keys), |inner| async move { inner.del(&keys).await }).await
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
        let keys = Arc::from([key.clone()]);
        self.write(keys, |inner| async move { inner.set(vec![(key, value)], ttl).await }).await
    }
}

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    async fn wait(&self) -> Result<()> {
        let end = self.queue.end();
        let mut drained = self.drained.clone();
        if drained.wait_for(|position| *position >= end).await.is_err() && self.queue.stats().items > 0 {
            return Err(Error::new(ErrorKind::Closed, "the runtime that the chain was built in has ended"));
        }
        if let Some(releases) = &self.releases {
            let end = releases.end_of_queue();
            // Without its task, they run out by themselves.
            let _ = self.released.clone().wait_for(|done| *done >= end).await;
        }
        self.ground.detached.wait_for_all().await?;
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
        if let Some(releases) = &self.releases {
            releases.close();
        }
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
