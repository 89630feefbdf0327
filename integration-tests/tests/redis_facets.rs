//! What an entry says besides its value, kept in Redis.

use std::{io, sync::Arc, time::Duration};

use cache_chain::{ChainCache, Loaded, ReadThrough};
use cache_core::{Clock as _, Entry, Expiry, Moment, Store as _, SystemClock, Ticket, Write, codec, testkit::MapStore};
use integration_tests::{RedisServer, eventually, key, never};
use store_redis::RedisStore;

/// What a busy machine may add to an age; far less than the ages here.
const SLACK: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3600);

fn after(ttl: Duration) -> Expiry {
    Expiry::after(SystemClock.now(), ttl.into())
}

fn ago(time: Duration) -> Moment {
    SystemClock.now().minus(time).expect("the clock's origin is far away")
}

fn write<V>(entry: &Entry<V>, ticket: Ticket) -> Write<V>
where
    V: Clone,
{
    Write { key: key("k"), entry: entry.clone(), ticket }
}

async fn store(server: &RedisServer) -> RedisStore<u32> {
    RedisStore::builder(server.url()).namespace("n").connect().await.unwrap()
}

#[tokio::test]
async fn a_backfill_does_not_make_an_old_value_young() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let made = ago(HOUR);
    for expiry in [Expiry::Never, after(HOUR)] {
        let entry = Entry::new(1, expiry).created_at(made).loaded_in(Duration::from_millis(1_500));
        for _ in 0..3 {
            ours.del(&key("k")).await.unwrap();
            let ticket = ours.lease(&key("k")).await.unwrap();
            assert!(ours.fill(write(&entry, ticket)).await.unwrap());
            let found = theirs.get(&key("k")).await.unwrap().unwrap();
            let age = SystemClock.now().since(found.created().unwrap());
            assert!(age < HOUR + SLACK, "{age:?}");
            assert!(found.created().unwrap() <= made, "it looks younger than it is");
            assert_eq!(found.load_time(), Duration::from_millis(1_500));
            // Written on by another, as from tier to tier.
            theirs.set(write(&found, Ticket::unconditional())).await.unwrap();
            let again = ours.get(&key("k")).await.unwrap().unwrap();
            assert!(again.created().unwrap() <= found.created().unwrap(), "it grew younger");
            assert_eq!(again.expiry().min(found.expiry()), again.expiry(), "its life grew");
        }
    }
}

#[tokio::test]
async fn an_unknown_age_stays_unknown_in_a_fill_and_a_set_makes_a_new_value() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let entry = Entry::new(1, after(HOUR));
    assert!(store.fill(write(&entry, Ticket::unconditional())).await.unwrap());
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().created(), None);
    let before = SystemClock.now();
    store.set(write(&entry, Ticket::unconditional())).await.unwrap();
    let made = store.get(&key("k")).await.unwrap().unwrap().created().unwrap();
    assert!(SystemClock.now().since(made) < SLACK && before.since(made) < SLACK, "{made:?}");
    // And it needs no extended header: its flags are that it expires, and no other.
    assert_eq!(server.raw(&[b"GETRANGE", b"n:k", b"0", b"4"]), b"MLC\x03\x02");
}

#[tokio::test]
async fn the_news_that_there_is_no_value_is_kept() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let absent = Entry::absent(after(HOUR)).fresh_until(after(HOUR / 2)).created_at(ago(Duration::ZERO));
    let ticket = ours.lease(&key("k")).await.unwrap();
    assert!(ours.fill(write(&absent, ticket)).await.unwrap());
    let found = theirs.get_many(&[key("k"), key("l")]).await;
    let news = found[0].as_ref().unwrap().as_ref().unwrap();
    assert!(news.is_absent() && !news.is_stale(SystemClock.now()));
    assert!(news.stale_at().remaining(SystemClock.now()).as_duration().unwrap() <= HOUR / 2);
    assert_eq!(*found[1].as_ref().unwrap(), None, "nobody knows anything of this key");
    // It is a lease as any record is.
    assert_eq!(theirs.lease(&key("k")).await.unwrap(), ticket);
    assert!(theirs.fill(write(&Entry::new(2, Expiry::Never), ticket)).await.unwrap());
    ours.set(write(&absent, ticket)).await.unwrap();
    assert!(theirs.get(&key("k")).await.unwrap().unwrap().is_absent());
    assert_ne!(theirs.lease(&key("k")).await.unwrap(), ticket);
}

#[tokio::test]
async fn a_validator_is_kept_and_goes_with_its_value() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let etag = |n: u32| Some(Arc::from(format!("\"etag {n}\"")));
    let found = async || theirs.get(&key("k")).await.unwrap().unwrap();
    let ticket = ours.lease(&key("k")).await.unwrap();
    assert!(ours.fill(write(&Entry::new(1, after(HOUR)).with_validator(etag(1)), ticket)).await.unwrap());
    assert_eq!(found().await.validator(), etag(1).as_ref());
    for n in 2..4 {
        let entry = Entry::new(n, after(HOUR)).fresh_until(after(HOUR / 2)).with_validator(etag(n));
        ours.set(write(&entry, Ticket::unconditional())).await.unwrap();
        assert_eq!((found().await.value(), found().await.validator()), (Some(&n), etag(n).as_ref()));
    }
    // Neither a value without one nor the absence of a value has that of the value before.
    ours.set(write(&Entry::new(4, after(HOUR)), Ticket::unconditional())).await.unwrap();
    assert_eq!(found().await.validator(), None);
    let absent = Entry::absent(after(HOUR)).with_validator(etag(5));
    ours.set(write(&absent, Ticket::unconditional())).await.unwrap();
    assert_eq!((found().await.is_absent(), found().await.validator()), (true, None));

    let builder = RedisStore::<u32>::builder(server.url()).namespace("plain");
    let plain = builder.codec(codec::Json).plain().connect().await.unwrap();
    plain.set(write(&Entry::new(1, after(HOUR)).with_validator(etag(1)), Ticket::unconditional())).await.unwrap();
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
