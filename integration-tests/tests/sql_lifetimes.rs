//! `take` and `touch` in a table.

use std::time::Duration;

use cache_core::{Clock as _, Entry, ErrorKind, Expiry, Lifetime, Store as _, SystemClock, Ticket, Write};
use integration_tests::{
    SqlPlace, key, living, never, on_each_database, remaining,
    takes::{race_takes, race_takes_and_sets, race_takes_of_what_is_written},
};
use store_sql::SqlStore;

on_each_database!(
    of_many_takes_of_two_processes_one_returns_the_entry,
    a_take_removes_what_it_does_not_return,
    a_touch_changes_the_row_and_the_record,
    a_touch_leaves_markers_and_foreign_values_alone,
);

const HOUR: Duration = Duration::from_secs(3600);

fn an_hour() -> Lifetime {
    Lifetime::new(Expiry::after(SystemClock.now(), HOUR.into()))
}

async fn touch(store: &SqlStore<u32>, name: &str, lifetime: Lifetime) -> bool {
    store.touch(&key(name), lifetime, SystemClock.now()).await.unwrap()
}

async fn of_many_takes_of_two_processes_one_returns_the_entry(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    race_takes(&ours, &theirs, 20).await;
    race_takes_and_sets(&ours, &theirs, 50).await;
    race_takes_of_what_is_written(&ours, &theirs, 100).await;
    assert_eq!(place.rows().await, 0);
}

async fn a_take_removes_what_it_does_not_return(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    // Keys that stand as they are, and one that stands as its digest.
    for name in ["k".to_owned(), "k".repeat(300)] {
        let key = key(&*name);
        let lease = theirs.lease(&key).await.unwrap();
        assert_eq!(ours.take(&key).await.unwrap(), None);
        assert_eq!(place.rows().await, 0, "a marker");
        assert!(!theirs.fill(never(&key, 1, lease)).await.unwrap());
        ours.set(living(&key, 1, HOUR)).await.unwrap();
        place.execute("UPDATE {t} SET expires_at = 1").await;
        assert_eq!(ours.take(&key).await.unwrap(), None);
        assert_eq!(place.rows().await, 0, "an expired value");
        ours.set(living(&key, 1, HOUR)).await.unwrap();
        place.execute(&format!("UPDATE {{t}} SET value = {}", place.bytes(b"foreign"))).await;
        assert_eq!(ours.take(&key).await.unwrap_err().kind(), ErrorKind::Codec);
        assert_eq!(place.rows().await, 0, "what does not decode");
        ours.set(living(&key, 7, HOUR)).await.unwrap();
        let taken = theirs.take(&key).await.unwrap().unwrap();
        assert!(taken.value() == Some(&7) && remaining(&taken) <= HOUR && remaining(&taken) > HOUR / 2, "{taken:?}");
        assert_eq!(place.rows().await, 0);
    }
    // Only the key that is taken.
    ours.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
    ours.set(never(&key("l"), 2, Ticket::unconditional())).await.unwrap();
    assert_eq!(ours.take(&key("k")).await.unwrap().and_then(Entry::into_value), Some(1));
    assert_eq!(ours.get(&key("l")).await.unwrap().and_then(Entry::into_value), Some(2));
}

async fn a_touch_changes_the_row_and_the_record(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let now = SystemClock.now();
    let at = |seconds| Expiry::after(now, Duration::from_secs(seconds).into());
    let entry = Entry::new(7, at(100)).loaded_in(Duration::from_millis(1500)).created_at(now);
    ours.set(Write::new(key("k"), entry, Ticket::unconditional())).await.unwrap();
    let ticket = ours.lease(&key("k")).await.unwrap();
    for (lifetime, ttl) in [
        (Lifetime::new(at(1000)), Some(1_000_000)),
        (Lifetime::new(at(50)).fresh_until(at(20)), Some(50_000)),
        (Lifetime::new(Expiry::Never), None),
    ] {
        assert!(touch(&theirs, "k", lifetime).await);
        let left = place.number("SELECT expires_at - {now} FROM {t}").await;
        match (ttl, left) {
            (Some(ttl), Some(left)) => assert!(left <= ttl && left > ttl - 10_000, "{left} ms instead of {ttl}"),
            (ttl, left) => assert_eq!(left, ttl),
        }
        let found = ours.get(&key("k")).await.unwrap().unwrap();
        assert!(found.expiry() <= lifetime.expiry && found.stale_at() <= lifetime.fresh_until, "{found:?}");
        assert_eq!((found.value(), found.load_time()), (Some(&7), Duration::from_millis(1500)));
        assert!(found.created().unwrap() <= now, "it has become younger");
    }
    assert!(ours.fill(never(&key("k"), 8, ticket)).await.unwrap(), "a touch voids no ticket");
}

async fn a_touch_leaves_markers_and_foreign_values_alone(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    assert!(!touch(&store, "k", an_hour()).await);
    assert_eq!(place.rows().await, 0, "no marker is left");
    let lease = store.lease(&key("l")).await.unwrap();
    assert!(!touch(&store, "l", an_hour()).await);
    assert!(store.fill(never(&key("l"), 1, lease)).await.unwrap());
    store.del(&key("l")).await.unwrap();
    let claim = store.claim(&key("k")).await.unwrap();
    assert!(!touch(&store, "k", an_hour()).await);
    assert!(store.fill(never(&key("k"), 1, claim.ticket)).await.unwrap());
    place.execute(&format!("UPDATE {{t}} SET value = {}", place.bytes(b"foreign"))).await;
    let error = store.touch(&key("k"), an_hour(), SystemClock.now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert_eq!(place.number("SELECT expires_at FROM {t}").await, None);
    assert_eq!(place.rows().await, 1);
}
