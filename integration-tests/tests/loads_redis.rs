//! Read-through with a real Redis among the tiers, and two chains on it as two processes have.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use cache_chain::{
    ChainBuilder, ChainCache, ErrorKind, Loaded, ReadThrough, Source, redis::RedisStore, stretto::StrettoStore,
};
use cache_core::testkit::join_all;
use integration_tests::{CutProxy, RedisServer, eventually};

/// Longer than a test may take: whoever waited so long would be noticed.
const PATIENCE: Duration = Duration::from_secs(600);

async fn chain(server: &RedisServer, settings: ReadThrough) -> ChainCache<String> {
    builder(server, settings).await.build().unwrap()
}

async fn builder(server: &RedisServer, settings: ReadThrough) -> ChainBuilder<String> {
    ChainCache::builder()
        .tier(StrettoStore::new(1000).unwrap())
        .tier(RedisStore::builder(server.url()).namespace("n").connect().await.unwrap())
        .read_through(settings.peer_wait(PATIENCE))
}

/// A loader that counts, and brings this.
fn brings<T: Send + 'static>(
    calls: &Arc<AtomicUsize>,
    outcome: io::Result<T>,
) -> impl FnOnce() -> std::future::Ready<io::Result<T>> + Send + use<T> {
    let calls = Arc::clone(calls);
    move || {
        calls.fetch_add(1, SeqCst);
        std::future::ready(outcome)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_thousand_gets_of_a_cold_key_are_one_get_of_redis() {
    let server = RedisServer::start().await;
    let writer = chain(&server, ReadThrough::new()).await;
    writer.set("k", "v".to_owned()).await.unwrap();
    let proxy = CutProxy::start(server.port()).await;
    let redis = RedisStore::builder(proxy.url()).namespace("n").connect().await.unwrap();
    let reader = ChainCache::<String>::builder().tier(StrettoStore::new(1000).unwrap()).tier(redis).build().unwrap();
    server.cli(&["CONFIG", "RESETSTAT"]);
    // The answer does not come before the last has asked.
    proxy.delay(Duration::ZERO, Duration::from_millis(200));
    for value in join_all((0..1000).map(|_| reader.get("k"))).await {
        assert_eq!(value.unwrap().as_deref(), Some("v"));
    }
    assert_eq!(server.calls(&["get", "mget"]), [1, 0]);
}

/// A lookup, a claim, a fill. A miss counts once in each tier. With coherence, the echo of the fill
/// costs one more lookup.
#[tokio::test]
async fn a_cold_load_sends_three_commands_and_a_hit_none() {
    let server = RedisServer::start().await;
    let chain = builder(&server, ReadThrough::new()).await.no_coherence().build().unwrap();
    let calls = Arc::default();
    // The first load brings the scripts.
    chain.get_or_load("first", brings(&calls, Ok("v".to_owned()))).await.unwrap();
    chain.wait().await.unwrap();
    let before = chain.stats();
    server.cli(&["CONFIG", "RESETSTAT"]);
    for _ in 0..10 {
        assert_eq!(chain.get_or_load("k", brings(&calls, Ok("v".to_owned()))).await.unwrap(), "v");
        chain.wait().await.unwrap();
    }
    assert_eq!(server.calls(&["get", "mget", "evalsha", "script|load", "time"]), [1, 0, 2, 0, 0]);
    assert_eq!(calls.load(SeqCst), 2);
    let stats = chain.stats();
    let more = |tier: usize| {
        let (now, then) = (&stats.tiers[tier], &before.tiers[tier]);
        (now.hits - then.hits, now.misses - then.misses)
    };
    assert_eq!((more(0), more(1)), ((9, 1), (0, 1)));
}

#[tokio::test]
async fn what_one_process_found_absent_or_stale_the_other_finds_so() {
    let server = RedisServer::start().await;
    let stale = || ReadThrough::new().stale_for(Duration::from_secs(3600));
    let (ours, theirs) = (chain(&server, stale()).await, chain(&server, stale()).await);
    let calls = Arc::new(AtomicUsize::new(0));
    let minute = Duration::from_secs(60);
    let absent = || Ok(Loaded::<String>::absent().ttl(minute));
    assert_eq!(ours.get_or_load("absent", brings(&calls, absent())).await.unwrap(), None);
    ours.wait().await.unwrap();
    assert_eq!(theirs.get_or_load("absent", brings(&calls, absent())).await.unwrap(), None);
    assert_eq!(calls.load(SeqCst), 1);
    assert_eq!(theirs.get("absent").await.unwrap(), None);

    let brief = |value: &str| Ok(Loaded::new(value.to_owned()).ttl(Duration::from_millis(300)));
    ours.get_or_load("stale", brings(&calls, brief("old"))).await.unwrap();
    ours.wait().await.unwrap();
    // Until it is stale in Redis.
    let outcome = eventually("a stale value", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let fresh = theirs.get("stale").await.unwrap();
        if fresh.is_some() {
            return None;
        }
        Some(theirs.get_or_load_detailed("stale", brings(&calls, brief("new"))).await.unwrap())
    })
    .await;
    assert_eq!((outcome.value.as_deref(), outcome.stale), (Some("old"), true));
    assert!(
        matches!(outcome.source, Source::Tier(_)) && outcome.age >= Some(Duration::from_millis(290)),
        "{outcome:?}"
    );
    eventually("the new value", async || (theirs.get("stale").await.unwrap().as_deref() == Some("new")).then_some(()))
        .await;
}

/// A claim is given back when its load brings nothing to store, and when it is dropped.
#[tokio::test]
async fn a_load_that_fails_or_is_cancelled_makes_way_for_another_process() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (chain(&server, ReadThrough::new()).await, chain(&server, ReadThrough::new()).await);
    let calls = Arc::new(AtomicUsize::new(0));
    let error = ours.get_or_load("k", brings::<String>(&calls, Err(io::Error::other("down")))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Loader);
    assert_eq!(theirs.get_or_load("k", brings(&calls, Ok("v".to_owned()))).await.unwrap(), "v");

    let begun = Arc::new(tokio::sync::Notify::new());
    let load = {
        let begun = Arc::clone(&begun);
        move || async move {
            begun.notify_one();
            std::future::pending::<io::Result<String>>().await
        }
    };
    let cancelled = tokio::spawn({
        let ours = ours.clone();
        async move { ours.get_or_load("l", load).await }
    });
    begun.notified().await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    assert_eq!(theirs.get_or_load("l", brings(&calls, Ok("v".to_owned()))).await.unwrap(), "v");
    let uncached =
        theirs.get_or_load("m", brings(&calls, Ok(Loaded::new("once".to_owned()).uncached()))).await.unwrap();
    assert_eq!(uncached.as_deref(), Some("once"));
    assert_eq!(ours.get_or_load("m", brings(&calls, Ok("v".to_owned()))).await.unwrap(), "v");
}
