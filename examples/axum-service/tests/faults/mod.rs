//! Faults that the service does not have, staged with chains in the process of the test.

use std::time::Duration;

use cache_chain::{
    ChainCache, Coherence, Tier,
    quick_cache::QuickCacheStore,
    redis::{Invalidations, RedisStore},
};
use integration_tests::RedisServer;
use tokio::time::interval;

use crate::prometheus::{Prometheus, until};

/// Makes this call at each tick until `done` is there.
async fn meanwhile(done: impl Future<Output = ()>, mut call: impl AsyncFnMut()) {
    let calls = async {
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            call().await;
        }
    };
    tokio::select! {
        () = done => {}
        () = calls => {}
    }
}

async fn connect(redis: &RedisServer, invalidations: Invalidations) -> RedisStore<u64> {
    RedisStore::builder(redis.url()).namespace("n").invalidations(invalidations).connect().await.unwrap()
}

/// A queue for one backfill, and reads of many keys that only Redis has.
pub(crate) async fn bursts_of_backfills(prometheus: &Prometheus) {
    let redis = RedisServer::start().await;
    let below: ChainCache<u64> = ChainCache::builder().tier(connect(&redis, Invalidations::Off).await).build().unwrap();
    below.set_many((0..200_u64).map(|key| (key, key))).await.unwrap();
    let chain: ChainCache<u64> = ChainCache::builder()
        .tier(Tier::new(QuickCacheStore::new(10).unwrap()).name("memory"))
        .tier(Tier::new(connect(&redis, Invalidations::Tracking).await).name("redis"))
        .backfill_items(1)
        .metrics("bursts")
        .build()
        .unwrap();
    let labels = [("cache", "bursts")];
    meanwhile(prometheus.fires("CacheBackfillsDropped", &labels), async || {
        chain.get_many(0..200_u64).await.unwrap();
    })
    .await;
    prometheus.resolves("CacheBackfillsDropped", &labels).await;
}

/// A store announces its changes by pub/sub, and another program writes without announcements.
pub(crate) async fn writes_that_are_not_announced(prometheus: &Prometheus) {
    let redis = RedisServer::start().await;
    let other: ChainCache<u64> = ChainCache::builder().tier(connect(&redis, Invalidations::Off).await).build().unwrap();
    let chain: ChainCache<u64> = ChainCache::builder()
        .tier(Tier::new(QuickCacheStore::new(10).unwrap()).name("memory"))
        .tier(Tier::new(connect(&redis, Invalidations::PubSub).await).name("redis"))
        .coherence(Coherence::new().heartbeat(Duration::from_millis(100)).audit(1))
        .metrics("audited")
        .build()
        .unwrap();
    until("trusted memory", async || (!chain.stats().coherence.trusted).then(String::new)).await;
    other.set(1, 1).await.unwrap();
    // From memory, from now on.
    chain.get(1).await.unwrap();
    chain.wait().await.unwrap();
    other.set(1, 2).await.unwrap();
    let labels = [("cache", "audited")];
    meanwhile(prometheus.fires("CacheMemoryDisagrees", &labels), async || {
        chain.get(1).await.unwrap();
    })
    .await;
    // Samples that wait are no longer in memory then.
    chain.invalidate_all().await.unwrap();
    prometheus.resolves("CacheMemoryDisagrees", &labels).await;
}

/// Reads of keys that are there, and then of keys that are not.
pub(crate) async fn keys_that_are_nowhere(prometheus: &Prometheus) {
    let chain: ChainCache<u64> = ChainCache::builder()
        .tier(Tier::new(QuickCacheStore::new(10).unwrap()).name("memory"))
        .metrics("reads")
        .build()
        .unwrap();
    chain.set(1, 1).await.unwrap();
    let before = async {
        let query = r#"rate(cache_requests_total{cache="reads", result="hit"}[4s] offset 15s) > 10"#;
        until("a quarter of an hour", async || prometheus.query(query).await.is_empty().then(String::new)).await;
    };
    meanwhile(before, async || assert_eq!(chain.get(1).await.unwrap(), Some(1))).await;
    let labels = [("cache", "reads")];
    let missing = prometheus.fires("CacheHitRatioCollapsed", &labels);
    meanwhile(missing, async || assert_eq!(chain.get(2).await.unwrap(), None)).await;
    let found = prometheus.resolves("CacheHitRatioCollapsed", &labels);
    meanwhile(found, async || assert_eq!(chain.get(1).await.unwrap(), Some(1))).await;
}
