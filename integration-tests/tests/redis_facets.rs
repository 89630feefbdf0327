//! The facets of an entry other than its value, kept in Redis.

use std::{io, time::Duration};

use cache_chain::{ChainCache, Loaded, ReadThrough};
use cache_core::{Entry, Store as _, Ticket, codec, testkit::MapStore};
use integration_tests::{
    RedisServer, eventually,
    facets::{HOUR, after, write},
    key, never,
};
use store_redis::RedisStore;

integration_tests::facet_cases!(on_redis, the_age_of_a_set_needs_no_extended_header);

async fn the_age_of_a_set_needs_no_extended_header(server: RedisServer) {
    let store: RedisStore<u32> = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    store.set(write(&Entry::new(1, after(HOUR)), Ticket::unconditional())).await.unwrap();
    // Its flags are that it expires, and no other.
    assert_eq!(server.raw(&[b"GETRANGE", b"n:k", b"0", b"4"]), b"MLC\x03\x02");
}

#[tokio::test]
async fn a_plain_value_has_no_validator() {
    let server = RedisServer::start().await;
    let builder = RedisStore::<u32>::builder(server.url()).namespace("n");
    let plain = builder.codec(codec::Json).plain().connect().await.unwrap();
    let entry = Entry::new(1, after(HOUR)).with_validator(Some("v1".into()));
    plain.set(write(&entry, Ticket::unconditional())).await.unwrap();
    let found = plain.get(&key("k")).await.unwrap().unwrap();
    assert_eq!((found.value(), found.validator()), (Some(&1), None));
}

#[tokio::test]
async fn a_plain_value_goes_when_it_would_turn_stale_and_says_nothing_of_absence() {
    let server = RedisServer::start().await;
    let builder = RedisStore::<u32>::builder(server.url()).namespace("n");
    let store = builder.codec(codec::Json).plain().connect().await.unwrap();
    let (any, stale) = (Ticket::unconditional(), Entry::new(1, after(HOUR)).fresh_until(after(HOUR / 2)));
    store.set(write(&stale, any)).await.unwrap();
    let left: u64 = server.cli(&["PTTL", "n:k"]).parse().unwrap();
    assert!(left <= 1_800_000, "{left}");
    for useless in [Entry::absent(after(HOUR)), Entry::new(2, after(HOUR)).fresh_until(after(Duration::ZERO))] {
        assert!(!store.fill(write(&useless, any)).await.unwrap());
        assert_eq!(server.cli(&["EXISTS", "n:k"]), "0", "the older value is not left in its place");
        store.set(never(&key("k"), 1, any)).await.unwrap();
        store.set(write(&useless, any)).await.unwrap();
        assert_eq!(server.cli(&["EXISTS", "n:k"]), "0");
        store.set(never(&key("k"), 1, any)).await.unwrap();
    }
}

/// What a refresh has replaced does not come back from a store that cannot say that there is no
/// value.
#[tokio::test]
async fn a_refresh_that_finds_nothing_to_keep_removes_the_plain_value() {
    let server = RedisServer::start().await;
    let builder = RedisStore::<u32>::builder(server.url()).namespace("n");
    let store = builder.codec(codec::Json).plain().connect().await.unwrap();
    for loaded in [Loaded::absent().ttl(HOUR), Loaded::absent().uncached(), Loaded::new(2).uncached()] {
        let chain: ChainCache<u32> = ChainCache::builder()
            .tier(MapStore::new())
            .tier(store.clone())
            .default_ttl(HOUR / 60)
            .read_through(ReadThrough::new().early_refresh(1e6))
            // The echo of a write would replace the entry by the plain value, which has no load time.
            .no_coherence()
            .build()
            .unwrap();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok::<_, io::Error>(1)
        };
        assert_eq!(chain.get_or_load("k", slow).await.unwrap(), 1);
        chain.wait().await.unwrap();
        assert_eq!(server.cli(&["GET", "n:k"]), "1");
        // A refresh is a matter of chance.
        eventually("the removal", async || {
            let loaded = loaded.clone();
            chain.get_or_load("k", || async { Ok::<_, io::Error>(loaded) }).await.unwrap();
            (server.cli(&["EXISTS", "n:k"]) == "0").then_some(())
        })
        .await;
    }
}
