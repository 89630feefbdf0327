//! The application's own data as a tier.

use std::{error::Error as StdError, fmt, pin::Pin, sync::Arc};

use crate::{Entry, Error, ErrorKind, Expiry, Key, Profile, Result, Store, Ticket, Write};

/// The application's own data, a table or a service, as the last tier of a chain.
///
/// It reads by a closure. What a chain sets and deletes passes it by, unless closures for that are
/// given: [`write_through`](Self::write_through), [`del_through`](Self::del_through). `clear`
/// always passes it by: a cache must not empty the data it stands in front of. It keeps no TTLs;
/// what it gives does not expire, so give the tiers above a default TTL.
///
/// # Errors
///
/// Returns an error of kind [`Backend`](ErrorKind::Backend) if a closure fails, with the closure's
/// error as its [`source`](std::error::Error::source). An [`Error`] of this crate is returned as it
/// is.
///
/// # Cancel safety
///
/// A dropped call drops the future of the closure.
///
/// # Examples
///
/// ```
/// use cache_core::{Cache, DelegateCache, Key, Origin};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let squares = Origin::new(|key: Key| async move {
///     let number: u64 = key.as_str().unwrap_or_default().parse()?;
///     Ok::<_, std::num::ParseIntError>(Some(number * number))
/// });
/// let squares = DelegateCache::new(squares);
/// assert_eq!(squares.get(12).await?, Some(144));
/// assert!(squares.get("twelve").await.is_err());
/// # Ok::<(), cache_core::Error>(()) }).unwrap();
/// ```
pub struct Origin<V> {
    load: Call<Key, Option<V>>,
    write: Option<Call<(Key, V), ()>>,
    del: Option<Call<Key, ()>>,
}

type Call<I, O> = Arc<dyn Fn(I) -> Pin<Box<dyn Future<Output = Result<O>> + Send>> + Send + Sync>;

/// Erases a closure, and its errors.
fn call<I, O, E, F>(closure: impl Fn(I) -> F + Send + Sync + 'static) -> Call<I, O>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
    F: Future<Output = Result<O, E>> + Send + 'static,
{
    Arc::new(move |input| {
        let running = closure(input);
        Box::pin(async move { running.await.map_err(|error| failed(error.into())) })
    })
}

fn failed(error: Box<dyn StdError + Send + Sync>) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(other) => Error::with_source(ErrorKind::Backend, "the origin failed", other),
    }
}

impl<V: Clone + Send + Sync + 'static> Origin<V> {
    /// An origin that `load` reads: the value of a key, `None` if there is none.
    pub fn new<E, F>(load: impl Fn(Key) -> F + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: Future<Output = Result<Option<V>, E>> + Send + 'static,
    {
        Self { load: call(load), write: None, del: None }
    }

    /// Has `set` write the value here first; if that fails, no tier above is set.
    pub fn write_through<E, F>(mut self, write: impl Fn(Key, V) -> F + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.write = Some(call(move |(key, value)| write(key, value)));
        self
    }

    /// Has `del` delete here first.
    pub fn del_through<E, F>(mut self, del: impl Fn(Key) -> F + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.del = Some(call(del));
        self
    }
}

impl<V: Clone + Send + Sync + 'static> Store for Origin<V> {
    type Value = V;

    fn profile(&self) -> Profile {
        Profile::new("origin").leases(false).takes_once(false).retains(true).origin(true)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<V>>> {
        let value = (self.load)(key.clone()).await?;
        Ok(value.map(|value| Entry::new(value, Expiry::Never)))
    }

    async fn lease(&self, _key: &Key) -> Result<Ticket> {
        Ok(Ticket::unconditional())
    }

    /// A backfill is what some tier below had; the origin is not told of it.
    async fn fill(&self, _write: Write<V>) -> Result<bool> {
        Ok(false)
    }

    async fn set(&self, write: Write<V>) -> Result<()> {
        match (&self.write, write.entry.into_value()) {
            (Some(through), Some(value)) => through((write.key, value)).await,
            _ => Ok(()),
        }
    }

    async fn del(&self, key: &Key) -> Result<()> {
        match &self.del {
            Some(through) => through(key.clone()).await,
            None => Ok(()),
        }
    }

    async fn clear(&self) -> Result<()> {
        Ok(())
    }

    async fn wait(&self) -> Result<()> {
        Ok(())
    }
}

impl<V> Clone for Origin<V> {
    fn clone(&self) -> Self {
        Self { load: Arc::clone(&self.load), write: self.write.clone(), del: self.del.clone() }
    }
}

impl<V> fmt::Debug for Origin<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("write_through", &self.write.is_some())
            .field("del_through", &self.del.is_some())
            .finish_non_exhaustive()
    }
}
