//! The chain: parses keys, serves hits of the first tier, and forwards everything else.

mod blocking;
mod builder;
mod explain;
mod freshness;
mod get_or_load;
mod metrics;
mod operations;
mod options;
mod with_options;

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use cache_core::{Cache, CacheKey, Entry, Error, ErrorKind, Key, Result, Ttl};

pub use self::{blocking::BlockingChain, builder::ChainBuilder, options::CallOptions, with_options::WithOptions};
use crate::{
    invalidation::Supervisor,
    load::Loader,
    metrics::Publisher,
    outcome::Found,
    read::Reader,
    stats::Stats,
    tier::{Places, Tier},
    util::deadline::after,
    write::{Failures, Scope, Writer},
};

/// A [`Cache`] over any number of tiers, the fastest first.
///
/// - [`get`](Self::get) asks the tiers from the first down and returns the first hit. The tiers
///   above are backfilled asynchronously, through a bounded queue, with the remaining TTL.
/// - [`set`](Self::set) writes every tier, from the last up; [`del`](Self::del) and
///   [`clear`](Self::clear) delete from every tier, likewise.
/// - [`get_or_load`](Self::get_or_load) loads what no tier has, once per key.
/// - A read skips a tier that fails or times out. If no other tier has the key, the read returns
///   the error, because "not found" would be a guess. A write reports every tier that failed; see
///   [`Error::will_be_repaired`].
///
/// A clone is the same chain. When the last clone is dropped, queued backfills are dropped, too;
/// call [`shutdown`](Self::shutdown) to complete them.
///
/// # Cancel safety
///
/// A dropped read has no effect except that its lookup may go on until the timeouts of the tiers. A
/// write, once polled, runs to its end even if its future is dropped; later writes of its keys wait
/// for it.
///
/// # Runtime
///
/// The chain works in tasks on the tokio runtime in which it was built, so it can be called from
/// any runtime or executor. After that runtime has ended, calls that go below the first tier fail
/// with [`Closed`](ErrorKind::Closed).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{ChainCache, Tier, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder()
///         .tier(Tier::new(StrettoStore::new(1_000)?).name("hot"))
///         // In production the second tier is one that processes share, such as Redis.
///         .tier(Tier::new(StrettoStore::new(100_000)?).name("warm"))
///         .build()?;
///
///     users.set_with_ttl(("acme", 42), "Ada".to_owned(), Duration::from_secs(60)).await?;
///     assert_eq!(users.get(("acme", 42)).await?.as_deref(), Some("Ada"));
///     users.del(("acme", 42)).await?;
///     assert_eq!(users.get(("acme", 42)).await?, None);
///     Ok(())
/// }
/// ```
pub struct ChainCache<V> {
    // Everything a hit needs is in the reader and the loader.
    reader: Arc<Reader<V>>,
    loader: Arc<Loader<V>>,
    writer: Arc<Writer<V>>,
    /// Ends the invalidation streams with the last clone of the chain.
    supervisor: Arc<Supervisor>,
    publisher: Option<Publisher>,
}

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Starts to build a chain.
    pub fn builder() -> ChainBuilder<V> {
        ChainBuilder::new()
    }

    /// Returns the value of the key, `None` if no tier has one.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](ErrorKind::InvalidInput) if the key cannot be
    /// used. If no tier has the key and a tier has failed, returns the error of the first that did.
    #[doc(alias = "fetch")]
    pub fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<V>>> + Send {
        let key = Key::new(&key);
        async move {
            // In a block, because a future has room for all that may live across its `await`.
            let lookup = {
                let key = key?;
                // The common case first: it builds no other future and allocates nothing.
                let mut peeked = self.reader.peek(&key);
                if self.reader.is_hit(peeked.as_ref()) {
                    return Ok(peeked.as_mut().and_then(Entry::take_value));
                }
                self.look_up(key, peeked)
            };
            Ok(lookup.await?.and_then(|(_, entry)| entry.into_value()))
        }
    }

    /// Returns the value of the key and its remaining TTL: the time for which it is fresh.
    /// [`Found::ttl`] includes the time for which it may be served stale.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(V, Ttl)>>> + Send {
        let key = Key::new(&key);
        async move {
            let found = self.find(key?).await?;
            Ok(found.and_then(|(_, entry)| {
                let remaining = entry.stale_at().remaining(self.reader.clock.now());
                Some((entry.into_value()?, remaining))
            }))
        }
    }

    /// Returns the value of the key, where it came from, its age and its remaining TTL.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_detailed(&self, key: impl CacheKey) -> impl Future<Output = Result<Found<V>>> + Send {
        let key = Key::new(&key);
        async move {
            let found = self.find(key?).await?;
            let found = found.map_or_else(Found::nowhere, |(place, entry)| self.reader.found(Some(place), entry));
            Ok(self.reader.detailed(found))
        }
    }

    /// Returns the values of the keys, in their order. Each tier is asked once, for the keys that
    /// the tiers above lack.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), if one of the keys fails.
    pub fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send {
        let keys = Key::many(keys);
        async move {
            let keys = keys?;
            Box::pin(self.reader.get_many(&keys)).await
        }
    }

    /// Sets the value of the key in every tier, with the default TTL.
    ///
    /// # Errors
    ///
    /// Returns an error that names every tier that failed ([`Error::failures`]). No tier serves an
    /// older value then: the key is deleted from the tiers that failed when they answer again, in
    /// the background; see [`Error::will_be_repaired`].
    #[doc(alias = "insert")]
    pub fn set(&self, key: impl CacheKey, value: V) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.writer.set(vec![(key?, value)], Ttl::Never, Places::new()).await }
    }

    /// Sets the value of the key in every tier, with this TTL.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set); of kind [`InvalidInput`](ErrorKind::InvalidInput) if the TTL is zero.
    pub fn set_with_ttl(&self, key: impl CacheKey, value: V, ttl: Duration) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.writer.set(vec![(key?, value)], Ttl::checked(ttl)?, Places::new()).await }
    }

    /// Sets values with the default TTL. If a key occurs more than once, its last value is set.
    /// Each tier is called once.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set). If any key cannot be used, nothing is set.
    pub fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> impl Future<Output = Result<()>> + Send {
        let values: Result<Vec<_>> = values.into_iter().map(|(key, value)| Ok((Key::new(&key)?, value))).collect();
        async move { self.writer.set(values?, Ttl::Never, Places::new()).await }
    }

    /// Deletes the key from every tier.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    #[doc(alias = "remove")]
    pub fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { self.writer.del(Arc::from([key?])).await }
    }

    /// Deletes the keys from every tier. Each tier is called once.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set). If any key cannot be used, nothing is deleted.
    pub fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        let keys = Key::many(keys);
        async move { self.writer.del(keys?.into()).await }
    }

    /// Deletes all keys from every tier.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set). A tier that failed is not read until it has been cleared.
    pub async fn clear(&self) -> Result<()> {
        self.writer.clear(Scope::All).await
    }

    /// Waits until queued backfills, detached writes, the return of leases and claims, and the
    /// buffers of the stores are done.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`Timeout`](ErrorKind::Timeout) if detached writes do not end, of
    /// kind [`Closed`](ErrorKind::Closed) if the runtime of the chain has ended; else fails as the
    /// stores do.
    pub async fn wait(&self) -> Result<()> {
        let (reader, writer) = (Arc::clone(&self.reader), Arc::clone(&self.writer));
        let wait = async move {
            reader.backfills.wait().await?;
            reader.returns.wait().await;
            reader.released_claims.wait().await;
            writer.wait().await?;
            let mut failures = Failures::default();
            for tier in &*reader.tiers {
                failures.note(tier, tier.wait().await);
            }
            failures.result("wait")
        };
        self.reader.runtime.run(wait).await?
    }

    /// Drains queued backfills, detached writes and the buffers of the stores, waiting at most
    /// `timeout`. The chain can still be read and written afterwards, but backfills nothing.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`Timeout`](ErrorKind::Timeout) if the time did not suffice;
    /// backfills still queued are dropped then. Else fails as [`wait`](Self::wait).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has closed the queue; queued backfills are still applied.
    pub async fn shutdown(&self, timeout: Duration) -> Result<()> {
        let backfills = &self.reader.backfills;
        backfills.close();
        let done = self.reader.runtime.timeout_at(after(timeout), pin!(self.wait())).await;
        done.unwrap_or_else(|| {
            let queued = backfills.stats().items;
            backfills.discard();
            let message = format!("shutdown timed out after {timeout:?}; {queued} queued backfills were dropped");
            Err(Error::new(ErrorKind::Timeout, message))
        })
    }

    /// Returns the statistics of the chain.
    pub fn stats(&self) -> Stats {
        Parts { reader: &self.reader, loader: &self.loader, writer: &self.writer }.stats()
    }

    /// Returns the fresh entry of the key and the place of its tier.
    async fn find(&self, key: Key) -> Result<Option<(usize, Entry<V>)>> {
        let peeked = self.reader.peek(&key);
        if self.reader.is_hit(peeked.as_ref()) {
            return Ok(peeked.map(|entry| (0, entry)));
        }
        self.look_up(key, peeked).await
    }

    /// As [`find`](Self::find), after the first tier has answered `peeked`.
    ///
    /// The future is boxed, which keeps the future of a hit small, and not built inside of it, which
    /// keeps its stack small.
    #[inline(never)]
    fn look_up(
        &self,
        key: Key,
        peeked: Option<Entry<V>>,
    ) -> impl Future<Output = Result<Option<(usize, Entry<V>)>>> + Send {
        let reader = &self.reader;
        Box::pin(async move { reader.get(&key, peeked).await })
    }
}

