//! The interface of a cache for applications.

use std::time::Duration;

use crate::{CacheKey, Error, ErrorKind, Result, Ttl};

/// A typed cache: over one store ([`DelegateCache`](crate::DelegateCache)) or over several
/// (`ChainCache`).
///
/// A miss is `None`, a fault is an `Err`. Every method checks its keys first: an empty key, or one
/// that is longer than [`Key::MAX_LEN`](crate::Key::MAX_LEN), is an error of kind
/// [`InvalidInput`](ErrorKind::InvalidInput).
///
/// The futures are not boxed, so there is no `dyn Cache`: write functions that are generic over
/// `C: Cache<Value = V>`.
///
/// # Cancel safety
///
/// A dropped read has no effect. A dropped write may have taken effect or not; `ChainCache`
/// completes the writes that it has started.
///
/// # Examples
///
/// A function that works with any cache:
///
/// ```
/// use cache_core::{Cache, DelegateCache, Result};
/// use store_stretto::StrettoStore;
///
/// async fn greeting(names: &impl Cache<Value = String>, id: u64) -> Result<String> {
///     let name = names.get(("name", id)).await?;
///     Ok(format!("Hello, {}!", name.as_deref().unwrap_or("stranger")))
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<()> {
///     let names = DelegateCache::new(StrettoStore::new(10_000)?);
///     names.set(("name", 42), "Ada".to_owned()).await?;
///     assert_eq!(greeting(&names, 42).await?, "Hello, Ada!");
///     assert_eq!(greeting(&names, 43).await?, "Hello, stranger!");
///     Ok(())
/// }
/// ```
pub trait Cache: Send + Sync {
    /// The type of the values.
    type Value: Clone + Send + Sync + 'static;

    /// Sets the value of the key, with the default TTL of the cache. Without a default TTL, the
    /// value does not expire.
    ///
    /// # Errors
    ///
    /// Fails as the stores do; the outcome is unknown then.
    fn set(&self, key: impl CacheKey, value: Self::Value) -> impl Future<Output = Result<()>> + Send;

    /// Returns the value of the key, `None` if it has none.
    ///
    /// # Errors
    ///
    /// Fails as the stores do.
    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<Self::Value>>> + Send;

    /// Sets the value of the key, with this TTL. A TTL above [`MAX_TTL`](crate::MAX_TTL) is
    /// shortened to it.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if `ttl` is zero. Otherwise fails as the stores do;
    /// the outcome is unknown then.
    fn set_with_ttl(
        &self,
        key: impl CacheKey,
        value: Self::Value,
        ttl: Duration,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Returns the value of the key and its remaining TTL.
    ///
    /// # Errors
    ///
    /// Fails as the stores do.
    fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(Self::Value, Ttl)>>> + Send;

    /// Deletes the key. It is no error if the key has no value.
    ///
    /// # Errors
    ///
    /// Fails as the stores do; the key may still be there then.
    fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send;

    /// Deletes every key of the namespace of this cache, and nothing else.
    ///
    /// # Errors
    ///
    /// Fails as the stores do; some keys may still be there then.
    fn clear(&self) -> impl Future<Output = Result<()>> + Send;

    /// Waits until the backfills and the writes that are buffered now have been applied.
    ///
    /// # Errors
    ///
    /// Fails as the stores do.
    fn wait(&self) -> impl Future<Output = Result<()>> + Send;

    /// Returns the values of `keys`, in their order. A chain asks each tier once, and once more for
    /// the leases of the keys that it lacks.
    ///
    /// # Errors
    ///
    /// Returns the error of the first key that has one. Call [`get`](Self::get) for each key to
    /// read the others.
    fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Value>>>> + Send;

    /// Sets several values, as [`set`](Self::set) does. A chain writes each tier once. If a key
    /// occurs more than once, its last value is set.
    ///
    /// # Errors
    ///
    /// Returns the error of the first key that has one; all other keys are still written. If any
    /// key is invalid, nothing is written.
    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, Self::Value)>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Deletes several keys. A chain calls each tier once.
    ///
    /// # Errors
    ///
    /// Returns the error of the first key that has one; all other keys are still deleted. If any
    /// key is invalid, nothing is deleted.
    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send;
}

impl Ttl {
    /// Checks a TTL that a caller has passed.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the TTL is zero. Other caches take zero for
    /// "never".
    pub fn checked(ttl: Duration) -> Result<Self> {
        if ttl.is_zero() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the TTL is zero; to keep a value without expiry use `set`, to remove one use `del`",
            ));
        }
        Ok(Self::After(ttl))
    }
}
