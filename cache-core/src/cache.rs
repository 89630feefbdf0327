//! What an application calls.

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

    /// The values of `keys`, in their order. Each tier is asked once, and once for the leases of
    /// what it lacks.
    ///
    /// # Errors
    ///
    /// Of the first key that has one. [`get`](Self::get) the keys one by one to have the others.
    fn get_many<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Value>>>> + Send;

    /// Stores several values as [`set`](Self::set) does. Each tier is written once, and all but the
    /// last give their leases before. Of a key given twice the last value counts.
    ///
    /// # Errors
    ///
    /// Of the first key that has one; every other key is written all the same. None is if a key is
    /// unfit.
    fn set_many<K: CacheKey>(
        &self,
        values: impl IntoIterator<Item = (K, Self::Value)>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Removes several keys, each tier by one call.
    ///
    /// # Errors
    ///
    /// Of the first key that has one; every other key is removed all the same. None is if a key is
    /// unfit.
    fn del_many<K: CacheKey>(&self, keys: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send;
}

impl Ttl {
    /// Checks a TTL that a caller gave.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if it is zero, which other libraries read as "never".
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
