//! Leases in a table: whatever changes a row voids its tickets, whoever does it.

use std::time::Duration;

use cache_core::{Entry, Key, Store as _, Ticket};
use integration_tests::{SqlPlace, all, eventually, key, living, never, on_each_database, void};
use store_sql::SqlStore;

on_each_database!(
    a_fill_is_refused_after_any_change,
    a_fill_disturbs_nobody,
    of_two_writers_the_second_leaves_the_key_absent,
    a_lease_expires_and_a_later_fill_is_refused,
    a_marker_lives_on_with_every_lease_and_a_value_does_not,
    an_expired_value_gives_way_to_a_marker,
    an_unconditional_fill_is_installed,
    concurrent_leases_of_an_absent_key_are_one,
);

async fn value(store: &SqlStore<u32>) -> Option<u32> {
    store.get(&key("k")).await.unwrap().and_then(Entry::into_value)
}

async fn a_fill_is_refused_after_any_change(place: SqlPlace) {
    // Two processes, as far as the database can tell.
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let key = key("k");
    let changes = ["set", "set with a ticket", "del", "clear", "DELETE", "UPDATE", "expiry", "del and another lease"];
    for batch in [false, true] {
        for present in [false, true] {
            for change in changes {
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
                    "DELETE" => place.execute("DELETE FROM {t}").await,
                    "UPDATE" => place.execute("UPDATE {t} SET write_id = write_id + 1").await,
                    "expiry" => place.execute("UPDATE {t} SET expires_at = 1").await,
                    _ => {
                        theirs.del(&key).await.unwrap();
                        theirs.lease(&key).await.unwrap();
                    }
                }
                let before = value(&theirs).await;
                let filled = if batch {
                    let other = never(&integration_tests::key("l"), 9, Ticket::unconditional());
                    let filled = all(ours.fill_many(vec![never(&key, 3, ticket), other]).await);
                    assert!(filled[1]);
                    filled[0]
                } else {
                    ours.fill(never(&key, 3, ticket)).await.unwrap()
                };
                assert!(!filled, "{change}, present: {present}");
                assert_eq!(value(&theirs).await, before, "{change}, present: {present}");
                ours.set(never(&key, 4, ticket)).await.unwrap();
                assert_eq!(value(&theirs).await, None, "{change}, present: {present}");
            }
        }
    }
}

async fn a_fill_disturbs_nobody(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let key = key("k");
    assert!(!ours.fill(never(&key, 1, void())).await.unwrap());
    assert_eq!(place.rows().await, 0);
    let first = ours.lease(&key).await.unwrap();
    assert_eq!(value(&ours).await, None, "a marker is a miss");
    assert_eq!(all(ours.get_many(&[key.clone(), key.clone()]).await), [None, None]);
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

async fn of_two_writers_the_second_leaves_the_key_absent(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let (k, l) = (key("k"), key("l"));
    for present in [false, true] {
        ours.del(&k).await.unwrap();
        if present {
            ours.set(never(&k, 1, Ticket::unconditional())).await.unwrap();
        }
        let (first, second) = (ours.lease(&k).await.unwrap(), theirs.lease(&k).await.unwrap());
        ours.set(living(&k, 2, Duration::from_secs(60))).await.unwrap();
        theirs.set(never(&k, 3, second)).await.unwrap();
        assert_eq!(place.rows().await, 0);
        ours.set(never(&k, 4, first)).await.unwrap();
        assert_eq!(value(&ours).await, None);
    }
    // In a batch each key has its own.
    let tickets = all(ours.lease_many(&[k.clone(), l.clone()]).await);
    assert_ne!(tickets[0], tickets[1]);
    theirs.del(&k).await.unwrap();
    for result in ours.set_many(vec![never(&k, 5, tickets[0]), never(&l, 6, tickets[1])]).await {
        result.unwrap();
    }
    assert_eq!(value(&ours).await, None);
    assert_eq!(ours.get(&l).await.unwrap().unwrap().into_value().unwrap(), 6);
    // And what the other has written goes there, too.
    let tickets = all(ours.lease_many(&[k.clone(), l.clone()]).await);
    theirs.set(never(&k, 7, Ticket::unconditional())).await.unwrap();
    all(ours.set_many(vec![never(&k, 8, tickets[0]), never(&l, 9, tickets[1])]).await);
    assert_eq!(value(&ours).await, None);
    assert_eq!(ours.get(&l).await.unwrap().unwrap().into_value().unwrap(), 9);
}

async fn a_lease_expires_and_a_later_fill_is_refused(place: SqlPlace) {
    let store: SqlStore<u32> = place.builder().lease_ttl(Duration::from_millis(50)).connect().await.unwrap();
    let key = key("k");
    let ticket = store.lease(&key).await.unwrap();
    let left = place.number("SELECT expires_at - {now} FROM {t}").await.unwrap();
    assert!(left <= 51, "{left}");
    let over = "SELECT COUNT(*) FROM {t} WHERE expires_at < {now}";
    eventually("the end of the lease", async || (place.number(over).await == Some(1)).then_some(())).await;
    assert!(!store.fill(never(&key, 1, ticket)).await.unwrap());
    let many = vec![never(&key, 1, ticket), never(&integration_tests::key("l"), 1, ticket)];
    assert_eq!(all(store.fill_many(many).await), [false, false]);
    assert_ne!(store.lease(&key).await.unwrap(), ticket, "an expired marker is another's to replace");
    store.set(never(&key, 1, ticket)).await.unwrap();
    assert_eq!(value(&store).await, None, "nobody knows whether another writer came between");
}

async fn a_marker_lives_on_with_every_lease_and_a_value_does_not(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    let key = key("k");
    let ticket = store.lease(&key).await.unwrap();
    place.execute("UPDATE {t} SET expires_at = expires_at - 5000").await;
    assert_eq!(store.lease(&key).await.unwrap(), ticket);
    let left = place.number("SELECT expires_at - {now} FROM {t}").await.unwrap();
    assert!((5_001..=10_001).contains(&left), "{left}");
    store.set(living(&key, 1, Duration::from_secs(5))).await.unwrap();
    store.lease(&key).await.unwrap();
    assert_eq!(store.lease_many(&[key.clone(), integration_tests::key("l")]).await.len(), 2);
    let left = place.number("SELECT MIN(expires_at) - {now} FROM {t}").await.unwrap();
    assert!(left <= 5_001, "{left}");
    assert_eq!(value(&store).await, Some(1));
}

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

async fn an_unconditional_fill_is_installed(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    assert!(store.fill(never(&key("k"), 1, Ticket::unconditional())).await.unwrap());
    assert_eq!(value(&store).await, Some(1));
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
