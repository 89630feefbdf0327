//! The chain of the user's drawing: memory, Redis, SQL, on real servers.

use std::{process::Stdio, time::Duration};

use cache_chain::{ChainCache, ErrorKind, Tier, Ttl};
use cache_core::{
    DelegateCache, Key, LocalStore, Store,
    testkit::{
        Do::{self, Clear, Del, Get, GetMany, Set},
        MapStore, Schedules, ScriptedStore, Turnstile, race,
    },
};
use integration_tests::{MariaDb, RedisServer, SqlPlace, eventually, on_each_database};
use store_redis::RedisStore;
use store_sql::SqlStore;
use store_stretto::StrettoStore;
use tokio::process::Command;

on_each_database!(
    a_miss_above_a_hit_below_and_both_tiers_backfilled,
    g1_no_order_of_effects_resurrects_an_older_value,
    g1_two_processes_leave_no_older_value_in_redis,
    g6_no_tier_lengthens_a_life,
    g7_the_tier_in_the_middle_hangs_or_dies,
);

async fn redis(server: &RedisServer) -> RedisStore<u32> {
    RedisStore::builder(server.url()).namespace("n").timeout(Duration::from_millis(200)).connect().await.unwrap()
}

async fn a_miss_above_a_hit_below_and_both_tiers_backfilled(place: SqlPlace) {
    let server = RedisServer::start().await;
    let (memory, redis, sql) = (StrettoStore::new(100).unwrap(), redis(&server).await, place.store::<u32>().await);
    let chain = ChainCache::builder().tier(memory.clone()).tier(redis.clone()).tier(sql.clone()).build().unwrap();
    let (memory, redis, sql) = (DelegateCache::new(memory), DelegateCache::new(redis), DelegateCache::new(sql));
    sql.set("k", 7).await.unwrap();
    assert_eq!(chain.get_with_ttl("k").await.unwrap(), Some((7, Ttl::Never)));
    chain.wait().await.unwrap();
    assert_eq!(memory.get("k").await.unwrap(), Some(7));
    assert_eq!(redis.get("k").await.unwrap(), Some(7));
    let stats = chain.stats();
    let answers: Vec<_> = stats.tiers.iter().map(|tier| (tier.hits, tier.misses)).collect();
    assert_eq!((answers, stats.backfill.applied), (vec![(0, 1), (0, 1), (1, 0)], 2));

    chain.set_many([("a", 1), ("b", 2)]).await.unwrap();
    chain.del("k").await.unwrap();
    assert_eq!(redis.get_many(["k", "a", "b"]).await.unwrap(), [None, Some(1), Some(2)]);
    assert_eq!(sql.get_many(["k", "a", "b"]).await.unwrap(), [None, Some(1), Some(2)]);
    chain.clear().await.unwrap();
    assert_eq!(sql.get_many(["a", "b"]).await.unwrap(), [None, None]);
}

/// Some of the orders in which the effects on the three stores can happen.
async fn g1_no_order_of_effects_resurrects_an_older_value(place: SqlPlace) {
    // The turnstile needs all tasks of the chain on one thread.
    tokio::task::block_in_place(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(no_order_of_effects_resurrects_an_older_value(place));
    });
}

async fn no_order_of_effects_resurrects_an_older_value(place: SqlPlace) {
    let server = RedisServer::start().await;
    let (redis, sql) = (redis(&server).await, place.store::<u32>().await);
    let (middle, bottom) = (DelegateCache::new(redis.clone()), DelegateCache::new(sql.clone()));
    let races: &[&[&[Do]]] = &[
        &[&[Get], &[Del]],
        &[&[Get], &[Set(1)]],
        &[&[GetMany], &[Clear, Get]],
        &[&[Get, Get], &[Set(1), Del], &[Set(2)]],
    ];
    for (seed, tasks) in races.iter().enumerate() {
        let mut schedules = Schedules::random(seed as u64, 25);
        while schedules.next() {
            bottom.set("k", 0).await.unwrap();
            middle.del("k").await.unwrap();
            let memory = MapStore::new();
            let turnstile = Turnstile::default();
            let chain = ChainCache::builder()
                .tier(controlled(&turnstile, memory.clone()))
                .tier(controlled(&turnstile, redis.clone()))
                .tier(controlled(&turnstile, sql.clone()))
                .build()
                .unwrap();
            race(&chain, "k", tasks, &turnstile, &mut schedules).await;

            let stored = bottom.get("k").await.unwrap();
            let above = [
                LocalStore::get(&memory, &Key::new("k").unwrap()).and_then(cache_core::Entry::into_value),
                middle.get("k").await.unwrap(),
            ];
            for held in above.into_iter().flatten() {
                assert_eq!(
                    Some(held),
                    stored,
                    "{above:?} above {stored:?}: {tasks:?}, schedule {:?}",
                    schedules.path()
                );
            }
        }
    }
}

fn controlled<S: Store<Value = u32> + Clone>(turnstile: &Turnstile, store: S) -> Tier<u32> {
    let store = ScriptedStore::new(store);
    turnstile.control(&store);
    // On a slow machine a tier's timeout would be one more effect.
    Tier::new(store).timeout(Duration::from_secs(3600))
}

