//! The store on the primary that sentinels name.

use std::time::{Duration, Instant};

use cache_chain::{ChainCache, Coherence, Source, Tier};
use cache_core::{Entry, ErrorKind, Store as _, Ticket};
use integration_tests::{
    Certificates, RedisSentinels, RedisServer, SentinelSettings, documented_sentinel_permissions, eventually, key,
    never, value,
};
use store_redis::{RedisConnection, RedisStore, RedisTarget};
use store_stretto::StrettoStore;

fn target(redis: &RedisSentinels) -> RedisTarget {
    RedisTarget::sentinel(redis.name(), redis.sentinel_urls())
}

async fn store(target: RedisTarget) -> RedisStore<u64> {
    RedisStore::builder(target).namespace("n").connect().await.unwrap()
}

async fn put(store: &RedisStore<u64>, value: u64) {
    eventually("a write", async || store.set(never(&key("k"), value, Ticket::unconditional())).await.ok()).await;
}

async fn found(store: &RedisStore<u64>) -> Option<u64> {
    eventually("an answer", async || store.get(&key("k")).await.ok()).await.and_then(Entry::into_value)
}

#[tokio::test]
async fn a_store_follows_failovers() {
    let redis = RedisSentinels::start().await;
    let store = store(target(&redis)).await;
    put(&store, 1).await;
    for round in 2..4 {
        let new = redis.fail_over().await;
        // An entry of the old primary is not served by the new one.
        assert_eq!(found(&store).await, None);
        put(&store, round).await;
        assert_eq!(found(&store).await, Some(round));
        assert_eq!(redis.server(new).cli(&["EXISTS", "n:k"]), "1");
    }
}

#[tokio::test]
async fn a_primary_that_dies_or_hangs_is_replaced() {
    let mut redis = RedisSentinels::start().await;
    let store = store(target(&redis)).await;
    put(&store, 1).await;
    let dead = redis.primary();
    redis.kill(dead);
    let started = Instant::now();
    store.get(&key("k")).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2), "an error within the timeout");
    redis.wait_until_replaced(dead).await;
    put(&store, 2).await;
    assert_eq!(found(&store).await, Some(2));
    redis.restart(dead);
    redis.wait_until_whole().await;

    let hanging = redis.primary();
    redis.stop(hanging);
    redis.wait_until_replaced(hanging).await;
    put(&store, 3).await;
    assert_eq!(found(&store).await, Some(3));
    redis.resume(hanging);
    redis.wait_until_whole().await;
    assert_eq!(found(&store).await, Some(3));
}

#[tokio::test]
async fn one_sentinel_that_answers_is_enough() {
    let mut redis = RedisSentinels::start().await;
    redis.kill_sentinel(0);
    redis.stop_sentinel(1);
    let store = store(target(&redis)).await;
    put(&store, 1).await;
    redis.resume_sentinel(1);
    redis.restart_sentinel(0);
}

#[tokio::test]
async fn the_latest_failover_counts() {
    let redis = RedisSentinels::start().await;
    redis.stop_sentinel(0);
    let old = redis.primary();
    redis.stop(old);
    let new = redis.wait_until_replaced(old).await;
    // It still holds that the old one is the primary, if it is asked at once.
    redis.resume_sentinel(0);
    let store: RedisStore<u64> = RedisStore::builder(target(&redis)).namespace("n").connect_lazy().unwrap();
    put(&store, 1).await;
    assert_eq!(redis.server(new).cli(&["EXISTS", "n:k"]), "1");
    redis.resume(old);
}

#[tokio::test]
async fn a_sentinel_that_names_a_replica_is_said() {
    let redis = RedisSentinels::start().await;
    let replica = (redis.primary() + 1) % 3;
    let port = redis.server(replica).port().to_string();
    assert_eq!(redis.sentinel(0).cli(&["SENTINEL", "MONITOR", "wrong", "127.0.0.1", &port, "3"]), "OK");
    let wrong = RedisTarget::sentinel("wrong", [&redis.sentinel_urls()[0]]);
    let error = RedisStore::<u64>::builder(wrong).namespace("n").connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("is a replica"), "{error}");
}

