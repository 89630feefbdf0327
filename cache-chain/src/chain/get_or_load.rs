//! Reads that load what no tier has.

use std::error::Error as StdError;

use cache_core::{CacheKey, Entry, Key, Result};

use super::ChainCache;
use crate::{
    load::{Load, LoadContext, LoadFn, Start, load_fn},
    outcome::Found,
};

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Returns the value of the key. If no tier has it, calls `load` and caches what it returns.
    ///
    /// The loader returns a plain value, an `Option` whose `None` is cached as well, or a
    /// [`Loaded`](crate::Loaded) with a TTL of its own; [`Load`] lists what the caller gets for
    /// each. [`ReadThrough`](crate::ReadThrough) sets how long callers wait, whether stale values
    /// are served, and more.
    ///
    /// - **One load per key.** Concurrent callers of one key share one load, and so do other
    ///   processes if a tier grants claims.
    /// - **No resurrection.** A loaded value is not cached if the key was set, deleted or cleared
    ///   meanwhile, and callers after that do not join the older load.
    /// - **Failures are not cached.** The next caller loads again.
    /// - **Nested loads.** A loader may read other keys, of this chain or another one. If it reads
    ///   a key whose loader waits for this one, directly or through others, that read fails at
    ///   once. Loads that hold all permits of
    ///   [`concurrent_loads`](crate::ReadThrough::concurrent_loads) do not block the loads that
    ///   they wait for, in one chain or in several that load from each other. Both hold for calls
    ///   that the loader awaits itself; in tasks that it spawns, such waits end by the timeouts.
    /// - **The runtime of the chain.** The loader runs in a task on the runtime in which the chain
    ///   was built, without the task-locals of the caller.
    ///
    /// # Errors
    ///
    /// Returns an error of kind
    /// - [`Loader`](cache_core::ErrorKind::Loader) if the loader fails. The error of the loader is
    ///   its source; all callers that waited share it, and
    ///   [`Error::source_as`](cache_core::Error::source_as) downcasts it. An error that is no
    ///   [`std::error::Error`] itself, such as a `String` or an `anyhow::Error`, is boxed by its
    ///   own conversion; it can be printed with its causes, but not downcast to its former type.
    /// - [`Panicked`](cache_core::ErrorKind::Panicked) if the loader panics.
    /// - [`Timeout`](cache_core::ErrorKind::Timeout) if the load takes too long.
    /// - [`Absent`](cache_core::ErrorKind::Absent) if the loader returns a plain value and the key
    ///   is cached as absent.
    /// - [`Cycle`](cache_core::ErrorKind::Cycle) if this call is made in a loader, and the load of
    ///   the key waits for that loader.
    /// - [`Closed`](cache_core::ErrorKind::Closed) if the runtime of the chain has ended.
    ///
    /// A tier that fails is skipped.
    ///
    /// # Cancel safety
    ///
    /// A dropped caller leaves the load to the other callers. The last one aborts the load: the
    /// future of the loader is dropped at its next await.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::{ChainCache, stretto::StrettoStore};
    ///
    /// async fn name_of(id: u64) -> std::io::Result<String> {
    ///     Ok(format!("user {id}")) // your query
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let names: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
    ///     let name = names.get_or_load(("name", 42), || name_of(42)).await?;
    ///     assert_eq!(name, "user 42");
    ///
    ///     let error = names.get_or_load(7, || async { Err::<String, _>(std::fmt::Error) }).await.unwrap_err();
    ///     assert_eq!(error.source_as::<std::fmt::Error>(), Some(&std::fmt::Error));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "get_with")]
    #[doc(alias = "fetch")]
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
            // In a block, because a future has room for all that may live across its `await`.
            let load = {
                let key = key?;
                // The common case first: it builds no other future and allocates nothing.
                let mut start = self.loader.start(&key);
                if self.loader.is_hit(start.peeked.as_ref()) {
                    return T::output(start.peeked.as_mut().and_then(Entry::take_value));
                }
                self.load(key, start, load_fn(|_| load()))
            };
            T::output(load.await?.value)
        }
    }

    /// As [`get_or_load`](Self::get_or_load), with where the value came from, its age and its
    /// remaining TTL.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), except that an absent key is no error.
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
        async move {
            let key = key?;
            let start = self.loader.start(&key);
            let found = match start.peeked {
                Some(entry) if self.loader.is_hit(Some(&entry)) => self.reader.found(Some(0), entry),
                peeked => self.load(key, Start { peeked, ..start }, load_fn(|_| load())).await?,
            };
            Ok(self.reader.detailed(found))
        }
    }

    /// As [`get_or_load`](Self::get_or_load), with a loader that gets the key and the previous
    /// value in a [`LoadContext`]. It may answer
    /// [`Loaded::not_modified`](crate::Loaded::not_modified), and store a
    /// [validator](crate::Loaded::validator) for the next load.
    ///
    /// There is a previous value if a tier still has it: a stale one, within
    /// [`ReadThrough::stale_for`](crate::ReadThrough::stale_for), or one that is loaded again
    /// early. A [reload](crate::CallOptions::reload) of a single key asks only a local first tier
    /// for it. The value is cloned for the loader.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use cache_chain::{ChainCache, LoadContext, Loaded, ReadThrough, stretto::StrettoStore};
    ///
    /// /// Asks a server for a page, with `If-None-Match` if there is a previous one.
    /// async fn fetch(context: LoadContext<String>) -> std::io::Result<Loaded<String>> {
    ///     let etag = context.previous.and_then(|previous| previous.validator);
    ///     if etag.as_deref() == Some("\"v1\"") {
    ///         return Ok(Loaded::not_modified()); // the server answered 304
    ///     }
    ///     Ok(Loaded::new("a page".to_owned()).validator("\"v1\"").ttl(Duration::from_secs(60)))
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let pages: ChainCache<String> = ChainCache::builder()
    ///         .tier(StrettoStore::new(10_000)?)
    ///         .read_through(ReadThrough::new().stale_for(Duration::from_secs(3600)))
    ///         .build()?;
    ///     assert_eq!(pages.get_or_load_with("/", fetch).await?.as_deref(), Some("a page"));
    ///     pages.expire("/").await?;
    ///     assert_eq!(pages.get_or_load_with("/", fetch).await?.as_deref(), Some("a page"));
    ///     pages.wait().await?;
    ///     Ok(())
    /// }
    /// ```
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
        async move {
            let load = {
                let key = key?;
                let mut start = self.loader.start(&key);
                if self.loader.is_hit(start.peeked.as_ref()) {
                    return T::output(start.peeked.as_mut().and_then(Entry::take_value));
                }
                self.load(key, start, load_fn(load))
            };
            T::output(load.await?.value)
        }
    }

    /// Returns the values of `keys`, a slice, an array or a `Vec`, in their order. Calls `load`
    /// once for all keys that no tier has and no other caller is loading.
    ///
    /// `load` gets the missing keys, and returns pairs of a key and a value, for instance in a
    /// `Vec` or a `HashMap`. A key that it does not return is cached as absent. `load` is not
    /// called if nothing is missing. If other processes are loading some of the keys, waits for
    /// them; should they not load a key, `load` is cloned and called for this key alone.
    ///
    /// # Errors
    ///
    /// Returns the error of the first key that has one, in the order of `keys`, as
    /// [`get_or_load`](Self::get_or_load). All other keys are still loaded and cached.
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use cache_chain::{ChainCache, stretto::StrettoStore};
    ///
    /// async fn squares_of(numbers: Vec<u64>) -> std::io::Result<HashMap<u64, u64>> {
    ///     Ok(numbers.into_iter().map(|n| (n, n * n)).collect()) // your query
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let squares: ChainCache<u64> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
    ///     let numbers: &[u64] = &[2, 3];
    ///     assert_eq!(squares.get_or_load_many(numbers, squares_of).await?, [Some(4), Some(9)]);
    ///     Ok(())
    /// }
    /// ```
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
        Box::pin(async move { self.loader.get_many(keys, load, &self.loader.call()).await })
    }

    /// Loads the key. The future is boxed, which keeps the future of a hit small.
    #[inline(never)]
    fn load(&self, key: Key, start: Start<V>, load: LoadFn<V>) -> impl Future<Output = Result<Found<V>>> + Send {
        let loader = &self.loader;
        Box::pin(async move { loader.get(key, start, load, &loader.call()).await })
    }
}