/// Backfills of Redis from the database, through leases, while two processes write.
async fn g1_two_processes_leave_no_older_value_in_redis(place: SqlPlace) {
    let server = RedisServer::start().await;
    let sql = DelegateCache::new(place.store::<u64>().await);
    let redis: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    let redis = DelegateCache::new(redis);
    let peers = [1, 2].map(|seed| {
        Command::new(env!("CARGO_BIN_EXE_chain_peer"))
            .args([&server.url(), &place.url, &place.table, &seed.to_string(), "150"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    });
    for peer in peers {
        let output = peer.wait_with_output().await.unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{told}");
        let applied = told.lines().find(|line| line.starts_with("backfill: ")).unwrap();
        let applied = applied.split(", ").find(|part| part.ends_with("applied")).unwrap();
        assert_ne!(applied, "0 applied", "the peers did not backfill");
    }
    for key in 0..4 {
        let (held, stored) = (redis.get(key).await.unwrap(), sql.get(key).await.unwrap());
        assert!(held.is_none() || held == stored, "Redis holds {held:?} above {stored:?} of key {key}");
    }
}

async fn g6_no_tier_lengthens_a_life(place: SqlPlace) {
    let server = RedisServer::start().await;
    let (memory, redis, sql) = (StrettoStore::new(100).unwrap(), redis(&server).await, place.store::<u32>().await);
    let chain = ChainCache::builder().tier(memory.clone()).tier(redis.clone()).tier(sql.clone()).build().unwrap();
    let (memory, redis, sql) = (DelegateCache::new(memory), DelegateCache::new(redis), DelegateCache::new(sql));
    for ttl in [Duration::from_millis(2500), Duration::from_secs(60), Duration::from_secs(10 * 365 * 24 * 3600)] {
        chain.set_with_ttl("k", 7, ttl).await.unwrap();
        memory.clear().await.unwrap();
        redis.clear().await.unwrap();
        let (_, left) = chain.get_with_ttl("k").await.unwrap().unwrap();
        chain.wait().await.unwrap();
        let left = left.as_duration().expect("it expires");
        assert!(left <= ttl && left > ttl / 2, "{left:?} of {ttl:?}");
        let above = [memory.get_with_ttl("k").await.unwrap(), redis.get_with_ttl("k").await.unwrap()];
        for (value, backfilled) in above.into_iter().map(|found| found.expect("backfilled")) {
            assert_eq!(value, 7);
            assert!(backfilled.as_duration().expect("it expires") <= left, "{backfilled:?} above {left:?}");
        }
    }
    // Past its deadline it is gone from every tier.
    chain.set_with_ttl("k", 7, Duration::from_millis(50)).await.unwrap();
    eventually("it expires", async || chain.get("k").await.unwrap().is_none().then_some(())).await;
    assert_eq!(redis.get("k").await.unwrap(), None);
    assert_eq!(sql.get("k").await.unwrap(), None);
}

async fn g7_the_tier_in_the_middle_hangs_or_dies(place: SqlPlace) {
    let mut server = RedisServer::start().await;
    let (redis, sql) = (redis(&server).await, place.store::<u32>().await);
    // A coherent chain does not serve from memory what Redis cannot confirm.
    let tiers = ChainCache::builder().tier(MapStore::new()).tier(redis).tier(sql.clone());
    let chain = tiers.no_coherence().build().unwrap();
    let sql = DelegateCache::new(sql);
    sql.set_many([("a", 1), ("b", 2)]).await.unwrap();

    server.stop();
    assert_eq!(chain.get("a").await.unwrap(), Some(1));
    chain.wait().await.unwrap();
    assert_eq!((chain.get("a").await.unwrap(), chain.stats().tiers[0].hits), (Some(1), 1));
    assert_eq!(chain.get("absent").await.unwrap_err().kind(), ErrorKind::Timeout);
    let error = chain.set("a", 3).await.unwrap_err();
    assert_eq!(error.failures().iter().map(cache_chain::Failure::name).collect::<Vec<_>>(), ["L2 redis"]);
    assert_eq!(sql.get("a").await.unwrap(), Some(3));
    server.resume();
    eventually("Redis goes on", async || chain.set("a", 4).await.ok()).await;
    assert_eq!(chain.get("a").await.unwrap(), Some(4));

    server.kill();
    assert_eq!(chain.get("b").await.unwrap(), Some(2));
    assert_eq!(chain.get("absent").await.unwrap_err().kind(), ErrorKind::Unavailable);
    server.restart();
    eventually("Redis is back", async || chain.del("b").await.ok()).await;
    assert_eq!((chain.get("b").await.unwrap(), chain.get("absent").await.unwrap()), (None, None));
}

/// The database dies; what is above it is served, and nothing is called absent or written that is
/// not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_the_last_tier_dies() {
    let server = RedisServer::start().await;
    let mut database = MariaDb::start().await;
    let memory = MapStore::new();
    let sql: SqlStore<u32> =
        SqlStore::builder(database.url()).namespace("n").create_table().sweep_every(None).connect().await.unwrap();
    let chain = ChainCache::builder().tier(memory.clone()).tier(redis(&server).await).tier(sql).build().unwrap();
    chain.set_many([("a", 1), ("b", 2)]).await.unwrap();

    database.kill();
    assert_eq!(chain.get("a").await.unwrap(), Some(1));
    Store::clear(&memory).await.unwrap();
    assert_eq!(chain.get("a").await.unwrap(), Some(1), "from Redis");
    let error = chain.get("absent").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
    let error = chain.set("a", 3).await.unwrap_err();
    assert_eq!(error.failures().iter().map(cache_chain::Failure::name).collect::<Vec<_>>(), ["L3 mysql"]);
    // What the database holds is unknown, so nothing above claims to know.
    let error = chain.get("a").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");

    database.restart();
    eventually("the database is back", async || chain.set("b", 4).await.ok()).await;
    assert_eq!(chain.get("b").await.unwrap(), Some(4));
    // The write that failed did not reach it; what it was to replace is deleted, and not served
    // again.
    eventually("the old value is gone", async || matches!(chain.get("a").await, Ok(None)).then_some(())).await;
    assert_eq!(chain.stats().tiers[2].pending_deletes, 0);
}
