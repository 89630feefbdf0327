//! The chain in front of a real Redis.

use std::time::Duration;

use cache_chain::{ChainCache, ErrorKind, Tier, Ttl};
use cache_core::{
    DelegateCache, Key, LocalStore, Store,
    testkit::{
        Do::{self, Clear, Del, Get, GetMany, Set},
        MapStore, Operation, Schedules, ScriptedStore, Turnstile, race,
    },
};
use integration_tests::{RedisServer, eventually};
use store_redis::RedisStore;
use store_stretto::StrettoStore;

async fn store<V>(server: &RedisServer, namespace: &str) -> RedisStore<V>
where
    V: Clone + Send + Sync + serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    RedisStore::builder(server.url()).namespace(namespace).connect().await.unwrap()
}

/// On a slow machine a tier's timeout would be one more effect.
fn patient<S: Store<Value = u32>>(store: &ScriptedStore<S>) -> Tier<u32>
where
    ScriptedStore<S>: Clone,
{
    Tier::new(store.clone()).timeout(Duration::from_secs(3600))
}

/// Every order of the effects of concurrent operations, in memory and on Redis.
#[tokio::test]
async fn g1_no_order_of_effects_resurrects_an_older_value() {
    let server = RedisServer::start().await;
    let redis = store::<u32>(&server, "g1").await;
    let below = DelegateCache::new(redis.clone());
    let races: &[&[&[Do]]] = &[
        &[&[Get], &[Del]],
        &[&[Get], &[Set(1)]],
        &[&[Get], &[Clear, Get]],
        &[&[GetMany], &[Set(1), Del]],
        &[&[Get], &[Set(1)], &[Del]],
        &[&[Set(1)], &[Set(2)]],
    ];
    for tasks in races {
        let mut schedules = Schedules::all();
        while schedules.next() {
            below.set("k", 0).await.unwrap();
            let memory = MapStore::new();
            let (upper, lower) = (ScriptedStore::new(memory.clone()), ScriptedStore::new(redis.clone()));
            // The echoes of writes arrive when they like, so with a stream the orders would not repeat.
            let tiers = ChainCache::builder().tier(patient(&upper)).tier(patient(&lower));
            let chain = tiers.no_coherence().build().unwrap();
            let turnstile = Turnstile::default();
            turnstile.control(&upper);
            turnstile.control(&lower);
            race(&chain, "k", tasks, &turnstile, &mut schedules).await;

            let held = LocalStore::get(&memory, &Key::new("k").unwrap()).and_then(cache_core::Entry::into_value);
            let stored = below.get("k").await.unwrap();
            let path = schedules.path();
            assert!(held.is_none() || held == stored, "{held:?} above {stored:?}: {tasks:?}, schedule {path:?}");
        }
    }
}

/// Redis in the middle, with its leases, above an origin.
#[tokio::test]
async fn g1_redis_in_the_middle_refuses_late_backfills() {
    let server = RedisServer::start().await;
    let redis = store::<u32>(&server, "g1").await;
    let middle = DelegateCache::new(redis.clone());
    let races: &[&[&[Do]]] =
        &[&[&[Get], &[Del]], &[&[Get], &[Set(1)]], &[&[GetMany], &[Clear]], &[&[Set(1)], &[Set(2)]]];
    for tasks in races {
        let mut schedules = Schedules::all();
        while schedules.next() {
            let origin = MapStore::new();
            let bottom = DelegateCache::new(origin.clone());
            bottom.set("k", 0).await.unwrap();
            middle.del("k").await.unwrap();
            let (redis, origin) = (ScriptedStore::new(redis.clone()), ScriptedStore::new(origin));
            let chain = ChainCache::builder().tier(patient(&redis)).tier(patient(&origin)).build().unwrap();
            let turnstile = Turnstile::default();
            turnstile.control(&redis);
            turnstile.control(&origin);
            race(&chain, "k", tasks, &turnstile, &mut schedules).await;

            let (held, stored) = (middle.get("k").await.unwrap(), bottom.get("k").await.unwrap());
            let path = schedules.path();
            assert!(held.is_none() || held == stored, "{held:?} above {stored:?}: {tasks:?}, schedule {path:?}");
        }
    }
}

