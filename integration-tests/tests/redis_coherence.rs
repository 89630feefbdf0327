//! First tiers of several instances over one Redis: none serves what another one, or anybody else,
//! has changed longer ago than W.

use std::time::{Duration, Instant};

use cache_chain::{ChainCache, Coherence, ErrorKind, Source, Tier};
use integration_tests::{RedisServer, eventually};
use store_redis::RedisStore;
use store_stretto::StrettoStore;

type Chain = ChainCache<String>;

/// An instance of a service: memory of its own over the Redis of all.
async fn instance(url: &str) -> Chain {
    instance_with(url, Coherence::new()).await
}

async fn instance_with(url: &str, coherence: Coherence) -> Chain {
    let redis = RedisStore::<String>::builder(url).namespace("users").connect().await.unwrap();
    let memory = Tier::new(StrettoStore::new(10_000).unwrap()).name("memory");
    let chain = ChainCache::builder().tier(memory).tier(Tier::new(redis).name("redis")).coherence(coherence);
    chain.build().unwrap()
}

async fn trusted(chain: &Chain) {
    eventually("trust", async || chain.stats().coherence.trusted.then_some(())).await;
}

/// Reads until the value is in memory and is served from there.
async fn served_from_memory(chain: &Chain, key: &str) -> String {
    eventually("a hit in memory", async || {
        let found = chain.get_detailed(key).await.unwrap();
        (found.source == Source::Tier("memory".into())).then(|| found.value.unwrap())
    })
    .await
}

fn window(chain: &Chain) -> Duration {
    chain.stats().coherence.window
}

/// Returns how long the instance went on serving `old`.
async fn time_until_changed(chain: &Chain, key: &str, old: &str) -> Duration {
    let changed = Instant::now();
    eventually("the change", async || (chain.get(key).await.unwrap().as_deref() != Some(old)).then_some(())).await;
    changed.elapsed()
}

#[tokio::test]
async fn g2_an_instance_sees_what_others_change() {
    let server = RedisServer::start().await;
    let (a, b) = (instance(&server.url()).await, instance(&server.url()).await);
    trusted(&a).await;
    trusted(&b).await;
    assert_eq!(a.stats().coherence.mode, Some("tracking"));
    assert_eq!(window(&a), Duration::from_millis(1500));

    a.set("ada", "1".into()).await.unwrap();
    assert_eq!(served_from_memory(&b, "ada").await, "1");
    a.set("ada", "2".into()).await.unwrap();
    assert!(time_until_changed(&b, "ada", "1").await < window(&b));
    assert_eq!(served_from_memory(&b, "ada").await, "2");
    a.del("ada").await.unwrap();
    assert!(time_until_changed(&b, "ada", "2").await < window(&b));

    // Anybody else: an operator, another program, the server itself.
    for change in [
        ["DEL", "users:ada", "", ""].as_slice(),
        &["RENAME", "users:ada", "elsewhere", ""],
        &["PEXPIRE", "users:ada", "1", ""],
        &["FLUSHALL", "", "", ""],
        &["SET", "users:ada", "foreign", ""],
    ] {
        a.set("ada", "3".into()).await.unwrap();
        assert_eq!(served_from_memory(&b, "ada").await, "3");
        let change: Vec<&str> = change.iter().copied().filter(|part| !part.is_empty()).collect();
        server.cli(&change);
        assert!(time_until_changed(&b, "ada", "3").await < window(&b), "{change:?}");
    }
}

#[tokio::test]
async fn an_unchanged_entry_is_confirmed_without_its_value() {
    let server = RedisServer::start().await;
    let (a, b) = (instance(&server.url()).await, instance(&server.url()).await);
    trusted(&b).await;
    let large = "x".repeat(100_000);
    a.set("large", large.clone()).await.unwrap();
    served_from_memory(&b, "large").await;

    // Announced although nothing has changed.
    let before = b.stats().coherence;
    server.cli(&["CONFIG", "RESETSTAT"]);
    server.cli(&["SETRANGE", "users:large", "0", "MLC"]);
    eventually("the check", async || {
        assert_eq!(b.get("large").await.unwrap(), Some(large.clone()));
        (b.stats().coherence.checks_unchanged > before.checks_unchanged).then_some(())
    })
    .await;
    served_from_memory(&b, "large").await;
    assert_eq!(server.calls(&["get", "mget", "getrange"])[..2], [0, 0]);
    assert_eq!(b.stats().coherence.checks_changed, before.checks_changed);
}

#[tokio::test]
async fn without_the_server_nothing_unproven_is_served() {
    let mut server = RedisServer::start().await;
    let chain = instance_with(&server.url(), Coherence::new().heartbeat(Duration::from_millis(100))).await;
    let grace = Coherence::new().heartbeat(Duration::from_millis(100)).grace(Duration::from_secs(3600));
    let graceful = instance_with(&server.url(), grace).await;
    for chain in [&chain, &graceful] {
        trusted(chain).await;
        chain.set("ada", "1".into()).await.unwrap();
        served_from_memory(chain, "ada").await;
    }
    server.kill();
    let failed = eventually("an error", async || chain.get("ada").await.err()).await;
    assert!(matches!(failed.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{failed}");
    let found = eventually("grace", async || {
        let found = graceful.get_detailed("ada").await.unwrap();
        found.in_grace.then_some(found)
    })
    .await;
    assert_eq!((found.value.as_deref(), found.source), (Some("1"), Source::Tier("memory".into())));
    assert!(graceful.stats().coherence.served_in_grace > 0);

    // The restarted server has lost the value.
    server.restart();
    for chain in [&chain, &graceful] {
        eventually("the loss", async || (chain.get("ada").await.ok()?.is_none()).then_some(())).await;
        trusted(chain).await;
        assert_eq!(chain.stats().coherence.epoch, 2);
    }
    assert_eq!(graceful.get("ada").await.unwrap(), None);
}
