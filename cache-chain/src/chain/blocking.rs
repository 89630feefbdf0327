//! The chain for code outside of async.

use std::{
    error::Error as StdError,
    future::ready,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use cache_core::{CacheKey, Error, ErrorKind, Result, Ttl};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::ChainCache;
use crate::{
    flight::nesting,
    load::Load,
    outcome::Found,
    util::park::{PATIENCE, park_until_done},
};

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Returns this chain with methods that block the thread, for code outside of async.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::{ChainCache, stretto::StrettoStore};
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     // The chain works on this runtime, which must run as long as the chain is used.
    ///     let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    ///     let users: ChainCache<String> = {
    ///         let _entered = runtime.enter();
    ///         ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?
    ///     };
    ///
    ///     let users = users.blocking();
    ///     users.set(42, "Ada".to_owned())?;
    ///     assert_eq!(users.get(42)?.as_deref(), Some("Ada"));
    ///     let name = users.get_or_load(7, || Ok::<_, std::io::Error>("Grace".to_owned()))?;
    ///     assert_eq!(name, "Grace");
    ///     Ok(())
    /// }
    /// ```
    pub fn blocking(&self) -> BlockingChain<V> {
        BlockingChain(self.clone())
    }
}

/// A [`ChainCache`] for code outside of async; see [`ChainCache::blocking`].
///
/// Each method is that of `ChainCache`, and blocks the thread until it is done. On a thread that
/// runs async code of tokio it does not block, but returns an error of kind
/// [`InvalidInput`](ErrorKind::InvalidInput): call it in [`tokio::task::spawn_blocking`], or use
/// the async method. Tokio tells this by a panic, which is caught: the panic hook runs, and with
/// `panic = "abort"` the process ends.
///
/// The runtime of the chain must be running. One that is built by
/// [`new_current_thread`](tokio::runtime::Builder::new_current_thread) runs only while another thread
/// is in its `block_on`, so prefer a multi-thread runtime. If no thread runs it for 3 s, or for the
/// [`timeout`](crate::ChainBuilder::timeout) of the chain if that is shorter, the call fails with
/// [`Timeout`](ErrorKind::Timeout). What it has begun goes on when the runtime runs again. Hits in
/// the first tier need no runtime, nor do writes if all tiers are in memory.
#[derive(Clone, Debug)]
pub struct BlockingChain<V>(ChainCache<V>);