/// What the user's document describes, on the real stores.
#[tokio::test]
async fn hits_backfills_and_deletes_through_memory_and_redis() {
    let server = RedisServer::start().await;
    let memory = StrettoStore::<String>::new(1000).unwrap();
    let emptied = DelegateCache::new(memory.clone());
    let chain = ChainCache::builder().tier(memory).tier(store::<String>(&server, "users").await).build().unwrap();

    chain.set_with_ttl(("acme", 42), "Ada".to_owned(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "users:acme:42"]), "1");
    emptied.clear().await.unwrap();
    let (value, ttl) = chain.get_with_ttl(("acme", 42)).await.unwrap().unwrap();
    let remaining = ttl.as_duration().unwrap();
    assert_eq!(value, "Ada");
    assert!(remaining <= Duration::from_secs(60) && remaining > Duration::from_secs(50), "{remaining:?}");
    chain.wait().await.unwrap();
    let (_, backfilled) = emptied.get_with_ttl(("acme", 42)).await.unwrap().expect("backfilled");
    assert!(backfilled.as_duration().unwrap() <= remaining, "a life grew");

    chain.del(("acme", 42)).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "users:acme:42"]), "0");
    assert_eq!(chain.get(("acme", 42)).await.unwrap(), None);

    chain.set_many((0..100).map(|at| (at, at.to_string()))).await.unwrap();
    server.cli(&["SET", "others:1", "kept"]);
    chain.clear().await.unwrap();
    assert_eq!(chain.get_many(0..100).await.unwrap(), vec![None; 100]);
    assert_eq!(server.cli(&["DBSIZE"]), "1");
}

#[tokio::test]
async fn a_key_without_a_ttl_comes_back_from_redis_without_one() {
    let server = RedisServer::start().await;
    let memory = StrettoStore::<u8>::new(1000).unwrap();
    let emptied = DelegateCache::new(memory.clone());
    let chain = ChainCache::builder().tier(memory).tier(store::<u8>(&server, "n").await).build().unwrap();
    chain.set("k", 7).await.unwrap();
    emptied.clear().await.unwrap();
    assert_eq!(chain.get_with_ttl("k").await.unwrap(), Some((7, Ttl::Never)));
    chain.wait().await.unwrap();
    assert_eq!(emptied.get_with_ttl("k").await.unwrap(), Some((7, Ttl::Never)));
}

/// G7: Redis hangs, dies and comes back, below memory and above an origin.
#[tokio::test]
async fn g7_a_redis_that_hangs_or_dies_degrades_to_the_other_tiers() {
    let mut server = RedisServer::start().await;
    let redis = RedisStore::<u8>::builder(server.url())
        .namespace("g7")
        .timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    let origin = MapStore::new();
    let bottom = DelegateCache::new(origin.clone());
    let chain = ChainCache::builder().tier(MapStore::new()).tier(redis).tier(origin).build().unwrap();

    bottom.set("a", 1).await.unwrap();
    server.stop();
    assert_eq!(chain.get("a").await.unwrap(), Some(1));
    assert_eq!(chain.stats().tiers[1].timeouts, 1);
    assert_eq!(chain.get("absent").await.unwrap_err().kind(), ErrorKind::Timeout);
    let error = chain.set("a", 2).await.unwrap_err();
    assert_eq!(error.failures().len(), 1);
    assert_eq!((error.failures()[0].name(), error.kind()), ("L2 redis", ErrorKind::Timeout));
    assert_eq!(bottom.get("a").await.unwrap(), Some(2));
    server.resume();
    eventually("a set works again", async || chain.set("a", 3).await.ok()).await;
    assert_eq!(chain.get("a").await.unwrap(), Some(3));

    server.kill();
    bottom.set("b", 1).await.unwrap();
    assert_eq!(chain.get("b").await.unwrap(), Some(1));
    assert_eq!(chain.get("absent").await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = chain.del("a").await.unwrap_err();
    assert_eq!((error.failures()[0].name(), error.kind()), ("L2 redis", ErrorKind::Unavailable));
    server.restart();
    eventually("a del works again", async || chain.del("a").await.ok()).await;
    assert_eq!(chain.get("a").await.unwrap(), None);
    assert_eq!(chain.get("absent").await.unwrap(), None);
}

/// G5 with Redis as the target of backfills that hang.
#[tokio::test]
async fn g5_ten_thousand_hits_while_redis_takes_no_backfills() {
    let server = RedisServer::start().await;
    let builder = RedisStore::builder(server.url()).namespace("g5").timeout(Duration::from_secs(60));
    let redis = ScriptedStore::new(builder.connect().await.unwrap());
    let origin = MapStore::new();
    DelegateCache::new(origin.clone()).set_many((0..10_000_u32).map(|at| (at, at))).await.unwrap();
    let chain = ChainCache::builder().tier(patient(&redis)).tier(origin).backfill_items(500).build().unwrap();
    let fills = redis.stall(Operation::Fill);
    for at in 0..10_000_u32 {
        assert_eq!(chain.get(at).await.unwrap(), Some(at));
    }
    let backfill = chain.stats().backfill;
    assert_eq!(backfill.queued + backfill.dropped, 10_000);
    assert!(backfill.items <= 500 && backfill.applied == 0, "{backfill:?}");
    fills.open();
    chain.wait().await.unwrap();
    assert!(chain.stats().backfill.applied > 0);
}
