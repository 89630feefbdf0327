//! Reads that see earlier writes, in any process.

use std::sync::Arc;

use cache_core::{CacheKey, Entry, Key, Result, backend::ServerTime};

use super::ChainCache;
use crate::{
    freshness::FreshnessToken,
    read::{Purpose, Query},
};

impl<V: Clone + Send + Sync + 'static> ChainCache<V> {
    /// Returns a token of all writes that have ended, in this process and in others. Pass it to
    /// [`get_at_least`](Self::get_at_least).
    ///
    /// # Errors
    ///
    /// Fails as the shared tier does.
    pub async fn freshness_token(&self) -> Result<FreshnessToken> {
        let Some(shared) = self.reader.shared() else { return Ok(FreshnessToken::at(None)) };
        self.server_time(shared).await.map(FreshnessToken::at)
    }

    /// Sets the value of the key as [`set`](Self::set), and returns a token of this write.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set). If the value was set but the time of the shared tier cannot be read,
    /// returns that error.
    pub fn set_with_token(&self, key: impl CacheKey, value: V) -> impl Future<Output = Result<FreshnessToken>> + Send {
        let set = self.set(key, value);
        async move {
            set.await?;
            self.freshness_token().await
        }
    }

    /// Deletes the key as [`del`](Self::del), and returns a token of this deletion.
    ///
    /// # Errors
    ///
    /// As [`set_with_token`](Self::set_with_token).
    pub fn del_with_token(&self, key: impl CacheKey) -> impl Future<Output = Result<FreshnessToken>> + Send {
        let del = self.del(key);
        async move {
            del.await?;
            self.freshness_token().await
        }
    }

    /// Returns the value of the key, at least as new as the writes of the token. The first tier
    /// serves it if it is known to be that new, which takes about W after the write; before, the
    /// shared tier is asked.
    ///
    /// With it, users of a web service read their own writes: the instance that writes puts the
    /// token into a cookie, and the instance that serves the next request reads with it.
    ///
    /// The moments of a token are those of the server's clock. If that clock is set forward between
    /// the write and the read, a value may be as old as without a token.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use cache_chain::{ChainCache, FreshnessToken, redis::RedisStore, stretto::StrettoStore};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_chain::Result<()> {
    ///     let redis = RedisStore::builder("redis://127.0.0.1/").namespace("users").connect().await?;
    ///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).tier(redis).build()?;
    ///
    ///     // One instance handles the form, and sets a cookie.
    ///     let cookie = users.set_with_token(42, "Ada".to_owned()).await?.to_string();
    ///
    ///     // Any instance handles the next request.
    ///     let token: FreshnessToken = cookie.parse()?;
    ///     assert_eq!(users.get_at_least(42, token).await?.as_deref(), Some("Ada"));
    ///     Ok(())
    /// }
    /// ```
    pub fn get_at_least(
        &self,
        key: impl CacheKey,
        token: FreshnessToken,
    ) -> impl Future<Output = Result<Option<V>>> + Send {
        let key = Key::new(&key);
        async move {
            let key = key?;
            let Some(shared) = self.reader.shared() else { return self.get(key.as_bytes()).await };
            if let Some(entry) = self.peek_at_least(&key, token, shared).await {
                self.reader.tiers[0].count_hit();
                return Ok(entry.into_value());
            }
            let mut query = Query { is_new: true, ..Query::new(Purpose::Get) };
            query.unread.extend(0..shared);
            let found = Box::pin(self.reader.get_with(&key, &query, false)).await?;
            Ok(found.and_then(|(_, entry)| entry.into_value()))
        }
    }

    /// Returns the entry of the first tier if it is fresh and at least as new as the token.
    async fn peek_at_least(&self, key: &Key, token: FreshnessToken, shared: usize) -> Option<Entry<V>> {
        // In this order: an entry that is current now was current at the proof.
        let proven = self.reader.first()?.proven()?;
        let entry = self.reader.peek(key).filter(|entry| self.reader.tiers[0].is_fresh(entry))?;
        let time = self.server_time(shared).await.ok()??;
        let ago = u64::try_from(proven.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        token.is_covered(time, ago).then_some(entry)
    }

    /// Returns the time of the tier of this place.
    async fn server_time(&self, place: usize) -> Result<Option<ServerTime>> {
        let reader = Arc::clone(&self.reader);
        self.reader.runtime.run(async move { reader.tiers[place].server_time().await }).await?
    }
}
