//! The application's own data as a tier.

use std::{error::Error as StdError, fmt, pin::Pin, sync::Arc};

use crate::{Entry, Error, ErrorKind, Expiry, Key, Profile, Result, Store, Ticket, Write};

/// The application's own data, a table or a service, as the last tier of a chain.
///
/// A closure reads the data. A `set` or a `del` of the chain changes nothing here, unless there are
/// closures for that: [`write_through`](Self::write_through), [`del_through`](Self::del_through).
/// `clear` never changes anything here, because a cache must not empty the data that it is in front
/// of. An origin keeps no TTLs and its values do not expire, so give the tiers above a default TTL.
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
/// use std::num::ParseIntError;
///
/// use cache_core::{DelegateCache, ErrorKind, Key, Origin};
///
/// async fn square(key: Key) -> Result<Option<u64>, ParseIntError> {
///     let number: u64 = key.as_str().unwrap_or_default().parse()?; // or your query
///     Ok(Some(number * number))
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     // Alone, or as the last tier of a chain: `ChainCache::builder().tier(memory).tier(origin)`.
///     let squares = DelegateCache::new(Origin::new(square));
///     assert_eq!(squares.get(12).await?, Some(144));
///
///     let error = squares.get("twelve").await.unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::Backend);
///     assert!(error.source_as::<ParseIntError>().is_some());
///     Ok(())
/// }
/// ```
pub struct Origin<V> {
    load: Call<Key, Option<V>>,
    write: Option<Call<(Key, V), ()>>,
    del: Option<Call<Key, ()>>,
}

type Call<I, O> = Arc<dyn Fn(I) -> Pin<Box<dyn Future<Output = Result<O>> + Send>> + Send + Sync>;

/// Boxes a closure and converts its errors.
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
    /// Creates an origin whose data is read by `load`, which returns the value of a key, `None` if
    /// there is none.
    pub fn new<E, F>(load: impl Fn(Key) -> F + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: Future<Output = Result<Option<V>, E>> + Send + 'static,
    {
        Self { load: call(load), write: None, del: None }
    }

    /// Writes values through: a `set` of the chain calls `write` first. If that fails, the tiers
    /// above are not written.
    pub fn write_through<E, F>(mut self, write: impl Fn(Key, V) -> F + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.write = Some(call(move |(key, value)| write(key, value)));
        self
    }

    /// Deletes through: a `del` of the chain calls `del` first.
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

    /// Does nothing: an origin is the last tier, and a backfill holds data from below.
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
