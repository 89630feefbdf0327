//! The cache: memory in front of Redis.

use std::time::Duration;

use cache_chain::{
    ChainCache, Coherence, ErrorKind, ReadThrough, Result, ServeStale, Tier, quick_cache::QuickCacheStore,
    redis::RedisStore,
};

use crate::users::User;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// While Redis is down, memory serves what it has for so long, except what has changed in this
/// process. After that each read asks the database.
const GRACE: Duration = Duration::from_secs(5);

/// Builds the chain, with Redis if there is a URL.
pub(crate) async fn build(redis_url: Option<&str>) -> Result<ChainCache<User>> {
    let memory = Tier::new(QuickCacheStore::new(10_000)?).name("memory");
    let mut chain = ChainCache::builder().tier(memory);
    if let Some(url) = redis_url {
        chain = chain.tier(Tier::new(connect(url).await?).name("redis"));
    } else {
        tracing::warn!(
            "REDIS_URL is not set: the cache is in memory alone, and does not see what other instances write"
        );
    }
    chain
        // The tiers forget a write that another program makes behind the cache after this time.
        .default_ttl(MINUTE)
        // Users that are loaded together do not expire together.
        .jitter(0.1)
        .read_through(
            ReadThrough::new()
                // A user who does not exist is looked for again after this time.
                .negative_ttl(5 * SECOND)
                // Callers stop waiting for a load; it goes on for later ones until the second limit.
                .soft_timeout(2 * SECOND)
                .hard_timeout(10 * SECOND)
                // A database that is slow or down leaves the users of the last ten minutes readable.
                .stale_for(10 * MINUTE)
                .serve_stale(ServeStale::After(SECOND / 4)),
        )
        .coherence(Coherence::new().grace(GRACE))
        .metrics("users")
        .build()
}

/// Connects to Redis. The service starts without a Redis that is down, and not with one that refuses
/// it.
async fn connect(url: &str) -> Result<RedisStore<User>> {
    let store = RedisStore::builder(url).namespace("users").timeout(SECOND / 4).connect_lazy()?;
    match store.check_permissions().await {
        Ok(()) => tracing::info!("the cache is in memory and Redis"),
        Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
            tracing::warn!("Redis does not answer yet: {error:#}");
        }
        Err(error) => return Err(error),
    }
    Ok(store)
}