impl<V: Clone + Send + Sync + 'static> BlockingChain<V> {
    /// As [`ChainCache::get`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get(&self, key: impl CacheKey) -> Result<Option<V>> {
        self.block_on(self.0.get(key))
    }

    /// As [`ChainCache::get_with_ttl`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get_with_ttl(&self, key: impl CacheKey) -> Result<Option<(V, Ttl)>> {
        self.block_on(self.0.get_with_ttl(key))
    }

    /// As [`ChainCache::get_detailed`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get`].
    pub fn get_detailed(&self, key: impl CacheKey) -> Result<Found<V>> {
        self.block_on(self.0.get_detailed(key))
    }

    /// As [`ChainCache::get_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_many`].
    pub fn get_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<V>>> {
        self.block_on(self.0.get_many(keys))
    }

    /// As [`ChainCache::get_or_load`]. The loader runs on a thread of the chain's runtime that may
    /// block, and may call this chain. It is not aborted: its result is not used if all callers
    /// have left, or after [`hard_timeout`](crate::ReadThrough::hard_timeout).
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load`].
    pub fn get_or_load<T, E>(
        &self,
        key: impl CacheKey,
        load: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T::Output>
    where
        T: Load<V> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        self.block_on(self.0.get_or_load(key, || on_blocking_thread(load)))
    }

    /// As [`ChainCache::get_or_load_many`], with a loader as in [`get_or_load`](Self::get_or_load).
    ///
    /// # Errors
    ///
    /// As [`ChainCache::get_or_load_many`].
    pub fn get_or_load_many<K, T, E, I>(
        &self,
        keys: impl AsRef<[K]>,
        load: impl FnOnce(Vec<K>) -> Result<I, E> + Clone + Send + 'static,
    ) -> Result<Vec<Option<V>>>
    where
        K: CacheKey + Clone + Send + 'static,
        T: Load<V>,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
        I: IntoIterator<Item = (K, T)> + Send + 'static,
    {
        self.block_on(self.0.get_or_load_many(keys, |ids| on_blocking_thread(move || load(ids))))
    }

    /// As [`ChainCache::contains`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::contains`].
    pub fn contains(&self, key: impl CacheKey) -> Result<bool> {
        self.block_on(self.0.contains(key))
    }

    /// As [`ChainCache::set`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set`].
    pub fn set(&self, key: impl CacheKey, value: V) -> Result<()> {
        self.block_on(self.0.set(key, value))
    }

    /// As [`ChainCache::set_with_ttl`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set_with_ttl`].
    pub fn set_with_ttl(&self, key: impl CacheKey, value: V, ttl: Duration) -> Result<()> {
        self.block_on(self.0.set_with_ttl(key, value, ttl))
    }

    /// As [`ChainCache::set_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::set_many`].
    pub fn set_many<K: CacheKey>(&self, values: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        self.block_on(self.0.set_many(values))
    }

    /// As [`ChainCache::touch`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::touch`].
    pub fn touch(&self, key: impl CacheKey, ttl: Duration) -> Result<bool> {
        self.block_on(self.0.touch(key, ttl))
    }

    /// As [`ChainCache::expire`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::expire`].
    pub fn expire(&self, key: impl CacheKey) -> Result<()> {
        self.block_on(self.0.expire(key))
    }

    /// As [`ChainCache::take`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::take`].
    pub fn take(&self, key: impl CacheKey) -> Result<Option<V>> {
        self.block_on(self.0.take(key))
    }

    /// As [`ChainCache::del`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::del`].
    pub fn del(&self, key: impl CacheKey) -> Result<()> {
        self.block_on(self.0.del(key))
    }

    /// As [`ChainCache::del_many`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::del_many`].
    pub fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        self.block_on(self.0.del_many(keys))
    }

    /// As [`ChainCache::invalidate`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::invalidate`].
    pub fn invalidate<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        self.block_on(self.0.invalidate(keys))
    }

    /// As [`ChainCache::invalidate_all`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::invalidate_all`].
    pub fn invalidate_all(&self) -> Result<()> {
        self.block_on(self.0.invalidate_all())
    }

    /// As [`ChainCache::clear`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::clear`].
    pub fn clear(&self) -> Result<()> {
        self.block_on(self.0.clear())
    }

    /// As [`ChainCache::wait`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::wait`].
    pub fn wait(&self) -> Result<()> {
        self.block_on(self.0.wait())
    }

    /// As [`ChainCache::shutdown`].
    ///
    /// # Errors
    ///
    /// As [`ChainCache::shutdown`].
    pub fn shutdown(&self, timeout: Duration) -> Result<()> {
        self.block_on(self.0.shutdown(timeout))
    }

    /// Returns the chain with async methods.
    pub fn chain(&self) -> &ChainCache<V> {
        &self.0
    }

    /// Blocks the thread until the async call is done, such as a call with options.
    ///
    /// # Errors
    ///
    /// Returns the error of the call, or one of kind [`InvalidInput`](ErrorKind::InvalidInput) on a
    /// thread that runs async code.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use cache_chain::{CallOptions, ChainCache, stretto::StrettoStore};
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    ///     let users: ChainCache<String> = {
    ///         let _entered = runtime.enter();
    ///         ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?
    ///     };
    ///
    ///     let users = users.blocking();
    ///     users.set(42, "Ada".to_owned())?;
    ///     let recent = CallOptions::new().max_age(Duration::from_secs(5));
    ///     let user = users.block_on(users.chain().with(&recent).get(42))?;
    ///     assert_eq!(user.as_deref(), Some("Ada"));
    ///     Ok(())
    /// }
    /// ```
    pub fn block_on<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = self.0.reader.runtime.handle();
        // Outside of any runtime, blocking is allowed. Tokio does not tell whether a thread of a
        // runtime runs async code; blocking there panics.
        let is_allowed =
            Handle::try_current().is_err() || catch_unwind(AssertUnwindSafe(|| runtime.block_on(ready(())))).is_ok();
        if !is_allowed {
            let message = "a blocking call would block a thread that runs async code; \
                           call it in `tokio::task::spawn_blocking`, or await the method of `ChainCache`";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            let patience = self.0.reader.timeout.map_or(PATIENCE, |timeout| timeout.min(PATIENCE));
            return park_until_done(runtime, patience, call);
        }
        runtime.block_on(call)
    }
}

async fn on_blocking_thread<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Box<dyn StdError + Send + Sync>>
where
    T: Send + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    // Loads that the loader starts are nested in its load, also on another thread.
    let work = nesting::carried(|| work().map_err(Into::into));
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(ended) => Err(ended.into()),
    }
}
