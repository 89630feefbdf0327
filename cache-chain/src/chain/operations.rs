//! Operations beyond those of a `Cache`.

use std::time::Duration;

use cache_core::{CacheKey, Key, Result, Ttl};

use super::ChainCache;
use crate::write::Scope;

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Deletes keys whose data has changed elsewhere, such as in a database that another program
    /// writes. As [`del_many`](Self::del_many), except for tiers that hold the application's data
    /// itself ([`Tier::origin`](crate::Tier::origin)).
    ///
    /// Call it for each change that a binlog reader, Debezium, an outbox table or a message queue
    /// reports. Messages may arrive late, twice or in another order; each only costs a read. If the
    /// shared tier has an invalidation stream, it is enough if one instance reads the messages.
    ///
    /// # Errors
    ///
    /// As [`del_many`](Self::del_many).
    pub fn invalidate<K: CacheKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<()>> + Send {
        let keys = Key::many(keys);
        async move { self.writer.invalidate(keys?.into()).await }
    }

    /// Deletes all keys because any of their data may have changed elsewhere, as
    /// [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    ///
    /// As [`clear`](Self::clear).
    pub async fn invalidate_all(&self) -> Result<()> {
        self.writer.clear(Scope::Copies).await
    }

    /// Returns whether any tier has a fresh value of the key. Fills no tier, and counts neither as
    /// a hit nor as a miss.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::{ChainCache, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
    ///     assert!(!users.contains(42).await?);
    ///     users.set(42, "Ada".to_owned()).await?;
    ///     assert!(users.contains(42).await?);
    ///     Ok(())
    /// }
    /// ```
    pub fn contains(&self, key: impl CacheKey) -> impl Future<Output = Result<bool>> + Send {
        let key = Key::new(&key);
        async move { Box::pin(self.reader.contains(key?)).await }
    }

    /// Deletes the key from every tier, and returns the fresh value that the last tier had. Of
    /// concurrent calls, in any process, at most one gets the value, if the store of the last tier
    /// takes it at once. Those of this project do, except an [`Origin`](cache_core::Origin), which
    /// is read and then deleted from.
    ///
    /// Use it for what may be used once, such as a login token. A value that only the tiers above
    /// have is not returned: another process may have taken it.
    ///
    /// # Errors
    ///
    /// As [`del`](Self::del). The value may be lost then.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it runs to its end even if it is dropped, and the value is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_chain::{ChainCache, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let tokens: ChainCache<u64> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
    ///     tokens.set("xyz", 42).await?;
    ///     assert_eq!(tokens.take("xyz").await?, Some(42));
    ///     assert_eq!(tokens.take("xyz").await?, None);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "pull")]
    #[doc(alias = "getdel")]
    pub fn take(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<V>>> + Send {
        let key = Key::new(&key);
        async move { Box::pin(self.writer.take(key?)).await }
    }

    /// Gives the value of the key a new TTL from now on, in every tier. Returns whether the last
    /// tier has a fresh value; without one, deletes the key from the tiers above, because another
    /// process may have deleted it. A tier that can change the TTL alone does not transfer the
    /// value.
    ///
    /// The TTL is subject to [`jitter`](crate::ChainBuilder::jitter) and to the limits of each
    /// tier. The age of the value does not change. A backfill that was queued before may keep the
    /// former TTL in a tier above the last. An [`Origin`](cache_core::Origin) keeps no TTL, so the
    /// tier above it counts as the last.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](cache_core::ErrorKind::InvalidInput) if the TTL is
    /// zero or the key cannot be used, else the error of the first tier that failed. Some tiers may
    /// have the new TTL then.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have changed the TTL in some tiers.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use cache_chain::{ChainCache, Ttl, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let sessions: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
    ///     sessions.set_with_ttl("xyz", "Ada".to_owned(), Duration::from_secs(60)).await?;
    ///     assert!(sessions.touch("xyz", Duration::from_secs(3600)).await?);
    ///     let (_, ttl) = sessions.get_with_ttl("xyz").await?.unwrap();
    ///     assert!(ttl > Ttl::After(Duration::from_secs(3000)));
    ///     Ok(())
    /// }
    /// ```
    pub fn touch(&self, key: impl CacheKey, ttl: Duration) -> impl Future<Output = Result<bool>> + Send {
        let key = Key::new(&key);
        async move { Box::pin(self.writer.touch(key?, Ttl::checked(ttl)?)).await }
    }

    /// Makes the value of the key stale now, in every tier: plain reads do not see it any more, and
    /// [`get_or_load`](Self::get_or_load) loads it again and may serve it meanwhile, or if the load
    /// fails. Loads that began before do not bring it back.
    ///
    /// The value is kept until its TTL and its stale window end, at most for
    /// [`ReadThrough::stale_for`](crate::ReadThrough::stale_for) from now on. Without that setting,
    /// this is [`del`](Self::del). If the key is written by another call at the same time, it may be
    /// deleted instead. Calls of `expire` for one key, in any process, take turns in a tier that
    /// grants claims.
    ///
    /// # Errors
    ///
    /// As [`del`](Self::del). In a tier that failed, the key is deleted later.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it runs to its end even if it is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use cache_chain::{ChainCache, ReadThrough, ServeStale, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let hour = Duration::from_secs(3600);
    ///     let users: ChainCache<String> = ChainCache::builder()
    ///         .tier(StrettoStore::new(10_000)?)
    ///         .read_through(ReadThrough::new().stale_for(hour).serve_stale(ServeStale::IfLoadFails))
    ///         .build()?;
    ///     users.set_with_ttl(42, "Ada".to_owned(), hour).await?;
    ///
    ///     users.expire(42).await?;
    ///     assert_eq!(users.get(42).await?, None);
    ///     let down = || async { Err::<String, _>(std::io::Error::other("the database is down")) };
    ///     assert_eq!(users.get_or_load(42, down).await?, "Ada");
    ///     Ok(())
    /// }
    /// ```
    pub fn expire(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move { Box::pin(self.writer.expire(key?)).await }
    }
}