#[tokio::test]
async fn what_sentinels_do_not_know_is_said() {
    let redis = RedisSentinels::start_with(SentinelSettings {
        password: Some("hunter2".into()),
        sentinel_password: Some("swordfish".into()),
        ..SentinelSettings::default()
    })
    .await;
    let with_password = |password: &str| {
        redis
            .sentinel_urls()
            .iter()
            .map(|url| url.replace("redis://", &format!("redis://:{password}@")))
            .collect::<Vec<_>>()
    };
    let connect = async |name: &str, sentinels: Vec<String>, login: &str| {
        let target = RedisTarget::sentinel(name, sentinels).login(login);
        RedisStore::<u64>::builder(target).namespace("n").connect().await
    };
    let store = connect("cache", with_password("swordfish"), "redis://:hunter2@primary/").await.unwrap();
    put(&store, 1).await;
    assert_eq!(found(&store).await, Some(1));

    // A user of the sentinels with the documented permissions.
    let permissions = documented_sentinel_permissions();
    let user: Vec<_> =
        ["ACL", "SETUSER", "app", "on", ">octopus"].into_iter().chain(permissions.iter().map(String::as_str)).collect();
    (0..3).for_each(|sentinel| assert_eq!(redis.sentinel(sentinel).cli(&user), "OK"));
    connect(
        "cache",
        with_password("octopus").iter().map(|url| url.replace("//:", "//app:")).collect(),
        "redis://:hunter2@primary/",
    )
    .await
    .unwrap();

    let unknown = connect("other", with_password("swordfish"), "redis://:hunter2@primary/").await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Unavailable);
    assert!(unknown.to_string().contains("names a primary for `other`"), "{unknown}");
    let denied_by_sentinels = connect("cache", with_password("wrong"), "redis://:hunter2@primary/").await.unwrap_err();
    assert_eq!(denied_by_sentinels.kind(), ErrorKind::Denied, "{denied_by_sentinels}");
    let denied = connect("cache", with_password("swordfish"), "redis://:wrong@primary/").await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied, "{denied}");
    let nobody = RedisServer::start().await.url();
    let unreachable = connect("cache", vec![nobody], "redis://primary/").await.unwrap_err();
    assert_eq!(unreachable.kind(), ErrorKind::Unavailable);
    let none = connect("cache", vec![], "redis://primary/").await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidInput);
    for error in [unknown, denied_by_sentinels, denied, unreachable, none] {
        let shown = format!("{error:#} {error:?}");
        assert!(!["hunter2", "swordfish", "wrong"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
    let target = RedisTarget::sentinel("cache", with_password("swordfish")).login("redis://:hunter2@primary/");
    let connection = RedisConnection::builder(target).connect_lazy().unwrap();
    let shown = format!("{connection:?}");
    assert!(
        shown.contains("cache of 127.0.0.1") && !shown.contains("swordfish") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[tokio::test]
async fn sentinels_and_servers_speak_tls() {
    let certificates = Certificates::new();
    let authority = certificates.read("ca.crt");
    let redis = RedisSentinels::start_with(SentinelSettings {
        password: Some("hunter2".into()),
        certificates: Some(certificates),
        ..SentinelSettings::default()
    })
    .await;
    let target = RedisTarget::sentinel("cache", redis.sentinel_tls_urls()).login("rediss://:hunter2@primary/");
    let store: RedisStore<u64> =
        RedisStore::builder(target).namespace("n").root_certificate(authority).connect().await.unwrap();
    put(&store, 1).await;
    redis.fail_over().await;
    put(&store, 2).await;
    assert_eq!(value(&store, &key("k")).await, Some(2));
}

/// Memory above the primary follows a failover as well.
#[tokio::test]
async fn g2_through_a_failover() {
    let redis = RedisSentinels::start().await;
    let chain = async || {
        let store = RedisStore::<u64>::builder(target(&redis)).namespace("n").connect().await.unwrap();
        let memory = Tier::new(StrettoStore::new(1000).unwrap()).name("memory");
        let chain = ChainCache::builder().tier(memory).tier(Tier::new(store).name("redis"));
        chain.coherence(Coherence::new().heartbeat(Duration::from_millis(100))).build().unwrap()
    };
    let (a, b): (ChainCache<u64>, ChainCache<u64>) = (chain().await, chain().await);
    let serves = async |value: u64| {
        let found = b.get_detailed("k").await;
        found.is_ok_and(|found| found.source == Source::Tier("memory".into()) && found.value == Some(value))
    };
    for round in 0..3 {
        if round > 0 {
            redis.fail_over().await;
        }
        let (old, new) = (2 * round, 2 * round + 1);
        eventually("a hit in memory", async || {
            a.set("k", old).await.ok()?;
            (serves(old).await || serves(old).await || serves(old).await).then_some(())
        })
        .await;
        a.set("k", new).await.unwrap();
        let (changed, window) = (Instant::now(), b.stats().coherence.window);
        loop {
            let began = changed.elapsed();
            if !b.get("k").await.is_ok_and(|found| found == Some(old)) {
                break;
            }
            assert!(began <= window, "{old} is served {began:?} later");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
