//! The clock of the database is set back: no life grows by it.

use std::time::Duration;

use cache_core::{Clock as _, Entry, Expiry, ManualClock, Store as _, Ticket, Ttl, Write};
use integration_tests::{
    DatabaseServer, MariaDb, Postgres, Product, SqlPlace, all, eventually, key, living, never, on_each_database,
};
use store_sql::SqlStore;

const HOUR: i64 = 3600;

on_each_database!(
    an_expiring_row_from_the_future_is_a_miss_and_is_removed,
    a_row_a_moment_ahead_is_served,
    a_row_from_the_future_that_does_not_expire_is_served,
    a_claim_from_the_future_refuses_nobody,
);

async fn ahead(place: &SqlPlace, millis: i64) {
    let ahead = format!("UPDATE {{t}} SET written_at = written_at + {millis}, expires_at = expires_at + {millis}");
    place.execute(&ahead).await;
}

async fn an_expiring_row_from_the_future_is_a_miss_and_is_removed(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    let keys = [key("k"), key("l"), key("m")];
    for (value, key) in (1..).zip(&keys) {
        store.set(living(key, value, Duration::from_secs(60))).await.unwrap();
    }
    ahead(&place, HOUR * 1000).await;
    store.set(living(&keys[2], 9, Duration::from_secs(60))).await.unwrap();
    assert_eq!(store.get(&keys[0]).await.unwrap(), None);
    assert_eq!(place.rows().await, 2, "or it would be there again when the clock has come so far");
    let found = all(store.get_many(&keys).await).into_iter().map(|found| found.and_then(Entry::into_value));
    assert_eq!(found.collect::<Vec<_>>(), [None, None, Some(9)]);
    assert_eq!(place.rows().await, 1);
    // What takes its place is as any other.
    let ticket = store.lease(&keys[0]).await.unwrap();
    assert!(store.fill(never(&keys[0], 5, ticket)).await.unwrap());
    assert_eq!(store.get(&keys[0]).await.unwrap().unwrap().into_value(), Some(5));
}

async fn a_row_a_moment_ahead_is_served(place: SqlPlace) {
    let clock = ManualClock::new();
    let store: SqlStore<u32> = place.builder().clock(clock.shared()).connect().await.unwrap();
    let minute = Ttl::After(Duration::from_secs(60));
    let entry = Entry::new(1, Expiry::after(clock.now(), minute));
    store.set(Write::new(key("k"), entry, Ticket::unconditional())).await.unwrap();
    ahead(&place, 900).await;
    let left = store.get(&key("k")).await.unwrap().unwrap().remaining(clock.now());
    assert!(left.as_duration().unwrap() < Duration::from_secs(60), "{left:?}");
    assert_eq!(place.rows().await, 1);
}

async fn a_row_from_the_future_that_does_not_expire_is_served(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    store.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
    assert!(store.get(&key("k")).await.unwrap().unwrap().created().is_some());
    ahead(&place, HOUR * 1000).await;
    // It has no life that could grow, and is not lost.
    let entry = store.get(&key("k")).await.unwrap().unwrap();
    assert_eq!((entry.created(), entry.into_value()), (None, Some(1)), "its age is unknown");
    assert_eq!(place.rows().await, 1);
}

async fn a_claim_from_the_future_refuses_nobody(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let old = theirs.claim(&key("k")).await.unwrap();
    assert!(old.granted);
    assert!(!ours.claim(&key("k")).await.unwrap().granted);
    ahead(&place, HOUR * 1000).await;
    let new = ours.claim(&key("k")).await.unwrap();
    assert!(new.granted);
    assert_ne!(new.ticket, old.ticket);
    assert!(!theirs.claim(&key("k")).await.unwrap().granted, "the new one is of this time");
    assert!(ours.fill(never(&key("k"), 1, new.ticket)).await.unwrap());
    assert_eq!(ours.get(&key("k")).await.unwrap().unwrap().into_value(), Some(1));
}

async fn a_life_ends_although_the_clock_is_set_back(server: DatabaseServer<impl Product>) {
    let builder = SqlStore::builder(server.url()).namespace("n").create_table().sweep_every(None);
    let store: SqlStore<u32> = builder.connect().await.unwrap();
    let before = server.now().await;
    store.set(living(&key("k"), 1, Duration::from_secs(2))).await.unwrap();
    store.set(living(&key("l"), 1, Duration::from_secs(60))).await.unwrap();
    server.set_clock(-HOUR);
    let set_back = async || (server.now().await < before - HOUR * 1000 / 2).then_some(());
    eventually("the clock that is set back", set_back).await;
    assert_eq!(store.get(&key("k")).await.unwrap(), None);
    assert_eq!(store.get(&key("l")).await.unwrap(), None);
    // By the clock as it is, all is as ever.
    store.set(living(&key("k"), 2, Duration::from_secs(60))).await.unwrap();
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().into_value(), Some(2));
    server.set_clock(0);
    eventually("the clock that is right", async || (server.now().await >= before).then_some(())).await;
    assert_eq!(store.get(&key("l")).await.unwrap(), None, "it was removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_ends_although_the_clock_of_postgres_is_set_back() {
    a_life_ends_although_the_clock_is_set_back(Postgres::start_with_clock().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_ends_although_the_clock_of_mariadb_is_set_back() {
    a_life_ends_although_the_clock_is_set_back(MariaDb::start_with_clock().await).await;
}
