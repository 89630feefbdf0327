//! What lookups that find nothing leave in Redis: nothing, after a moment.

use std::{io, time::Duration};

use cache_chain::{ChainCache, ReadThrough, Tier};
use cache_core::{Origin, Store as _, Ticket, testkit::MapStore};
use integration_tests::{RedisServer, eventually, key, never};
use store_redis::RedisStore;

async fn store(server: &RedisServer) -> RedisStore<u32> {
    RedisStore::builder(server.url()).namespace("n").connect().await.unwrap()
}

fn keys(server: &RedisServer) -> u64 {
    server.cli(&["DBSIZE"]).parse().unwrap()
}

/// Memory, Redis, and an origin that has nothing.
fn chain(store: &RedisStore<u32>, settings: ReadThrough) -> ChainCache<u32> {
    let origin = Origin::new(|_| async { Ok::<_, io::Error>(None::<u32>) });
    ChainCache::builder().tier(MapStore::new()).tier(store.clone()).tier(origin).read_through(settings).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_finds_nothing_leaves_nothing_behind() {
    let server = RedisServer::start().await;
    let chain = chain(&store(&server).await, ReadThrough::new());
    for number in 0..100_u32 {
        assert_eq!(chain.get(number).await.unwrap(), None);
    }
    let several: Vec<u32> = (1000..2000).collect();
    assert!(chain.get_many(several).await.unwrap().iter().all(Option::is_none));
    for number in 0..10_u32 {
        let load = || async { Err::<u32, _>(io::Error::other("down")) };
        chain.get_or_load(number, load).await.unwrap_err();
        let load = |_: Vec<u32>| async { Err::<Vec<(u32, u32)>, _>(io::Error::other("down")) };
        chain.get_or_load_many([number, number + 100], load).await.unwrap_err();
    }
    chain.wait().await.unwrap();
    assert_eq!(keys(&server), 0);
}

/// Leases are taken faster than they can be returned. Then lookups do without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_lookups_that_find_nothing_leaves_nothing_behind() {
    let server = RedisServer::start().await;
    let builder = RedisStore::builder(server.url()).namespace("n").timeout(Duration::from_secs(30));
    let origin = Origin::new(|_| async { Ok::<_, io::Error>(None::<u32>) });
    let patient = Tier::new(builder.connect().await.unwrap()).timeout(Duration::from_secs(30));
    let chain = ChainCache::builder().tier(MapStore::new()).tier(patient).tier(origin).build().unwrap();
    let flood = (0..32_u32).map(|task| {
        let chain = chain.clone();
        tokio::spawn(async move {
            for batch in 0..20_u32 {
                let first = (task * 20 + batch) * 1000;
                assert!(chain.get_many(first..first + 1000).await.unwrap().iter().all(Option::is_none));
            }
        })
    });
    for task in flood.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    chain.wait().await.unwrap();
    assert_eq!(keys(&server), 0);
}

/// A dropped lookup goes on until its tiers' timeouts, and gives its lease back then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_lookup_leaves_nothing_behind() {
    let server = RedisServer::start().await;
    let (entered, mut has_entered) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::new(move |_| {
        entered.send(()).unwrap();
        std::future::pending::<io::Result<Option<u32>>>()
    });
    let store = store(&server).await;
    let origin = Tier::new(origin).timeout(Duration::from_millis(200));
    let chain = ChainCache::builder().tier(MapStore::new()).tier(store).tier(origin).build().unwrap();
    let reader = chain.clone();
    let reading = tokio::spawn(async move { reader.get("k").await });
    has_entered.recv().await.unwrap();
    assert_eq!(keys(&server), 1);
    reading.abort();
    reading.await.unwrap_err();
    eventually("the end of the lookup", async || (keys(&server) == 0).then_some(())).await;
}

/// Readers of a key that is being loaded share its lease, and must not give it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_give_back_the_lease_of_a_load() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    // Without claims: a load keeps the lease of its lookup.
    let chain = chain(&store, ReadThrough::new().no_peer_wait());
    let (open, opened) = tokio::sync::oneshot::channel::<()>();
    let (entered, has_entered) = tokio::sync::oneshot::channel();
    let loader = chain.clone();
    let loading = tokio::spawn(async move {
        let load = || async move {
            entered.send(()).unwrap();
            opened.await.unwrap();
            Ok::<_, io::Error>(7)
        };
        loader.get_or_load("k", load).await
    });
    has_entered.await.unwrap();
    for _ in 0..10 {
        assert_eq!(chain.get("k").await.unwrap(), None);
    }
    chain.wait().await.unwrap();
    assert_eq!(keys(&server), 1);
    open.send(()).unwrap();
    assert_eq!(loading.await.unwrap().unwrap(), 7);
    chain.wait().await.unwrap();
    let found = store.get(&key("k")).await.unwrap().and_then(cache_core::Entry::into_value);
    assert_eq!(found, Some(7), "the load's fill was refused");
}

/// The store bounds the life of a marker by what is asked for, and by its own maximum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_lives_no_longer_than_it_is_needed() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let life = |name: &str| server.cli(&["PTTL", &format!("n:{name}")]).parse::<i64>().unwrap();
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(60));
    let first = store.lease_within(&key("k"), short).await.unwrap();
    assert!((1..=2_000).contains(&life("k")), "{}", life("k"));
    // A caller that needs it for longer lengthens it, and a caller that needs it for less does not
    // shorten it.
    assert_eq!(store.lease_within(&key("k"), long).await.unwrap(), first);
    assert!((5_000..=10_000).contains(&life("k")), "{}", life("k"));
    assert_eq!(store.lease_many_within(&[key("k")], short).await.remove(0).unwrap(), first);
    assert!((2_001..=10_000).contains(&life("k")), "{}", life("k"));
    store.release_leases(&[(key("k"), first)]).await.unwrap();
    assert_eq!(keys(&server), 0);
    assert!(!store.fill(never(&key("k"), 1, first)).await.unwrap(), "its ticket is void");
    store.set(never(&key("k"), 2, Ticket::unconditional())).await.unwrap();
}

/// Plain stores of one namespace share a guard, whichever connection they use.
#[tokio::test]
async fn plain_stores_of_one_namespace_are_one_domain() {
    let server = RedisServer::start().await;
    let plain = async |namespace: &str| {
        let store = RedisStore::<u32>::builder(server.url()).namespace(namespace).plain().connect().await.unwrap();
        store.profile().domain
    };
    assert_eq!(plain("n").await, plain("n").await);
    assert_ne!(plain("n").await, plain("m").await);
}
