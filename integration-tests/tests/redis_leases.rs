//! Leases in Redis: whatever changes a key voids its tickets, whoever does it.

use std::time::Duration;

use cache_core::{Store as _, Ticket};
use integration_tests::{RedisServer, eventually, key, living, never, void};
use store_redis::RedisStore;

async fn store(server: &RedisServer) -> RedisStore<u32> {
    RedisStore::builder(server.url()).namespace("n").connect().await.unwrap()
}

async fn value(store: &RedisStore<u32>) -> Option<u32> {
    store.get(&key("k")).await.unwrap().and_then(cache_core::Entry::into_value)
}

#[tokio::test]
async fn a_fill_is_refused_after_any_change() {
    let server = RedisServer::start().await;
    // Two processes, as far as the server can tell.
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let key = key("k");
    for present in [false, true] {
        for change in ["set", "set with a ticket", "del", "clear", "DEL", "SET", "EXPIRE", "del and another lease"] {
            ours.clear().await.unwrap();
            if present {
                ours.set(never(&key, 1, Ticket::unconditional())).await.unwrap();
            }
            let ticket = ours.lease(&key).await.unwrap();
            match change {
                "set" => theirs.set(never(&key, 2, Ticket::unconditional())).await.unwrap(),
                "set with a ticket" => {
                    let ticket = theirs.lease(&key).await.unwrap();
                    theirs.set(never(&key, 2, ticket)).await.unwrap();
                }
                "del" => theirs.del(&key).await.unwrap(),
                "clear" => theirs.clear().await.unwrap(),
                "DEL" => assert_eq!(server.cli(&["DEL", "n:k"]), "1"),
                "SET" => assert_eq!(server.cli(&["SET", "n:k", "foreign"]), "OK"),
                "EXPIRE" => assert_eq!(server.cli(&["PEXPIREAT", "n:k", "1"]), "1"),
                _ => {
                    theirs.del(&key).await.unwrap();
                    theirs.lease(&key).await.unwrap();
                }
            }
            let found = server.raw(&[b"GET", b"n:k"]);
            assert!(!ours.fill(never(&key, 3, ticket)).await.unwrap(), "{change}, {present}");
            assert_eq!(server.raw(&[b"GET", b"n:k"]), found, "a refused fill disturbs nothing: {change}, {present}");
            let refused = ours.fill_many(vec![never(&key, 3, ticket), never(&key, 4, void())]).await;
            assert!(refused.into_iter().all(|filled| !filled.unwrap()), "{change}, {present}");
        }
    }
}

#[tokio::test]
async fn readers_share_a_lease_and_void_nobody() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let key = key("k");
    assert_eq!(value(&ours).await, None);
    let first = ours.lease(&key).await.unwrap();
    assert_eq!(value(&ours).await, None, "a marker is no value");
    assert_eq!(*ours.get_many(&[key.clone(), key.clone()]).await[0].as_ref().unwrap(), None);
    assert_eq!(theirs.lease(&key).await.unwrap(), first);
    assert!(ours.fill(never(&key, 1, first)).await.unwrap());
    assert_eq!(value(&theirs).await, Some(1));
    assert!(theirs.fill(never(&key, 1, first)).await.unwrap(), "a fill voids nobody");
    assert_eq!(theirs.lease(&key).await.unwrap(), first);
    // A writer who began before the fill is not disturbed by it.
    ours.set(never(&key, 2, first)).await.unwrap();
    assert_eq!(value(&theirs).await, Some(2));
    assert_ne!(theirs.lease(&key).await.unwrap(), first);
}