/// The parts of a chain.
struct Parts<'a, V> {
    reader: &'a Arc<Reader<V>>,
    loader: &'a Arc<Loader<V>>,
    writer: &'a Arc<Writer<V>>,
}

impl<V: Clone + Send + Sync + 'static> Parts<'_, V> {
    fn stats(&self) -> Stats {
        Stats {
            tiers: self.reader.tiers.iter().map(Tier::stats).collect(),
            backfill: self.reader.backfills.stats(),
            loads: self.loader.stats(),
            writes: self.writer.stats(),
            coherence: self.reader.first().map(|first| first.stats()).unwrap_or_default(),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Cache for ChainCache<V> {
    type Value = V;

    fn set(&self, key: impl CacheKey, value: V) -> impl Future<Output = Result<()>> + Send {
        self.set(key, value)
    }

    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<V>>> + Send {
        self.get(key)
    }

    fn set_with_ttl(&self, key: impl CacheKey, value: V, ttl: Duration) -> impl Future<Output = Result<()>> + Send {
        self.set_with_ttl(key, value, ttl)
    }

    fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(V, Ttl)>>> + Send {
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
    ) -> impl Future<Output = Result<Vec<Option<V>>>> + Send {
        self.get_many(keys)
    }

    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> impl Future<Output = Result<()>> + Send {
        self.set_many(values)
    }

    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        self.del_many(keys)
    }
}

impl<V> Clone for ChainCache<V> {
    fn clone(&self) -> Self {
        Self {
            reader: Arc::clone(&self.reader),
            loader: Arc::clone(&self.loader),
            writer: Arc::clone(&self.writer),
            supervisor: Arc::clone(&self.supervisor),
            publisher: self.publisher.clone(),
        }
    }
}

impl<V> fmt::Debug for ChainCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainCache").field("tiers", &self.reader.tiers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use cache_core::testkit::MapStore;

    use super::*;
    use crate::{Tier, read::Purpose, util::deadline::Deadline};

    /// The largest allocation that glibc keeps for its thread. A larger one takes the lock of an
    /// arena, for which the threads of a runtime wait.
    const MAX_UNLOCKED: usize = 1032;

    #[tokio::test]
    async fn a_lookup_is_allocated_without_a_lock() {
        let chain = ChainCache::<String>::builder().tier(Tier::new(MapStore::new())).build().unwrap();
        let key = Key::new(&1).unwrap();
        let work = Arc::clone(&chain.reader).look_up_alone(key, None, Deadline::after(None), Purpose::Get);
        assert!(size_of_val(&work) <= MAX_UNLOCKED, "{} bytes", size_of_val(&work));
    }
}
