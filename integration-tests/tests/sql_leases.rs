//! Leases in a table.

use std::time::Duration;

use cache_core::{Key, Store as _};
use integration_tests::{SqlPlace, key, living, never};
use store_sql::SqlStore;

integration_tests::lease_cases!(
    on_each_database,
    an_expired_value_gives_way_to_a_marker,
    concurrent_leases_of_an_absent_key_are_one,
);

async fn an_expired_value_gives_way_to_a_marker(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    let long: Key = key("k".repeat(999).as_str());
    for key in [&key("k"), &long] {
        store.set(living(key, 1, Duration::from_secs(60))).await.unwrap();
        let old = store.lease(key).await.unwrap();
        place.execute("UPDATE {t} SET expires_at = 1").await;
        let ticket = store.lease(key).await.unwrap();
        assert_ne!(ticket, old);
        assert_eq!(store.get(key).await.unwrap(), None);
        assert!(!store.fill(never(key, 2, old)).await.unwrap());
        assert!(store.fill(never(key, 3, ticket)).await.unwrap());
        assert_eq!(store.get(key).await.unwrap().unwrap().into_value().unwrap(), 3);
    }
    assert_eq!(place.rows().await, 2);
}

async fn concurrent_leases_of_an_absent_key_are_one(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    for round in 0..20_u64 {
        let key = key(round);
        let leases = (0..8).map(|at| {
            let (store, key) = (if at % 2 == 0 { ours.clone() } else { theirs.clone() }, key.clone());
            tokio::spawn(async move { store.lease(&key).await.unwrap() })
        });
        let mut tickets = Vec::new();
        for lease in leases.collect::<Vec<_>>() {
            tickets.push(lease.await.unwrap());
        }
        assert!(tickets.iter().all(|ticket| *ticket == tickets[0]), "{tickets:?}");
        assert!(ours.fill(never(&key, 1, tickets[0])).await.unwrap());
    }
}
