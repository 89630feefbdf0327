//! Leases in Redis.

use cache_core::Store as _;
use integration_tests::{Backend as _, RedisServer, key, never, value};

integration_tests::lease_cases!(
    on_redis,
    the_scripts_come_back_when_the_server_has_forgotten_them,
    two_foreign_values_are_not_taken_for_one_write,
);

async fn the_scripts_come_back_when_the_server_has_forgotten_them(server: RedisServer) {
    let store = server.connect().await;
    let (k, l) = (key("k"), key("l"));
    for _ in 0..2 {
        server.cli(&["SCRIPT", "FLUSH"]);
        let ticket = store.lease(&k).await.unwrap();
        server.cli(&["SCRIPT", "FLUSH"]);
        assert!(store.fill(never(&k, 1, ticket)).await.unwrap());
        server.cli(&["SCRIPT", "FLUSH"]);
        store.set(never(&k, 2, ticket)).await.unwrap();
        assert_eq!(value(&store, &k).await, Some(2));
        server.cli(&["SCRIPT", "FLUSH"]);
        assert!(store.lease_many(&[k.clone(), l.clone()]).await.into_iter().all(|ticket| ticket.is_ok()));
    }
}

async fn two_foreign_values_are_not_taken_for_one_write(server: RedisServer) {
    let store = server.connect().await;
    let key = key("k");
    // They agree where a record has the id of its write.
    server.cli(&["SET", "n:k", "one:......same-bytes-here"]);
    let ticket = store.lease(&key).await.unwrap();
    server.cli(&["SET", "n:k", "two:......same-bytes-here"]);
    assert!(!store.fill(never(&key, 1, ticket)).await.unwrap());
}
