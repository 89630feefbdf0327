//! The cache as applications see it.

use std::time::Duration;

use crate::{CacheKey, Error, ErrorKind, Result, Ttl};

/// A typed cache: over one store ([`DelegateCache`](crate::DelegateCache)) or over several
/// (`ChainCache`).
///
/// A miss is `None`, a fault is an `Err`. Every key is checked before anything is done: an empty
/// one or one longer than [`Key::MAX_LEN`](crate::Key::MAX_LEN) is an error of kind
/// [`InvalidInput`](ErrorKind::InvalidInput) everywhere below.
///
/// # Cancel safety
///
/// A dropped read leaves no trace. A dropped write has happened or has not; `ChainCache` finishes
/// what it started.
///
/// Its futures are not boxed, so there is no `dyn Cache`; be generic over `C: Cache<Value = V>`.
pub trait Cache: Send + Sync {
    /// The type of the values.
    type Value: Clone + Send + Sync + 'static;

    /// Stores `value` with the cache's default TTL; without one, it does not expire.
    ///
    /// # Errors
    ///
    /// As the stores fail; the outcome is unknown then.
    fn set(&self, key: impl CacheKey, value: Self::Value) -> impl Future<Output = Result<()>> + Send;

    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// As the stores fail.
    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<Self::Value>>> + Send;

    /// Stores `value` for `ttl`. More than [`MAX_TTL`](crate::MAX_TTL) is cut to it.
    ///
    /// # Errors
    ///
    /// As the stores fail; the outcome is unknown then. Of kind `InvalidInput` if `ttl` is zero.
    fn set_with_ttl(
        &self,
        key: impl CacheKey,
        value: Self::Value,
        ttl: Duration,
    ) -> impl Future<Output = Result<()>> + Send;

    /// The value of `key` and what remains of its life.
    ///
    /// # Errors
    ///
    /// As the stores fail.
    fn get_with_ttl(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<(Self::Value, Ttl)>>> + Send;

    /// Removes `key`; that there was nothing to remove is no error.
    ///
    /// # Errors
    ///
    /// As the stores fail; the key may still be there then.
    fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send;

    /// Removes every key of this cache's namespace, and nothing else.
    ///
    /// # Errors
    ///
    /// As the stores fail; some keys may still be there then.
    fn clear(&self) -> impl Future<Output = Result<()>> + Send;

    /// Returns when what was buffered before has been applied: backfills and the stores' own
    /// buffers.
    ///
    /// # Errors
    ///
    /// As the stores fail.
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
    /// Checks a TTL that a caller gave.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if it is zero, which other libraries read as
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