#[tokio::test]
async fn of_two_writers_the_second_leaves_the_key_absent() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let key = key("k");
    for present in [false, true] {
        ours.del(&key).await.unwrap();
        if present {
            ours.set(never(&key, 1, Ticket::unconditional())).await.unwrap();
        }
        let (first, second) = (ours.lease(&key).await.unwrap(), theirs.lease(&key).await.unwrap());
        ours.set(living(&key, 2, Duration::from_secs(60))).await.unwrap();
        theirs.set(never(&key, 3, second)).await.unwrap();
        assert_eq!(server.cli(&["EXISTS", "n:k"]), "0");
        ours.set(never(&key, 4, first)).await.unwrap();
        assert_eq!(value(&ours).await, None);
    }
    // In a batch each key has its own.
    let tickets = ours.lease_many(&[key.clone(), integration_tests::key("l")]).await;
    let [first, second] = tickets.try_into().unwrap();
    theirs.del(&key).await.unwrap();
    let writes = vec![never(&key, 5, first.unwrap()), never(&integration_tests::key("l"), 6, second.unwrap())];
    for result in ours.set_many(writes).await {
        result.unwrap();
    }
    assert_eq!(value(&ours).await, None);
    assert_eq!(ours.get(&integration_tests::key("l")).await.unwrap().unwrap().into_value().unwrap(), 6);
}

#[tokio::test]
async fn a_lease_expires_and_a_later_fill_is_refused() {
    let server = RedisServer::start().await;
    let store: RedisStore<u32> =
        RedisStore::builder(server.url()).namespace("n").lease_ttl(Duration::from_millis(50)).connect().await.unwrap();
    let key = key("k");
    let ticket = store.lease(&key).await.unwrap();
    let left: i64 = server.cli(&["PTTL", "n:k"]).parse().unwrap();
    assert!(left <= 50, "{left}");
    eventually("the end of the lease", async || (server.cli(&["EXISTS", "n:k"]) == "0").then_some(())).await;
    assert!(!store.fill(never(&key, 1, ticket)).await.unwrap());
    store.set(never(&key, 1, ticket)).await.unwrap();
    assert_eq!(value(&store).await, None, "nobody knows whether another writer came between");
}

#[tokio::test]
async fn a_marker_lives_on_with_every_lease_and_a_value_does_not() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let key = key("k");
    let ticket = store.lease(&key).await.unwrap();
    server.cli(&["PEXPIRE", "n:k", "5000"]);
    assert_eq!(store.lease(&key).await.unwrap(), ticket);
    let left: u64 = server.cli(&["PTTL", "n:k"]).parse().unwrap();
    assert!((5_001..=10_000).contains(&left), "{left}");
    store.set(living(&key, 1, Duration::from_secs(5))).await.unwrap();
    store.lease(&key).await.unwrap();
    let left: u64 = server.cli(&["PTTL", "n:k"]).parse().unwrap();
    assert!(left <= 5_000, "{left}");
}

#[tokio::test]
async fn the_scripts_come_back_when_the_server_has_forgotten_them() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let key = key("k");
    for _ in 0..2 {
        server.cli(&["SCRIPT", "FLUSH"]);
        let ticket = store.lease(&key).await.unwrap();
        server.cli(&["SCRIPT", "FLUSH"]);
        assert!(store.fill(never(&key, 1, ticket)).await.unwrap());
        server.cli(&["SCRIPT", "FLUSH"]);
        store.set(never(&key, 2, ticket)).await.unwrap();
        assert_eq!(value(&store).await, Some(2));
        server.cli(&["SCRIPT", "FLUSH"]);
        let keys = [key.clone(), integration_tests::key("l")];
        assert!(store.lease_many(&keys).await.into_iter().all(|ticket| ticket.is_ok()));
    }
}

#[tokio::test]
async fn two_foreign_values_are_not_taken_for_one_write() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let key = key("k");
    // They agree where a record has the id of its write.
    server.cli(&["SET", "n:k", "one:......same-bytes-here"]);
    let ticket = store.lease(&key).await.unwrap();
    server.cli(&["SET", "n:k", "two:......same-bytes-here"]);
    assert!(!store.fill(never(&key, 1, ticket)).await.unwrap());
}

#[tokio::test]
async fn an_unconditional_fill_is_installed() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    assert!(store.fill(never(&key("k"), 1, Ticket::unconditional())).await.unwrap());
    assert_eq!(value(&store).await, Some(1));
}
